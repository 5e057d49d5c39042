import copy
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import CRD, NetworkOutput, crd_loss
from ctkd_lightning.temperature import Softening
from tests.methods.setting import NUM_SAMPLES, Setting, classes
from tests.processes import TwoRanks


def _of_few_negatives(student, teacher):
    student, teacher = (
        torch.nn.functional.normalize(x.float() if x.dtype.itemsize < 4 else x) for x in (student, teacher)
    )
    bank = torch.eye(9, 7, dtype=student.dtype)
    negatives = torch.arange(12).remainder(9).expand(len(student), 12)
    keep = negatives != classes(student).unsqueeze(1)
    return crd_loss(student, teacher, bank, negatives, 4.0, 0.5, keep)


SETTINGS = {"crd": Setting(lambda: CRD(NUM_SAMPLES, dim=4, negatives=16), _of_few_negatives)}

SOFTENING = Softening.at(4.0, torch.zeros(8, 3))


def plain_loss(anchor, positive, bank, negatives, normalizer, temperature, keep):
    """The paper's equations, one sample after the other."""
    draws, total = negatives.shape[1], len(bank)
    losses = []
    for a, p, rows, kept in zip(anchor, positive, negatives, keep, strict=True):

        def h(m, a=a):
            score = (a @ m / temperature).exp() / normalizer
            return score / (score + draws / total)

        others = [(1 - h(bank[row])).log() for row, wanted in zip(rows, kept, strict=True) if wanted]
        losses.append(-h(p).log() - draws * torch.stack(others).mean())
    return torch.stack(losses).mean()


def unit_rows(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_is_the_papers_loss():
    anchor, positive, bank = unit_rows(5, 8).requires_grad_(), unit_rows(5, 8), unit_rows(30, 8)
    negatives = torch.randint(30, (5, 12))
    keep = torch.rand(5, 12) > 0.3
    keep[:, 0] = True
    expected = plain_loss(anchor, positive, bank, negatives, 50.0, 0.2, keep)
    loss = crd_loss(anchor, positive, bank, negatives, math.log(50.0), 0.2, keep)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, anchor), torch.autograd.grad(expected, anchor))


def make(num_samples=20, **settings):
    torch.manual_seed(0)
    method = CRD(num_samples, dim=4, negatives=16, **settings)
    method.build(outputs(2), outputs(2))
    return method


def outputs(batch, width=6):
    return NetworkOutput(torch.zeros(batch, 3), {"pooled": torch.randn(batch, width)})


def step(method, index, target, seed=1):
    torch.manual_seed(seed)
    index, target = torch.tensor(index), torch.tensor(target)
    return method(outputs(len(index)), outputs(len(index)), Step(target, index), SOFTENING)


def test_memory_follows_the_embeddings_and_learns_the_classes():
    method = make(momentum=0.25)
    before = method.student_bank.clone()
    torch.manual_seed(1)
    student = outputs(2)
    embedded = torch.nn.functional.normalize(method.student_embedding(student.features["pooled"]))
    step(method, [3, 7], [0, 2])
    expected = torch.nn.functional.normalize(0.25 * before[[3, 7]] + 0.75 * embedded)
    torch.testing.assert_close(method.student_bank[[3, 7]], expected)
    others = [i for i in range(20) if i not in (3, 7)]
    assert torch.equal(method.student_bank[others], before[others])
    assert method.labels.tolist() == [0 if i == 3 else 2 if i == 7 else -1 for i in range(20)]


def test_a_sample_twice_in_a_batch_is_remembered_as_it_came_first():
    method = make(momentum=0.0)
    torch.manual_seed(1)
    embedded = torch.nn.functional.normalize(method.student_embedding(outputs(3).features["pooled"]))
    step(method, [3, 7, 3], [0, 2, 0])
    torch.testing.assert_close(method.student_bank[[3, 7]], embedded[:2])


def test_positives_are_the_memory_before_the_step_and_negatives_are_of_other_classes(monkeypatch):
    method = make()
    step(method, list(range(10)), [0] * 5 + [1] * 5)
    before = method.teacher_bank.clone()
    calls = []
    monkeypatch.setattr("ctkd_lightning.methods.crd.crd_loss", lambda *args: calls.append(args) or torch.zeros(()))
    step(method, [2, 8], [0, 1])
    _, positive, _, rows, _, _, keep = calls[0]
    assert torch.equal(positive, before[[2, 8]])
    classes = torch.tensor([0] * 5 + [1] * 5 + [-1] * 10)[rows]
    assert torch.equal(keep, classes != torch.tensor([[0], [1]]))


def test_does_not_learn_in_eval_mode():
    method = make().eval()
    before = method.student_bank.clone()
    step(method, [3, 7], [0, 2])
    assert torch.equal(method.student_bank, before)


def test_scale_is_estimated_once():
    method = make()
    step(method, [0, 1], [0, 1])
    first = method.log_normalizers.clone()
    step(method, [2, 3], [0, 1], seed=2)
    assert torch.equal(method.log_normalizers, first)


def test_scale_is_the_memorys_size_times_the_mean_score():
    method = make(num_samples=10000)
    torch.manual_seed(1)
    student = torch.nn.functional.normalize(method.student_embedding(outputs(2).features["pooled"]))
    scores = (student @ method.teacher_bank.T / 0.07).exp()
    method.negatives = 50000
    step(method, [0, 1], [0, 1])
    assert method.log_normalizers[0].item() == pytest.approx(
        scores.mean(dim=1).mean().log().item() + math.log(10000), rel=0.05
    )


def test_resumes():
    method = make()
    step(method, [0, 1], [0, 1])
    resumed = make(num_samples=None)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert step(resumed, [1, 2], [1, 0], seed=5) == step(method, [1, 2], [1, 0], seed=5)
    for name, value in method.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_draws_are_fresh_in_each_step_and_on_each_seed():
    method, other = make(), make()
    torch.manual_seed(7)
    seeded = CRD(20, dim=4, negatives=16)
    places = np.arange(3)
    first, second = method._draw(places), method._draw(places)
    assert first.shape == (3, 16)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(other._draw(places), first)
    assert not torch.equal(seeded._draw(places), first)
    method.eval()
    assert torch.equal(method._draw(places), method._draw(places))


def test_draws_are_those_of_the_samples_places_and_uniform():
    method, other = make(), make()
    whole = method._draw(np.arange(400))
    assert torch.equal(other._draw(np.array([1, 3, 399])), whole[[1, 3, 399]])
    share = whole.flatten().bincount(minlength=20) / whole.numel()
    assert share == pytest.approx(torch.full((20,), 1 / 20), abs=0.012)  # more than four deviations


def test_backward_after_the_memory_was_written():
    method = make()
    for seed in range(3):
        step(method, [0, 1], [0, 1], seed).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.parameters())


def test_all_ranks_hold_the_same_memory(tmp_path):
    def remembered(rank):
        method = make()
        # sample 4 fills up the last batch on both ranks, with different embeddings
        for batch in ([0, 1], [2, 4]), ([3, 4], [5, 4]):
            step(method, batch[rank], [0, 1], seed=10 + rank)
        return {k: v for k, v in method.state_dict().items() if "embedding" not in k}

    first, second = TwoRanks(remembered, tmp_path).results()
    assert all(torch.equal(first[key], second[key]) for key in first | second)
    seen = [i for i, label in enumerate(first["labels"]) if label >= 0]
    assert seen == [0, 1, 2, 3, 4, 5]


def train(part):
    """Three steps on a part of each batch, with the negatives of a common table: the state and the losses."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, 2, 8, 6, generator=generator)
    rows = torch.randint(20, (3, 8, 16), generator=generator)
    target = torch.arange(8)[part] % 2
    method = make()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    losses = []
    for number in range(3):
        method._draw = lambda places, number=number: rows[number, part]
        student, teacher = (NetworkOutput(torch.zeros(len(x), 3), {"pooled": x}) for x in features[number, :, part])
        index = (torch.arange(8) + 4 * number)[part]  # half of a batch is seen again in the next
        loss = method(student, teacher, Step(target, index), SOFTENING)
        optimizer.zero_grad()
        loss.backward()
        if dist.is_initialized():
            for parameter in method.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        optimizer.step()
        losses.append(loss.item())
    return dict(method.state_dict()), losses


def test_two_processes_equal_one(tmp_path):
    ranks = TwoRanks(lambda rank: train(slice(4 * rank, 4 * rank + 4)), tmp_path).results()
    expected, losses = train(slice(0, 8))
    for state, _ in ranks:
        torch.testing.assert_close(state, expected)
    halves = zip(ranks[0][1], ranks[1][1], strict=True)
    assert [(a + b) / 2 for a, b in halves] == pytest.approx(losses, rel=1e-5)


def test_wrong_use():
    method = make()
    with pytest.raises(UserError, match="CRD needs the samples' indices"):
        method(outputs(2), outputs(2), Step(torch.zeros(2)), SOFTENING)
    with pytest.raises(UserError, match="CRD has no memory: call prepare"):
        step(make(num_samples=None), [0, 1], [0, 1])
    with pytest.raises(UserError, match="CRD's momentum must be a finite number from 0 and below 1, found 1"):
        make(momentum=1)
    with pytest.raises(UserError, match="CRD's num_samples must be a whole number from 2, found 1"):
        method.prepare(1)
    with pytest.raises(UserError, match=r"negatives \(3, 2\): expected \(N, 4\) and \(2, K\)"):
        crd_loss(torch.eye(4)[:2], torch.eye(4)[:2], torch.eye(4), torch.zeros(3, 2), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": torch.zeros(2, 0, dtype=torch.long)}, r"negatives \(2, 0\): expected .*, N and K from 1"),
        ({"bank": torch.zeros(0, 4)}, r"bank has shape \(0, 4\) .*, N and K from 1"),
        ({"negatives": torch.zeros(2, 3)}, "negatives have type torch.float32: expected whole numbers"),
        ({"keep": torch.ones(2, 1, dtype=torch.bool)}, r"keep has shape \(2, 1\) .* expected .* shape \(2, 3\)"),
        ({"keep": torch.ones(2, 3)}, "keep .* type torch.float32: expected one truth value"),
    ],
)
def test_memory_draws_and_mask_that_do_not_fit(change, message):
    fitting = {"bank": torch.eye(4), "negatives": torch.zeros(2, 3, dtype=torch.long), "keep": None}
    anchor = torch.eye(4)[:2]
    with pytest.raises(UserError, match=message):
        crd_loss(anchor, anchor, log_normalizer=1.0, **{**fitting, **change})
