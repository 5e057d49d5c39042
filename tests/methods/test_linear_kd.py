import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import _chunked_kd, _linear_divergence, kd_loss, linear_kd_loss, lskd_loss
from ctkd_lightning.temperature import GlobalTemperature, Softening

B, T, H, H_T, V = 3, 5, 4, 6, 11


@pytest.fixture
def small_chunks(monkeypatch):
    """Four rows of logits a chunk, one a piece: neither divides the fifteen positions."""
    monkeypatch.setattr(_linear_divergence, "CHUNK_BYTES", 4 * V * 8)
    monkeypatch.setitem(_chunked_kd.CHUNK, "cpu", V)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def two_heads(positions=(B, T), vocabulary=V, dtype=torch.float64):
    """Hidden states, weight and bias of a student and of a teacher."""
    student = random(*positions, H, seed=1), random(vocabulary, H, seed=2), random(vocabulary, seed=3)
    teacher = random(*positions, H_T, seed=4), random(vocabulary, H_T, seed=5), random(vocabulary, seed=6)
    return [x.to(dtype) for x in student], [x.to(dtype) for x in teacher]


def logits(hidden, weight, bias=None):
    return F.linear(hidden, weight, bias)


def loss_and_gradients(loss, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def of_heads(student, teacher, mask=None):
    """The loss of the student's head and some values that make a temperature, without and with the logits."""

    def without(temperature):
        def loss(hidden, weight, bias, *values):
            return linear_kd_loss(
                hidden,
                weight,
                temperature(*values),
                student_bias=bias,
                teacher_hidden=teacher[0],
                teacher_weight=teacher[1],
                teacher_bias=teacher[2],
                mask=mask,
            )

        return loss

    def with_logits(temperature):
        def loss(hidden, weight, bias, *values):
            return kd_loss(logits(hidden, weight, bias), logits(*teacher), temperature(*values), mask=mask)

        return loss

    return without, with_logits


def above_one(*shape, seed=7):
    return 1 + random(*shape, seed=seed).abs()


TEMPERATURES = {
    "a number": (lambda: 2.5, []),
    "a scalar": (lambda tau: tau, [above_one()]),
    "one a sample": (lambda tau: tau, [above_one(B)]),
    "one a sample, with a last dimension": (lambda tau: tau, [above_one(B, 1)]),
    "one a token": (lambda tau: tau, [above_one(B, T)]),
    "one a token, with a last dimension": (lambda tau: tau, [above_one(B, T, 1)]),
    "two scalars": (Softening, [above_one(), above_one(seed=8), above_one(seed=9)]),
    "two a sample": (Softening, [above_one(B, 1, 1), above_one(B, 1, 1, seed=8), above_one(B, 1, seed=9)]),
    "two a token": (Softening, [above_one(B, T, 1), above_one(B, T, 1, seed=8), above_one(B, T, seed=9)]),
    "one and one a token": (Softening, [above_one(), above_one(B, T, 1, seed=8), above_one(T, seed=9)]),
    "two times": (lambda tau: Softening.at(tau, torch.empty(B, T, V)).times(1.5), [above_one(B, T)]),
    "shifts that all classes share": (
        lambda tau: Softening(tau, tau, tau.squeeze(-1), random(B, T, 1), random(B, 1, 1)),
        [above_one(B, T, 1)],
    ),
}
MASKS = {
    "no mask": None,
    "bool": random(B, T, seed=10) > 0,
    "whole numbers": (random(B, T, seed=10) > 0).long(),
    "weights": random(B, T, seed=10).clamp(min=0),
    "nothing": torch.zeros(B, T, dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("temperature", "values"), TEMPERATURES.values(), ids=TEMPERATURES)
def test_value_and_gradients_are_those_of_the_logits(small_chunks, temperature, values, mask):
    student, teacher = two_heads()
    found, expected = (
        loss_and_gradients(loss(temperature), [*student, *values]) for loss in of_heads(student, teacher, mask)
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("positions", [(), (1,), (0,), (2, 0), (7,), (2, 2, 2)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by", ["logits", "head"])
def test_any_positions_with_and_without_bias_by_either_teacher(small_chunks, positions, bias, by):
    student, teacher = ([*head[: 2 + bias]] for head in two_heads(positions))
    given = {
        "logits": {"teacher_logits": logits(*teacher)},
        "head": dict(zip(("teacher_hidden", "teacher_weight", "teacher_bias"), teacher, strict=False)),
    }[by]

    def without(tau, hidden, weight, bias=None):
        return linear_kd_loss(hidden, weight, tau, student_bias=bias, **given)

    def with_logits(tau, *head):
        return kd_loss(logits(*head), logits(*teacher), tau)

    found, expected = (loss_and_gradients(loss, [above_one(), *student]) for loss in (without, with_logits))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_torchs_own_divergence():
    (hidden, weight, bias), teacher = two_heads((7,))
    log_q, log_p = ((x / 3).log_softmax(1) for x in (logits(hidden, weight, bias), logits(*teacher)))
    expected = 9 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    found = linear_kd_loss(hidden, weight, 3.0, student_bias=bias, teacher_logits=logits(*teacher))
    torch.testing.assert_close(found, expected)


def test_the_gradients_are_the_finite_differences(small_chunks):
    student, teacher = two_heads((5,))

    def loss(hidden, weight, bias, student_tau, teacher_tau, scale):
        softening = Softening(student_tau, teacher_tau, scale)
        return linear_kd_loss(hidden, weight, softening, student_bias=bias, teacher_logits=logits(*teacher))

    values = [above_one(5, 1), above_one(5, 1, seed=8), above_one(5, seed=9)]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in (*student, *values)])


@pytest.mark.parametrize("tau", [1.0, 4.0, 15.62])
def test_float32_is_float64_to_a_part_in_a_hundred_thousand(tau):
    """At τ = 15.62 the terms of τ's gradient nearly cancel: plain float32 has three digits left of it."""
    student, teacher = two_heads((40,), 8000)
    student[2], teacher[2] = student[2].exp() / 2, teacher[2].exp() / 2  # skewed as words' frequencies are
    values = [torch.tensor(tau, dtype=torch.float64)]
    rounded = [[x.float() for x in head] for head in (student, teacher)]
    exact = [[x.double() for x in head] for head in rounded]
    expected = loss_and_gradients(of_heads(*exact)[1](lambda tau: tau), [*exact[0], *values])
    found = loss_and_gradients(of_heads(*rounded)[0](lambda tau: tau), [*rounded[0], values[0].float()])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.linalg.vector_norm(ours.double() - theirs) <= 1e-5 * torch.linalg.vector_norm(theirs)


def test_the_gradient_of_a_single_precision_temperature_is_rounded_once():
    student, teacher = two_heads((40,), 500)
    loss = of_heads(student, teacher)[0](lambda tau: tau)
    single, double = (
        loss_and_gradients(loss, [*student, torch.tensor(16.0, dtype=dtype)])[-1]
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(monkeypatch, dtype):
    """Also where a gradient scaler's factor is what lifts the gradients into float16's range."""
    monkeypatch.setattr(_linear_divergence, "WIDENED", 7 * H)
    monkeypatch.setattr(_linear_divergence, "CHUNK_BYTES", 64 * 500)
    student, teacher = two_heads((300,), 500, dtype)
    exact = [[x.double() for x in head] for head in (student, teacher)]
    tau = torch.tensor(3.0)
    scaled = [
        loss_and_gradients(lambda *inputs, loss=loss: 2**16 * loss(*inputs), [*heads[0], tau.to(heads[0][0].dtype)])
        for heads, loss in (
            ((student, teacher), of_heads(student, teacher)[0](lambda tau: tau.float())),
            (exact, of_heads(*exact)[1](lambda tau: tau)),
        )
    ]
    value, *gradients = scaled[0]
    torch.testing.assert_close(value.double(), scaled[1][0], rtol=1e-5, atol=0)
    assert [x.dtype for x in gradients] == [dtype] * 4
    for ours, theirs in zip(gradients, scaled[1][1:], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_autocast_changes_nothing():
    student, teacher = two_heads(dtype=torch.float32)
    loss = of_heads(student, teacher)[0](lambda: 2.0)
    expected = loss_and_gradients(loss, student)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(loss, student)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("least", [-1e9, -float("inf")])
def test_entries_of_the_vocabulary_that_both_networks_mask_change_nothing(least):
    student, teacher = two_heads(dtype=torch.float32)
    values = [torch.tensor(2.0), torch.tensor(3.0), torch.tensor(4.0)]
    expected = loss_and_gradients(of_heads(student, teacher)[0](Softening), [*student, *values])
    padded = [
        [hidden, F.pad(weight, (0, 0, 0, 2)), F.pad(bias, (0, 2), value=least)]
        for hidden, weight, bias in (student, teacher)
    ]
    found = loss_and_gradients(of_heads(*padded)[0](Softening), [*padded[0], *values])
    found[2:4] = [x[:V] for x in found[2:4]]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_positions_that_the_mask_leaves_out_may_be_anything_and_cost_nothing(small_chunks, value):
    (hidden, *head), (teacher_hidden, *teacher_head) = two_heads()
    mask = MASKS["bool"]

    def loss(hidden, weight, bias, *, teacher, mask):
        return linear_kd_loss(hidden, weight, 2.0, student_bias=bias, teacher_logits=teacher, mask=mask)

    teacher = logits(teacher_hidden, *teacher_head)
    expected = loss_and_gradients(
        lambda *inputs: loss(*inputs, teacher=teacher[mask], mask=None), [hidden[mask], *head]
    )
    spoilt = [x.masked_fill(~mask[..., None], value) for x in (hidden, teacher)]
    with FlopCounterMode(display=False) as operations:
        found = loss_and_gradients(lambda *inputs: loss(*inputs, teacher=spoilt[1], mask=mask), [spoilt[0], *head])
    assert operations.get_total_flops() == int(mask.sum()) * V * 6 * H
    assert not found[1][~mask].any()
    found[1] = found[1][mask]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_logit_is_computed_twice_nor_a_gradient_that_nobody_needs():
    (hidden, weight, _), (teacher_hidden, teacher_weight, _) = two_heads()

    def operations(*needed):
        for x in (hidden, weight):
            x.requires_grad_(any(x is one for one in needed))
        with FlopCounterMode(display=False) as counter:
            loss = linear_kd_loss(hidden, weight, 2.0, teacher_hidden=teacher_hidden, teacher_weight=teacher_weight)
            if needed:
                loss.backward()
        return counter.get_total_flops()

    a_pair = B * T * V
    assert operations(hidden, weight) == a_pair * (6 * H + 2 * H_T)
    assert operations(hidden) == operations(weight) == a_pair * (4 * H + 2 * H_T)
    assert operations() == a_pair * (2 * H + 2 * H_T)
    weight.requires_grad_()
    with torch.no_grad():
        assert operations() == a_pair * (2 * H + 2 * H_T)


class Largest(TorchDispatchMode):
    """The number of entries of the largest result of any operation."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


@pytest.mark.parametrize("masked", [False, True])
def test_the_logits_never_exist_as_a_whole(small_chunks, masked):
    student, teacher = two_heads((200,))
    mask = torch.arange(200) % 7 > 0 if masked else None
    with Largest() as largest:
        loss_and_gradients(of_heads(student, teacher, mask)[0](lambda tau: tau), [*student, above_one(200)])
    assert largest.entries <= 200 * H_T < 200 * V


def test_many_tokens():
    tokens = 65_536
    hidden, weight, teacher = random(tokens, 2), random(3, 2, seed=1), random(tokens, 3, seed=2)
    found, expected = (
        loss_and_gradients(loss, [hidden, weight, above_one(tokens)])
        for loss in (
            lambda hidden, weight, tau: linear_kd_loss(hidden, weight, tau, teacher_logits=teacher),
            lambda hidden, weight, tau: kd_loss(hidden @ weight.T, teacher, tau),
        )
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-14)


def test_the_teacher_gets_no_gradient():
    student, teacher = two_heads()
    given = [x.requires_grad_() for x in (*student, *teacher)]
    linear_kd_loss(given[0], given[1], 2.0, teacher_logits=logits(*teacher)).backward()
    of_heads(student, teacher)[0](lambda: 2.0)(*student).backward()
    assert [x.grad is not None for x in given] == [True] * 3 + [False] * 3


def test_learned_temperature_of_the_package():
    """It reads no logits, so that anything of the batch can stand for them; the adversary's sign stays."""
    student, teacher = two_heads()
    gradients = []
    for loss, read in zip(of_heads(student, teacher), (student[0], logits(*student)), strict=True):
        temperature = GlobalTemperature().double()
        temperature.lambda_.fill_(0.7)
        loss(lambda: temperature.soften(read, read))(*student).backward()  # noqa: B023
        gradients.append(temperature.value.grad)
    assert gradients[0].abs() > 0
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=0)


def test_a_rule_by_the_logits_spread_in_closed_form():
    student, teacher = two_heads()

    def deviation(hidden, weight, bias):
        features, directions = F.pad(hidden, (0, 1), value=1.0), torch.cat([weight, bias[:, None]], dim=1)
        return ((features @ directions.T.cov()) * features).sum(dim=-1, keepdim=True).sqrt()

    def without(hidden, weight, bias):
        tau = torch.tensor(2.0)
        softening = Softening(2 * deviation(hidden, weight, bias), 2 * deviation(*teacher), tau.square())
        return linear_kd_loss(hidden, weight, softening, student_bias=bias, teacher_logits=logits(*teacher))

    found = loss_and_gradients(without, student)
    expected = loss_and_gradients(lambda *head: lskd_loss(logits(*head), logits(*teacher), 2.0), student)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_backward_twice():
    (hidden, weight, _), teacher = two_heads()
    loss = linear_kd_loss(hidden.requires_grad_(), weight.requires_grad_(), 2.0, teacher_logits=logits(*teacher))
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    kept = [x.clone() for x in first]
    second = torch.autograd.grad(3 * loss, (hidden, weight))
    for one, three, before in zip(first, second, kept, strict=True):
        assert torch.equal(one, before)
        torch.testing.assert_close(3 * one, three)


def test_a_second_derivative_is_refused():
    (hidden, weight, _), teacher = two_heads()
    loss = linear_kd_loss(hidden.requires_grad_(), weight, 2.0, teacher_logits=logits(*teacher)).square()
    with pytest.raises(UserError, match=r"no second derivative, and create_graph=True asks for one: leave it out, or"):
        torch.autograd.grad(loss, hidden, create_graph=True)


WRONG = {
    "hidden states of another width": ({"student_hidden": torch.zeros(2, 5)}, r"student_hidden has shape \(2, 5\) and"),
    "a transposed head": ({"student_weight": torch.zeros(4, 3)}, r"student_weight \(4, 3\): expected \(..., H\) and"),
    "a bias of another length": ({"student_bias": torch.zeros(4)}, r"student_bias has shape \(4,\).* each of the 3"),
    "no teacher": ({"teacher_logits": None}, "the teacher is missing: pass teacher_logits, teacher_hidden and"),
    "two teachers": (
        {"teacher_hidden": torch.zeros(2, 5), "teacher_weight": torch.zeros(3, 5)},
        "the teacher is given more than once, by teacher_logits and by teacher_hidden",
    ),
    "half a teacher": (
        {"teacher_logits": None, "teacher_hidden": torch.zeros(2, 5)},
        "teacher_hidden alone do not make the teacher's logits: pass teacher_hidden with teacher_weight",
    ),
    "a bias beside logits": ({"teacher_bias": torch.zeros(3)}, "teacher_bias alone do not make the teacher's logits"),
    "another vocabulary": (
        {"teacher_logits": torch.zeros(2, 4)},
        r"shape \(2, 3\) and teacher logits \(2, 4\): both networks must score the same positions and vocabulary",
    ),
    "other positions of a head": (
        {"teacher_logits": None, "teacher_hidden": torch.zeros(3, 5), "teacher_weight": torch.zeros(3, 5)},
        r"shape \(2, 3\) and teacher logits \(3, 3\)",
    ),
    "a mask of another shape": ({"mask": torch.ones(3)}, r"mask has shape \(3,\), the logits' positions are \(2,\)"),
    "no temperature": ({"temperature": 0.0}, "temperature must be a finite number above 0, found 0"),
    "temperatures of another batch": ({"temperature": torch.ones(5)}, r"temperature has shape \(5,\)"),
    "a temperature a class": (
        {"temperature": Softening(torch.ones(3), torch.ones(()), torch.ones(()))},
        r"student τ has shape \(3,\), an entry a class: .* take kd_loss of the logits",
    ),
    "a shift a class": (
        {"temperature": Softening(*torch.ones(3), teacher_shift=torch.ones(2, 3))},
        r"teacher shift has shape \(2, 3\), an entry a class",
    ),
    "a softening of another batch": (
        {"temperature": Softening(torch.ones(5, 1), torch.ones(5, 1), torch.ones(5))},
        r"student τ has shape \(5, 1\), expected one that broadcasts to \(2, 1\): make the softening of the same",
    ),
    "a factor of another batch": (
        {"temperature": Softening(torch.ones(()), torch.ones(()), torch.ones(5))},
        r"factor has shape \(5,\), expected one that broadcasts to \(2,\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input(change, message):
    right = {
        "student_hidden": torch.zeros(2, 4),
        "student_weight": torch.zeros(3, 4),
        "temperature": 2.0,
        "teacher_logits": torch.zeros(2, 3),
    }
    assert linear_kd_loss(**right) == 0
    with pytest.raises(UserError, match=message) as error:
        linear_kd_loss(**right | change)
    assert "\n" not in str(error.value)
