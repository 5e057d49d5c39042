"""The rules against numpy, gradients against finite differences, what is missing, and what is refused."""

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion import TemperatureFusion

NAMES = ["image", "audio", "text"]
KINDS = ["fixed", "global", "instance"]
RULES = ["product", "mixture"]


def given(*shape, names=NAMES, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(*shape, generator=generator, dtype=torch.float64) for name in names}


def moved(fusion, seed=1):
    """With temperatures that differ: at the start all are equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in fusion.temperature.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return fusion


def by_hand(rule, logits, taus, present=None):
    """(..., C) of dictionaries of arrays, τ of shape (..., 1)."""
    there = {n: np.ones(z.shape[:-1], bool) if present is None else present[n] for n, z in logits.items()}
    if rule == "product":
        total = sum(log_softmax(z / taus[n], -1) * there[n][..., None] for n, z in logits.items())
        return log_softmax(total, -1)
    total = sum(softmax(z / taus[n], -1) * there[n][..., None] for n, z in logits.items())
    return np.log(total / sum(there[n][..., None] for n in logits))


def arrays(tensors):
    return {name: value.detach().numpy() for name, value in tensors.items()}


def close(found, expected, **tolerance):
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), **tolerance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_in_numpy(kind, rule):
    fusion = moved(TemperatureFusion(5, NAMES, kind, rule).double())
    logits = given(7, 5)
    fused, taus = fusion(logits)
    assert fused.dtype == torch.float64
    assert all(tau.shape == ((7, 1) if kind == "instance" else ()) for tau in taus.values())
    close(fused, by_hand(rule, arrays(logits), arrays(taus)))
    if kind != "fixed":
        assert len({round(float(tau.mean()), 4) for tau in taus.values()}) == 3


def test_global_temperatures_by_their_formula():
    fusion = TemperatureFusion(5, NAMES, "global", tau_min=0.5, tau_max=8.0, tau_init=2.0)
    with torch.no_grad():
        fusion.temperature.value.copy_(torch.tensor([-50.0, 0.0, 50.0]))
    _, taus = fusion(given(2, 5))
    assert [tau.item() for tau in taus.values()] == pytest.approx([0.5, 2.0, 8.0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, rule):
    widths = {"image": 4, "text": 2}
    context = {"audio": 3} if kind == "instance" else None
    fusion = TemperatureFusion(3, NAMES, kind, rule, joint=widths, context=context, hidden=4).double().eval()
    moved(fusion)
    logits, mask = given(4, 3), torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])
    features = {name: given(4, width, names=[name])[name] for name, width in widths.items()}
    extra = {"audio": given(4, 3, names=["audio"], seed=5)["audio"]} if context else None
    # the statistics that make τ are detached on purpose: by them neither scores nor the joint head have a gradient
    free = dict((fusion.temperature if kind == "instance" else fusion).named_parameters())
    prefix = "temperature." if kind == "instance" else ""

    def run(*values):
        parameters = {f"{prefix}{n}": value for n, value in zip(free, values, strict=False)}
        scores = logits if kind == "instance" else dict(zip(NAMES, values[len(free) :], strict=True))
        settings = {"mask": mask, "features": features, "context": extra}
        return torch.func.functional_call(fusion, parameters, (scores,), settings)[0]

    values = [p.detach() for p in free.values()] + ([] if kind == "instance" else list(logits.values()))
    assert torch.autograd.gradcheck(run, [value.clone().requires_grad_() for value in values], fast_mode=True)


@pytest.mark.parametrize("rule", RULES)
def test_the_scores_gradient_is_that_of_a_temperature_held_still(rule):
    fusion = moved(TemperatureFusion(3, NAMES, "instance", rule).double())
    logits = {n: z.requires_grad_() for n, z in given(4, 3).items()}
    fused, taus = fusion(logits)
    found = torch.autograd.grad(fused[:, 0].sum(), list(logits.values()))
    step = 1e-6
    for name, gradient in zip(NAMES, found, strict=True):
        for i in np.ndindex(4, 3):
            ends = []
            for sign in (1, -1):
                shifted = {n: z.detach().numpy().copy() for n, z in logits.items()}
                shifted[name][i] += sign * step
                ends.append(by_hand(rule, shifted, arrays(taus))[:, 0].sum())
            assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_half_precision_is_widened():
    fusion = moved(TemperatureFusion(5, NAMES))
    logits = {n: z.bfloat16() for n, z in given(7, 5).items()}
    fused, _ = fusion(logits)
    assert fused.dtype == torch.float32
    close(fused, fusion({n: z.float() for n, z in logits.items()})[0])
    with torch.autocast("cpu", torch.bfloat16):
        close(fusion(logits)[0], fused)
    halved = copy.deepcopy(fusion).bfloat16()
    assert {p.dtype for p in halved.temperature.parameters()} == {torch.float32}
    close(halved(logits)[0], fused)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of_scores", "of_module"), [("double", "float"), ("float", "double")])
def test_stored_scores_of_another_type(kind, of_scores, of_module):
    widths = dict.fromkeys(NAMES, 4)
    context = widths if kind == "instance" else None
    fusion = getattr(moved(TemperatureFusion(5, NAMES, kind, joint=widths, context=context)), of_module)().eval()
    logits = {n: getattr(z, of_scores)() for n, z in given(7, 5).items()}
    features = {n: getattr(z, of_scores)() for n, z in given(7, 4, seed=3).items()}
    fused, _ = fusion(logits, features=features, context=features if context else None)
    wide = fusion.double()
    features = {n: z.double() for n, z in features.items()}
    expected, _ = wide(
        {n: z.double() for n, z in logits.items()}, features=features, context=features if context else None
    )
    close(fused.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_sequences_are_samples_laid_out(kind):
    fusion = moved(TemperatureFusion(5, NAMES, kind).double())
    flat = given(24, 5)
    expected, flat_taus = fusion(flat)
    sequences, taus = fusion({n: z.reshape(4, 6, 5) for n, z in flat.items()})
    close(sequences, expected.reshape(4, 6, 5).detach())
    maps, map_taus = fusion({n: z.reshape(4, 2, 3, 5).permute(0, 3, 1, 2) for n, z in flat.items()})
    close(maps, expected.reshape(4, 2, 3, 5).permute(0, 3, 1, 2).detach())
    if kind == "instance":
        close(taus["text"], flat_taus["text"].reshape(4, 6, 1).detach())
        close(map_taus["text"], flat_taus["text"].reshape(4, 1, 2, 3).detach())
    named = TemperatureFusion(5, NAMES, kind, class_dim=1).double()
    named.load_state_dict(fusion.state_dict())
    square = {n: torch.cat([z, z[:1]]).reshape(5, 5, 5).transpose(1, 2) for n, z in flat.items()}
    close(named(square)[0][0], expected[:5].T.detach())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_labels_are_two_classes_each(task, rule):
    shape = (6,) if task == "binary" else (6, 4)
    fusion = moved(TemperatureFusion(1 if task == "binary" else 4, NAMES, "instance", rule, task=task).double())
    logits = given(*shape)
    fused, taus = fusion(logits)
    assert fused.shape == shape
    two = {n: np.stack([z, np.zeros_like(z)], -1) for n, z in arrays(logits).items()}
    expected = by_hand(rule, two, {n: tau[..., None] for n, tau in arrays(taus).items()})
    close(fused, expected[..., 0] - expected[..., 1])
    target = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    losses = fusion.losses(logits, target)
    close(losses["fused"], nn.functional.binary_cross_entropy_with_logits(fused, target).detach())
    close(losses["text"], nn.functional.binary_cross_entropy_with_logits(logits["text"], target))


def test_probabilities_by_name():
    fusion = moved(TemperatureFusion(5, NAMES).double())
    of_probabilities = TemperatureFusion(5, NAMES, scores={"audio": "probabilities"}).double()
    of_probabilities.load_state_dict(fusion.state_dict())
    logits = given(7, 5)
    close(of_probabilities(logits | {"audio": logits["audio"].softmax(-1)})[0], fusion(logits)[0].detach())


def test_losses_by_hand():
    fusion = moved(TemperatureFusion(5, NAMES, "global").double())
    logits, target = given(7, 5), torch.arange(7) % 5
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[:3, 1] = False
    losses = fusion.losses(logits, target, mask, expert_weight=0.5)
    rows = np.arange(7)
    own = {n: -log_softmax(z, -1)[rows, target] for n, z in arrays(logits).items()}
    close(losses["image"], own["image"].mean())
    close(losses["audio"], own["audio"][3:].mean())
    fused, _ = fusion(logits, mask)
    close(losses["fused"], -fused[rows, target].mean().detach())
    total = own["image"].mean() + own["audio"][3:].mean() + own["text"].mean()
    close(losses["loss"], losses["fused"].detach() + 0.5 * total)


def test_padded_positions_count_nowhere():
    fusion = moved(TemperatureFusion(5, NAMES).double())
    logits, target = given(3, 4, 5), torch.arange(12).reshape(3, 4) % 5
    padded = target.clone()
    padded[:, 2:] = -100
    found = fusion.losses(logits, padded)
    expected = fusion.losses({n: z[:, :2] for n, z in logits.items()}, target[:, :2])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        close(value, expected[name].detach())


class TestMissing:
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_masks_in_numpy(self, kind, rule):
        fusion = moved(TemperatureFusion(5, NAMES, kind, rule).double())
        logits = given(7, 5)
        mask = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
        fused, taus = fusion(logits, mask)
        present = {n: mask[:, m].bool().numpy() for m, n in enumerate(NAMES)}
        close(fused, by_hand(rule, arrays(logits), arrays(taus), present))
        if kind == "instance":
            for m, name in enumerate(NAMES):
                assert torch.equal(taus[name].squeeze(1).isinf(), mask[:, m] == 0)
        by_name = fusion(logits, {"audio": mask[:, 1], "image": mask[:, 0].bool(), "text": mask[:, 2:3].float()})
        close(by_name[0], fused.detach())

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("kind", ["fixed", "global"])
    def test_one_missing_is_the_fusion_of_the_others(self, kind, rule):
        fusion = moved(TemperatureFusion(5, NAMES, kind, rule).double())
        two = TemperatureFusion(5, ["image", "text"], kind, rule).double()
        if kind == "global":
            with torch.no_grad():
                two.temperature.value.copy_(fusion.temperature.value[[0, 2]])
        logits = given(7, 5)
        expected = two({n: logits[n] for n in ("image", "text")})[0].detach()
        close(fusion(logits, {"audio": torch.zeros(7)})[0], expected)
        close(fusion(logits | {"audio": None})[0], expected)

    def test_what_is_missing_is_not_seen(self):
        widths = dict.fromkeys(NAMES, 4)
        fusion = TemperatureFusion(5, NAMES, joint=widths, context=widths).double().eval()
        moved(fusion)
        logits, features = given(7, 5), given(7, 4, seed=3)
        mask = torch.ones(7, 3)
        mask[::2, 1] = 0
        results = []
        for content in (0.0, 1e3, torch.nan, torch.inf):
            other = {n: z.clone() for n, z in logits.items()}
            vectors = {n: z.clone() for n, z in features.items()}
            other["audio"][::2] = vectors["audio"][::2] = content
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # that they are missing was said
                fused, taus = fusion(other, mask, features=vectors, context=vectors)
            gradients = torch.autograd.grad(fused[:, 0].sum(), list(fusion.parameters()))
            results.append([fused.detach(), *(taus[n].detach() for n in fusion.names), *gradients])
        for result in results[1:]:
            for found, expected in zip(result, results[0], strict=True):
                assert torch.equal(found, expected)

    def test_one_of_two_alone_agrees_with_nobody(self):
        fusion = moved(TemperatureFusion(5, ["image", "audio"]).double())
        logits = given(7, 5, names=["image", "audio"])
        fused, _ = fusion(logits | {"audio": None})
        _, taus = fusion(logits, torch.tensor([[1, 0]]).expand(7, 2))
        close(fused, log_softmax(logits["image"].numpy() / taus["image"].detach().numpy(), -1))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_all_missing_gives_the_prior(self, kind, rule):
        prior = [0.5, 0.25, 0.25]
        fusion = TemperatureFusion(3, NAMES, kind, rule, prior=[2.0, 1.0, 1.0])
        logits = {n: z.float().requires_grad_() for n, z in given(4, 3).items()}
        mask = torch.ones(4, 3)
        mask[1] = 0
        fused, _ = fusion(logits, mask)
        assert torch.equal(fused[1], torch.tensor(prior).log())
        fused.exp()[:, 0].sum().backward()
        assert all(z.grad.isfinite().all() and (z.grad[1] == 0).all() for z in logits.values())
        assert all(p.grad.isfinite().all() for p in fusion.parameters())
        uniform = TemperatureFusion(3, NAMES, kind, rule)(logits, mask)[0][1]
        close(uniform, torch.full((3,), 1 / 3).log())

    @pytest.mark.parametrize(("task", "shape"), [("binary", (4,)), ("binary", (4, 1)), ("multilabel", (4, 2))])
    def test_the_prior_of_labels(self, task, shape):
        prior = [0.8] if task == "binary" else [0.8, 0.1]
        fusion = TemperatureFusion(len(prior), NAMES, task=task, prior=prior)
        fused, _ = fusion(given(*shape), torch.zeros(4, 3))
        close(fused.double().sigmoid(), torch.tensor(prior).double().expand(4, -1).reshape(shape), rtol=1e-5, atol=1e-6)

    def test_one_entry_a_position(self):
        fusion = moved(TemperatureFusion(5, NAMES).double())
        logits = given(3, 4, 5)
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[0, 2] = mask[1, 0] = False
        fused, taus = fusion(logits, {"text": mask})
        flat, _ = fusion({n: z.flatten(0, 1) for n, z in logits.items()}, {"text": mask.flatten()})
        close(fused.flatten(0, 1), flat.detach())
        assert torch.equal(taus["text"].squeeze(-1).isfinite(), mask)
        columns = torch.stack([torch.ones_like(mask), torch.ones_like(mask), mask], dim=-1)
        close(fusion(logits, columns)[0], fused.detach())

    @pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("kind", KINDS)
    def test_numbers_that_are_not_finite(self, kind, broken):
        fusion = moved(TemperatureFusion(5, NAMES, kind).double())
        logits = given(7, 5)
        mask = torch.ones(7, 3)
        mask[2, 1] = 0
        expected, _ = fusion(logits, mask)
        logits["audio"][2] = broken
        if broken != -torch.inf:
            logits["audio"][2, 1:] = 1.0
        leaves = {n: z.clone().requires_grad_() for n, z in logits.items()}
        with pytest.warns(UserWarning, match="scores of 'audio' are NaN or infinite"):
            fused, _ = fusion(leaves)
        close(fused, expected.detach())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once
            fusion.losses(leaves, torch.arange(7) % 5)["loss"].backward()
        assert all(z.grad.isfinite().all() for z in leaves.values())
        assert all(p.grad.isfinite().all() for p in fusion.parameters())

    def test_features_and_context_that_are_not_finite(self):
        widths = dict.fromkeys(NAMES, 4)
        fusion = moved(TemperatureFusion(5, NAMES, joint=widths, context=widths).double().eval())
        features = given(7, 4, seed=3)
        features["text"][3, 0] = torch.nan
        with pytest.warns(UserWarning, match="features of 'text' are NaN or infinite"):
            losses = fusion.losses(given(7, 5), torch.arange(7) % 5, features=features, context=features)
        losses["loss"].backward()
        assert losses["loss"].isfinite()
        assert all(p.grad.isfinite().all() for p in fusion.parameters())

    @pytest.mark.parametrize("rule", RULES)
    def test_masked_classes(self, rule):
        """One class is out of the question for one modality: for the product for all, for the mixture for it alone."""
        fusion = moved(TemperatureFusion(4, NAMES, rule=rule).double())
        logits = given(6, 4)
        logits["audio"][:, 1] = -torch.inf
        leaves = {n: z.requires_grad_() for n, z in logits.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fused, taus = fusion(leaves)
        finite = {n: np.maximum(z, -1e30) for n, z in arrays(logits).items()}
        if rule == "product":
            assert (fused.exp()[:, 1] == 0).all()
            kept = [0, 2, 3]
            expected = by_hand(rule, {n: z[:, kept] for n, z in finite.items()}, arrays(taus))
            close(fused[:, kept], expected)
        else:
            close(fused, by_hand(rule, finite, arrays(taus)))
        fused[:, 0].sum().backward()
        assert all(z.grad.isfinite().all() for z in leaves.values())
        assert all(p.grad.isfinite().all() for p in fusion.parameters())

    def test_unnormalised_log_likelihoods_are_scores(self):
        """Of long sequences they are far below zero, all of them; where scores lie says nothing."""
        fusion = moved(TemperatureFusion(5, NAMES).double())
        logits = given(7, 5)
        fused, taus = fusion({n: z - 20000.0 for n, z in logits.items()})
        expected, expected_taus = fusion(logits)
        close(fused, expected.detach())
        close(taus["image"], expected_taus["image"].detach())


class TestTemperatures:
    @pytest.mark.parametrize("scale", [1e4, 1e-6, 0.0, 1e30])
    @pytest.mark.parametrize("kind", ["global", "instance"])
    def test_within_their_bounds_for_absurd_scores(self, kind, scale):
        fusion = moved(TemperatureFusion(5, NAMES, kind, tau_min=0.5, tau_max=20.0), seed=4)
        with torch.no_grad():
            fusion.temperature.value.mul_(100)
        logits = {n: z.float().requires_grad_() for n, z in given(50, 5, scale=scale).items()}
        fused, taus = fusion(logits)
        assert fused.isfinite().all()
        for tau in taus.values():
            assert (tau >= 0.5 * (1 - 1e-6)).all()
            assert (tau <= 20 * (1 + 1e-6)).all()
        fused[:, 0].mean().backward()
        assert all(p.grad.isfinite().all() for p in fusion.parameters())

    def test_no_encoder_is_trained_to_please_them(self):
        fusion = moved(TemperatureFusion(5, NAMES, context={"audio": 2}))
        logits = {n: z.float().requires_grad_() for n, z in given(7, 5).items()}
        context = {"audio": torch.randn(7, 2, requires_grad=True)}
        _, taus = fusion(logits, context=context)
        total = sum(tau.sum() for tau in taus.values())
        found = torch.autograd.grad(total, [*logits.values(), *context.values()], allow_unused=True)
        assert found == (None,) * 4

    @pytest.mark.parametrize("kind", ["global", "instance"])
    def test_equal_at_the_start_and_still_without_lambda(self, kind):
        fusion = TemperatureFusion(5, NAMES, kind, tau_init=3.0)
        optimizer = torch.optim.AdamW(fusion.parameters(), lr=0.1, weight_decay=0.1)
        logits, target = given(7, 5, scale=5.0), torch.arange(7) % 5
        for strength, still in ((0.0, True), (0.0, True), (1.0, False)):
            fusion.lambda_.fill_(strength)
            optimizer.zero_grad()
            fusion.losses(logits, target)["loss"].backward()
            optimizer.step()
            taus = torch.stack([tau.mean() for tau in fusion(logits)[1].values()])
            assert bool((taus - 3.0).abs().max() < 1e-5) == still

    @pytest.mark.parametrize("kind", ["global", "instance"])
    def test_lambda_scales_their_gradient_alone(self, kind):
        fusion = moved(TemperatureFusion(5, NAMES, kind).double())
        gradients = []
        for strength in (1.0, 0.25):
            fusion.lambda_.fill_(strength)
            logits = {n: z.requires_grad_() for n, z in given(7, 5).items()}
            loss = fusion.losses(logits, torch.arange(7) % 5)["loss"]
            gradients.append(torch.autograd.grad(loss, [*logits.values(), *fusion.parameters()]))
        for full, weak in zip(*gradients, strict=True):
            is_score = full.shape == (7, 5)
            close(weak, full * (1.0 if is_score else 0.25))

    @pytest.mark.parametrize("kind", ["global", "instance"])
    def test_they_lower_the_loss(self, kind):
        fusion = TemperatureFusion(5, ["image", "audio"], kind)
        target = torch.arange(40) % 5
        good = 3.0 * nn.functional.one_hot(target, 5).float()
        bad = 3.0 * nn.functional.one_hot(target.roll(7), 5).float()
        optimizer = torch.optim.Adam(fusion.parameters(), lr=0.1)
        logits, losses = {"image": good, "audio": bad}, []
        for _ in range(60):
            optimizer.zero_grad()
            loss = fusion.losses(logits, target)["fused"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        _, taus = fusion(logits)
        assert losses[-1] < 0.3 * losses[0]
        if kind == "global":
            assert taus["audio"].mean() > 5 * taus["image"].mean()

    def test_the_order_of_the_modalities_does_not_matter(self):
        order = [2, 0, 1]
        fusion = moved(TemperatureFusion(5, NAMES).double())
        other = TemperatureFusion(5, [NAMES[i] for i in order]).double()
        other.load_state_dict(
            {n: v[order] if n.startswith("temperature") else v for n, v in fusion.state_dict().items()}
        )
        logits, mask = given(7, 5), (torch.arange(21).reshape(7, 3) % 4 != 0)
        fused, taus = fusion(logits, mask)
        again, again_taus = other(logits, mask[:, order])
        close(again, fused.detach())
        for name in NAMES:
            close(again_taus[name], taus[name].detach())


def test_the_joint_head_is_one_more_expert():
    widths = {"image": 4, "text": 2}
    fusion = moved(TemperatureFusion(5, NAMES, "global", joint=widths).double().eval())
    logits = given(7, 5)
    features = {n: given(7, w, names=[n], seed=3)[n] for n, w in widths.items()}
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[0, 0] = mask[1, 2] = mask[2, 0] = mask[2, 2] = False
    fused, taus = fusion(logits, mask, features=features)
    first, _, _, second = fusion.joint.layers
    there = mask[:, [0, 2]].numpy()
    read = np.concatenate(
        [features["image"].numpy() * there[:, :1], features["text"].numpy() * there[:, 1:], there], axis=1
    )
    weights = {n: p.detach().numpy() for n, p in fusion.joint.named_parameters()}
    hidden = np.maximum(read @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0)
    scores = hidden @ weights["layers.3.weight"].T + weights["layers.3.bias"]
    assert (first.out_features, second.out_features) == (128, 5)
    present = {n: mask[:, m].numpy() for m, n in enumerate(NAMES)} | {"joint": there.any(axis=1)}
    close(fused, by_hand("product", arrays(logits) | {"joint": scores}, arrays(taus), present))
    assert list(taus) == [*NAMES, "joint"]


def test_an_empty_batch():
    fusion = TemperatureFusion(5, NAMES)
    fused, taus = fusion({n: torch.zeros(0, 5) for n in NAMES})
    assert fused.shape == (0, 5)
    assert taus["text"].shape == (0, 1)
    fusion.losses({n: torch.zeros(0, 5) for n in NAMES}, torch.zeros(0, dtype=torch.long))["loss"].backward()


def test_one_modality_is_said_to_agree_with_nobody():
    with pytest.warns(UserWarning, match="agreement has no effect: 'image' is the only modality"):
        fusion = TemperatureFusion(5, ["image"])
    logits = given(7, 5, names=["image"])
    close(fusion(logits)[0], log_softmax(logits["image"].numpy(), -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TemperatureFusion(5, ["image"], agreement=False)


REFUSED = {
    "names as a string": ({"modalities": "image"}, "must be several names"),
    "no names": ({"modalities": []}, "at least one modality"),
    "a name twice": ({"modalities": ["image", "image"]}, "different words"),
    "a dot": ({"modalities": ["image", "a.b"]}, "without a dot"),
    "a number": ({"modalities": ["image", 3]}, "different words"),
    **{
        f"named {name}": ({"modalities": ["image", name]}, f"cannot be named {name!r}")
        for name in ("train", "keys", "items", "type", "training", "loss", "fused")
    },
    "classes": ({"num_classes": 1}, "num_classes must be"),
    "two classes of one score": ({"task": "binary", "num_classes": 2}, "pass 1"),
    "kind": ({"kind": "globl"}, "did you mean global"),
    "rule": ({"rule": "sum"}, "Valid: mixture, product"),
    "task": ({"task": "multi"}, "multilabel"),
    "scores of nobody": ({"scores": {"txt": "probabilities"}}, "text"),
    "joint of nobody": ({"joint": {"imag": 3}}, "did you mean image"),
    "joint of nothing": ({"joint": {}}, "joint is empty"),
    "joint and a modality": ({"modalities": ["image", "joint"], "joint": {"image": 3}}, "named 'joint'"),
    "joint of labels": ({"joint": {"image": 3}, "task": "multilabel"}, "exclude each other"),
    "joint's width": ({"joint": {"image": 0}}, "joint's width of 'image'"),
    "context without effect": ({"context": {"image": 3}, "kind": "global"}, "leave it out"),
    "context of nobody": ({"context": {"imag": 3}}, "did you mean image"),
    "context's width": ({"context": {"image": 1.5}}, "context of 'image'"),
    "prior's size": ({"prior": [0.5, 0.5]}, "5 frequencies"),
    "negative prior": ({"prior": [-1, 1, 1, 1, 1]}, "5 frequencies"),
    "prior of labels": ({"prior": [2, 1, 1, 1, 1], "task": "multilabel"}, "probability of each label"),
    "bounds": ({"tau_min": 5.0, "tau_max": 2.0}, "tau_max must be"),
    "start": ({"tau_init": 1000.0}, "tau_init must be"),
    "hidden": ({"hidden": 0}, "hidden must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_refused(case):
    settings, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        TemperatureFusion(**({"num_classes": 5, "modalities": NAMES} | settings))
    assert "\n" not in str(error.value)


Z = given(7, 5)
BATCHES = {
    "no mapping": (([Z["image"]],), {}, "by name"),
    "a tensor": ((Z["image"],), {}, "by name"),
    "unknown": ((Z | {"txt": Z["text"]},), {}, "did you mean text"),
    "left out": (({"image": Z["image"]},), {}, "no scores of 'audio', 'text'"),
    "all None": ((dict.fromkeys(NAMES),), {}, "each modality is None"),
    "no tensor": ((Z | {"text": [1, 2]},), {}, "must be a tensor"),
    "whole numbers": ((Z | {"text": torch.ones(7, 5, dtype=torch.long)},), {}, "floating numbers"),
    "classes of one": ((Z | {"text": torch.ones(7, 4)},), {}, "those of 'text'"),
    "classes of all": (({n: z[:, :4] for n, z in Z.items()},), {}, "made for 5 classes"),
    "batch sizes": ((Z | {"text": torch.ones(6, 5)},), {}, r"\(6, 5\)"),
    "one dimension": (({n: z[0] for n, z in Z.items()},), {}, "pass \\(B, C\\)"),
    "two places": (({n: torch.ones(2, 5, 5) for n in NAMES},), {}, "class_dim="),
    "mask's columns": ((Z, torch.ones(7, 2)), {}, r"pass a tensor \(B, 3\)"),
    "mask's rows": ((Z, torch.ones(6, 3)), {}, "one a sample"),
    "a list as mask": ((Z, [[1, 1, 1]]), {}, "is a list"),
    "mask of nobody": ((Z, {"txt": torch.ones(7)}), {}, "did you mean text"),
    "mask of no tensor": ((Z, {"text": [1] * 7}), {}, "must be a tensor"),
    "features unasked for": ((Z,), {"features": {"image": torch.ones(7, 3)}}, "for the joint head"),
    "context unasked for": ((Z,), {"context": {"image": torch.ones(7, 3)}}, "made to see none"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches_that_are_refused(case):
    arguments, settings, message = BATCHES[case]
    with pytest.raises(UserError, match=message) as error:
        TemperatureFusion(5, NAMES)(*arguments, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("features", "context", "message"),
    [
        (None, {"image": torch.ones(7, 2)}, "pass features="),
        ({"image": torch.ones(7, 4)}, {"image": torch.ones(7, 2)}, r"features \(7, 3\)"),
        ({"image": torch.ones(6, 3)}, {"image": torch.ones(7, 2)}, r"features \(7, 3\)"),
        ({"image": torch.ones(7, 3)}, None, "pass context="),
        ({"image": torch.ones(7, 3)}, {"image": torch.ones(7, 3)}, "context of 'image'"),
        ({"image": torch.ones(7, 3)}, {"audio": torch.ones(7, 2)}, "not made to see"),
    ],
)
def test_features_and_context_that_are_refused(features, context, message):
    fusion = TemperatureFusion(5, NAMES, joint={"image": 3}, context={"image": 2})
    with pytest.raises(UserError, match=message):
        fusion(given(7, 5), features=features, context=context)


@pytest.mark.parametrize(
    "target", [torch.ones(7), torch.ones(6, dtype=torch.long), torch.ones(7, 5, dtype=torch.long)], ids=repr
)
def test_targets_that_are_refused(target):
    with pytest.raises(UserError, match="one class index a position"):
        TemperatureFusion(5, NAMES).losses(given(7, 5), target)


def test_joint_heads_score_samples():
    fusion = TemperatureFusion(5, NAMES, joint={"image": 3})
    with pytest.raises(UserError, match="leave joint= out"):
        fusion(given(3, 4, 5), features={"image": torch.ones(3, 3)})


@pytest.mark.slow
def test_compiled():
    fusion = moved(TemperatureFusion(5, NAMES))
    logits = {n: z.float() for n, z in given(7, 5).items()}
    mask = torch.ones(7, 3)
    mask[3, 1] = 0
    compiled = torch.compile(fusion, fullgraph=True)
    close(compiled(logits, mask)[0], fusion(logits, mask)[0].detach())
