"""What every method has to fulfil, driven by the list in settings.py."""

import contextlib
import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lightning import methods
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step, is_preact, is_stage
from ctkd_lightning.methods import NetworkOutput
from ctkd_lightning.temperature import Softening
from tests.methods.setting import Setting, check_gradient
from tests.methods.settings import METHODS, SETTINGS, example

CLASSES = {name: METHODS[name] for name in SETTINGS}
READERS = {
    "logits": [name for name, method in CLASSES.items() if not method.needs or method.facts.classifier],
    "features": [name for name, method in CLASSES.items() if method.needs],
    "anything": list(CLASSES),
}
WITH_TEMPERATURE = [name for name, method in CLASSES.items() if method.uses_temperature]


@pytest.fixture(params=SETTINGS)
def name(request):
    return request.param


def pair(setting, batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = ((batch, *setting.student), (batch, *setting.teacher))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def functional(name, student, teacher, temperature):
    extra = [temperature] if name in WITH_TEMPERATURE else []
    return SETTINGS[name].loss(student, teacher, *extra)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_of_the_function(name, per_sample):
    if per_sample and name not in WITH_TEMPERATURE:
        pytest.skip("no temperature")
    student, teacher = pair(SETTINGS[name])
    temperature = torch.linspace(2, 6, 3, dtype=torch.float64)[:, None] if per_sample else torch.tensor(4.0).double()
    inputs = [student.requires_grad_(), teacher]
    if name in WITH_TEMPERATURE:
        inputs.append(temperature.requires_grad_())
    check_gradient(SETTINGS[name], tuple(inputs))


def test_gradients_of_a_function_that_detaches():
    def loss(student, teacher):
        return ((student - teacher).square() * student.detach().exp()).mean()

    def frozen(student, teacher, at):
        return ((student - teacher).square() * at[0].exp()).mean()

    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    inputs = (student.requires_grad_(), teacher)
    check_gradient(Setting(None, loss, frozen=frozen), inputs)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):  # without the frozen part it is no derivative
        check_gradient(Setting(None, loss), inputs)
    with pytest.raises(AssertionError, match="not close"):  # another part than the function detaches
        check_gradient(Setting(None, loss, frozen=lambda s, t, at: ((at[0] - t).square() * s.exp()).mean()), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    student, teacher = pair(SETTINGS[name], dtype=dtype)
    temperature = torch.tensor(4.0)
    expected = functional(name, student.float(), teacher.float(), temperature)
    with torch.autocast("cpu", dtype=dtype):
        loss = functional(name, student, teacher, temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_scalar_and_per_sample_temperatures_agree(name):
    student, teacher = pair(SETTINGS[name])
    losses = [functional(name, student, teacher, t) for t in (4.0, torch.tensor(4.0), torch.full((3,), 4.0))]
    losses.append(functional(name, student, teacher, torch.full((3, 1), 4.0)))
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(4))


def one_hot(case):
    for output in (case.teacher, case.student):
        output.logits.data.copy_(1e4 * torch.nn.functional.one_hot(case.target + 1, output.logits.shape[1]))


def equal_logits(case):
    for output in (case.teacher, case.student):
        output.logits.data.fill_(3.0)


def dead_features(case):
    for output in (case.teacher, case.student):
        for feature in output.features.values():
            feature.data[0] = 0  # of one sample
            feature.data[:, 0] = 0  # of one channel


def same_networks(case):
    case.teacher.logits.copy_(case.student.logits.detach())
    for role, feature in case.student.features.items():
        case.teacher.features[role].copy_(feature.detach())
        assert torch.equal(case.teacher.features[role], feature)


def masked_class(case):
    for output in (case.teacher, case.student):
        output.logits.data[:, 2] = -math.inf


def masked_classes_of_one_sample(case):
    for output in (case.teacher, case.student):
        output.logits.data[1, 2:] = torch.finfo(output.logits.dtype).min


SCALES = (1e-6, 1e-3, 1e2, 1e4)
# settings of the example, a change to it, and what a method must read for the case to say anything
HARD_CASES = {
    **{f"logits times {scale:g}": ({"logits_scale": scale}, None, "logits") for scale in SCALES},
    **{f"features times {scale:g}": ({"features_scale": scale}, None, "features") for scale in SCALES},
    "batch of one": ({"batch": 1}, None, "anything"),
    "two classes": ({"classes": 2}, None, "logits"),
    "a thousand classes": ({"classes": 1000}, None, "logits"),
    "same networks": ({"same_shapes": True}, same_networks, "anything"),
    "one-hot teacher": ({}, one_hot, "logits"),
    "equal logits": ({}, equal_logits, "logits"),
    "dead features": ({}, dead_features, "features"),
    "a masked class": ({}, masked_class, "logits"),
    "masked classes of one sample": ({}, masked_classes_of_one_sample, "logits"),
}
PRECISIONS = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "bf16 autocast": (torch.float32, torch.bfloat16),
    "fp16 autocast": (torch.float32, torch.float16),
}


@pytest.mark.parametrize("hard", HARD_CASES)
def test_loss_and_gradients_are_finite(name, hard):
    settings, change, needed = HARD_CASES[hard]
    if name not in READERS[needed]:
        pytest.skip(f"reads no {needed}")
    for precision, (dtype, autocast) in PRECISIONS.items():
        if torch.float16 in (dtype, autocast) and settings.get("features_scale") in (1e-6, 1e4):
            continue  # the features, or an adapter's product of them, leave half precision's range
        case = example(SETTINGS[name], dtype=dtype, **settings)
        if change is not None:
            change(case)
        method = case.built(SETTINGS[name])
        context = torch.autocast("cpu", dtype=autocast) if autocast else contextlib.nullcontext()
        with context:
            loss = case.loss(method)
        assert loss.shape == (), precision
        assert loss.dtype == torch.float32, precision
        assert loss.isfinite(), precision
        gradients = case.gradients(loss, method)
        assert gradients, precision
        assert all(g.isfinite().all() for g in gradients), precision


@pytest.mark.parametrize("fill", [-math.inf, "least", -1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", READERS["logits"])
def test_a_class_that_both_networks_mask_is_as_if_it_were_not_there(name, dtype, fill):
    fill = torch.finfo(dtype).min if fill == "least" else fill
    results = []
    for masks in (False, True):
        case = example(SETTINGS[name], batch=6, dtype=dtype)
        logits = case.student.logits
        if masks:  # the first of six classes, the others behind it
            case.target = case.target + 1
            column = torch.full((6, 1), fill, dtype=dtype)
            case.student.logits, case.teacher.logits = (
                torch.cat((column, output.logits), dim=1) for output in (case.student, case.teacher)
            )
            own = case.teacher.classifier
            case.teacher.classifier = nn.Linear(own.in_features, 6, dtype=dtype).requires_grad_(False)
            case.teacher.classifier.weight[1:], case.teacher.classifier.bias[1:] = own.weight, own.bias
        method = case.built(SETTINGS[name])
        sources = [logits, case.temperature, case.student.features["pooled"], *method.parameters()]
        loss = case.loss(method)
        results.append((loss.detach(), torch.autograd.grad(loss, sources, materialize_grads=True, allow_unused=True)))
    (right, expected), (loss, gradients) = results
    assert right > 0
    torch.testing.assert_close(loss, right)
    torch.testing.assert_close(gradients, expected)


def test_the_loss_of_nothing_is_zero(name):
    student, teacher = pair(SETTINGS[name], batch=0)
    temperature = torch.tensor(4.0, dtype=torch.float64, requires_grad=name in WITH_TEMPERATURE)
    loss = functional(name, student.requires_grad_(), teacher, temperature)
    assert loss == 0
    sources = [student, temperature] if name in WITH_TEMPERATURE else [student]
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, sources))


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_teaches_nothing_and_spoils_nothing(name, training):
    full, empty = example(SETTINGS[name]), example(SETTINGS[name], batch=0)
    method = full.built(SETTINGS[name]).train(training)
    before = copy.deepcopy(method.state_dict())
    loss = empty.loss(method)
    assert loss == 0
    gradients = empty.gradients(loss, method)
    assert all(not g.any() for g in gradients)
    after = method.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert [key for key in changed if key not in ("draws",)] == []
    assert full.loss(method).isfinite()


def group(role):
    return "preacts" if is_preact(role) else "stages" if is_stage(role) else None


def test_reads_only_what_it_needs(name):
    case = example(SETTINGS[name])
    method = CLASSES[name]
    for output, needs in ((case.student, method.needs), (case.teacher, method.needs_of_teacher())):
        output.features = {r: f for r, f in output.features.items() if r in needs or group(r) in needs}
    needs = method.needs
    method = case.built(SETTINGS[name])
    loss = case.loss(method)
    if not needs:  # then it works without features, and the student's logits get a gradient
        (gradient,) = torch.autograd.grad(loss, case.student.logits)
        assert gradient.any()


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_the_temperature_gets_a_gradient(name):
    case = example(SETTINGS[name])
    (gradient,) = torch.autograd.grad(case.loss(case.built(SETTINGS[name])), case.temperature)
    assert gradient.shape == (4, 1)
    assert (gradient != 0).all()


def test_all_parameters_are_trained_and_saved(name):
    case = example(SETTINGS[name])
    method = case.built(SETTINGS[name])
    case.loss(method).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    twin = example(SETTINGS[name]).built(SETTINGS[name])
    twin.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    torch.manual_seed(2)
    expected = case.loss(method)
    torch.manual_seed(2)
    torch.testing.assert_close(case.loss(twin), expected)


def test_training_its_own_parts_and_the_student_lowers_the_loss(name):
    case = example(SETTINGS[name], batch=8)
    method = case.built(SETTINGS[name])
    leaves = {case.student.logits, *case.student.features.values()}
    optimizer = torch.optim.Adam([*leaves, *method.parameters()], lr=0.05)
    losses = []
    for _ in range(15):
        torch.manual_seed(0)
        loss = case.loss(method)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["pkt", "sp", "rkd", "crd"])
def test_cost_is_at_most_quadratic_in_the_batch(name):
    # batches beyond RKD's 64 vertices; the operations of matrix products are counted
    counts = []
    for batch in (100, 200):
        student, teacher = pair(SETTINGS[name], batch)
        with FlopCounterMode(display=False) as counter:
            functional(name, student.requires_grad_(), teacher, None).backward()
        counts.append(counter.get_total_flops())
    assert 0 < counts[1] <= 4 * counts[0]


@pytest.mark.slow
def test_function_compiles(name):
    student, teacher = pair(SETTINGS[name], dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(functional, fullgraph=True)
    results = []
    for run in (functional, compiled):
        leaf, temperature = student.clone().requires_grad_(), torch.tensor(4.0, requires_grad=True)
        loss = run(name, leaf, teacher, temperature)
        leaves = [leaf, temperature] if name in WITH_TEMPERATURE else [leaf]
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


VECTORS, MAPS = (torch.zeros(2, 3),) * 2, (torch.zeros(2, 3, 4, 4),) * 2
CRD_INPUTS = (*VECTORS, torch.zeros(4, 3), torch.zeros(2, 5, dtype=torch.long))
# the settings of each class and function, with a value out of range
WRONG_SETTINGS = [
    (methods.AB, {"margin": -1.0}),
    (functools.partial(methods.ab_loss, *MAPS), {"margin": -1.0}),
    (methods.AT, {"p": 0.0}),
    (functools.partial(methods.at_loss, *MAPS), {"p": 0.0}),
    (methods.CC, {"dim": 0}),
    (methods.CRD, {"num_samples": 1, "dim": 0, "negatives": 0, "contrast_temperature": 0.0, "momentum": 1.0}),
    (functools.partial(methods.crd_loss, *CRD_INPUTS, log_normalizer=1.0), {"temperature": 0.0}),
    (functools.partial(methods.crd_loss, *CRD_INPUTS), {"log_normalizer": -math.inf}),
    (methods.DIST, {"beta": -1.0, "gamma": -1.0}),
    (functools.partial(methods.dist_loss, *VECTORS, 4.0), {"beta": -1.0, "gamma": -1.0}),
    (methods.DKD, {"alpha": -1.0, "beta": -1.0}),
    (
        functools.partial(methods.dkd_loss, *VECTORS, torch.zeros(2, dtype=torch.long), 4.0),
        {"alpha": -1.0, "beta": -1.0},
    ),
    (methods.FT, {"rate": 0.0}),
    (methods.KDSVD, {"rank": 0}),
    (functools.partial(methods.kdsvd_loss, MAPS, MAPS), {"rank": 0}),
    (methods.ReviewKD, {"max_width": 0}),
    (methods.RKD, {"distance_weight": -1.0, "angle_weight": -1.0, "vertices": 0}),
    (
        functools.partial(methods.rkd_loss, *VECTORS),
        {"distance_weight": -1.0, "angle_weight": -1.0, "vertices": 0},
    ),
    (methods.VID, {"init_variance": 1e-5, "eps": 0.0}),
]


@pytest.mark.parametrize(
    ("make", "setting", "value"),
    [
        (make, setting, value)
        for make, settings in WRONG_SETTINGS
        for setting, wrong in settings.items()
        for value in (wrong, math.nan, math.inf, "a", True)
    ],
)
def test_settings_out_of_range(make, setting, value):
    with pytest.raises(UserError, match=f"'s {setting} must be a (finite|whole) number.*, found {value!r}$"):
        make(**{setting: value})


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, "a", True])
def test_mlkds_factors_out_of_range(value):
    for make in (methods.MLKD, functools.partial(methods.mlkd_loss, *VECTORS, 4.0)):
        with pytest.raises(UserError, match=f"each of MLKD's factors must be .* above 0, found {value!r}$"):
            make(factors=[1.0, value])


SOFTENING = Softening.at(4.0, torch.zeros(2, 3))


def test_features_that_are_missing_or_parts_that_are_not_built():
    output = NetworkOutput(torch.zeros(2, 3), {"stage1": torch.zeros(2, 3, 4, 4)})
    with pytest.raises(UserError, match="the method needs the feature 'pooled', found stage1: tap a layer"):
        methods.PKT()(output, output, Step(), SOFTENING)
    with pytest.raises(UserError, match="FitNet was not built: call build"):
        methods.FitNet()(output, output, Step(), SOFTENING)
    with pytest.raises(UserError, match="the method needs the feature 'stage1', found none"):
        methods.AT()(NetworkOutput(torch.zeros(2, 3)), output, Step(), SOFTENING)
