"""The published rules that fusion is compared with: against Dempster's rule, SciPy's integrals, by hand."""

from itertools import product
from math import e, exp, log

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn import functional as F

from benchmarks.fusion_rules import (
    QMF,
    TMC,
    LossHistory,
    heads,
    qmf_confidence,
    qmf_fuse,
    qmf_ranking_loss,
    tmc_combine,
    tmc_loss,
)
from ctkd_lightning.errors import UserError

VIEWS = ("image", "audio", "depth")
EVIDENCES = [[4.0, 0.5, 0.0], [0.2, 7.0, 1.0], [3.0, 3.0, 0.1]]


def rows(*values):
    return [torch.tensor([row], dtype=torch.float64) for row in values]


def masses(evidence):
    """An opinion as Dempster's rule takes it: a mass for sets of classes."""
    classes, total = len(evidence), sum(evidence) + len(evidence)
    return {frozenset([c]): x / total for c, x in enumerate(evidence)} | {frozenset(range(classes)): classes / total}


def dempster(first, second):
    """Masses go to the intersections; that of the empty set, the conflict, is shared out among the others."""
    joint = {}
    for (a, x), (b, y) in product(first.items(), second.items()):
        joint[a & b] = joint.get(a & b, 0.0) + x * y
    conflict = joint.pop(frozenset(), 0.0)
    return {key: mass / (1 - conflict) for key, mass in joint.items()}


@pytest.mark.parametrize("count", [2, 3])
def test_combination_is_dempsters_rule(count):
    chosen = EVIDENCES[:count]
    expected = masses(chosen[0])
    for evidence in chosen[1:]:
        expected = dempster(expected, masses(evidence))
    fused = tmc_combine(rows(*chosen))[0].tolist()
    assert masses(fused) == pytest.approx(expected, rel=1e-12)


def test_order_and_grouping_of_the_combination_do_not_matter():
    a, b, c = rows(*EVIDENCES)
    together = tmc_combine([a, b, c])
    torch.testing.assert_close(tmc_combine([tmc_combine([a, b]), c]), together)
    torch.testing.assert_close(tmc_combine([c, a, b]), together)


def test_no_evidence_changes_nothing():
    some, none = rows(EVIDENCES[0], [0.0, 0.0, 0.0])
    torch.testing.assert_close(tmc_combine([some, none]), some)


def expected_cross_entropy(evidence, target):
    """E[−log p_y] by SciPy's quadrature: p_y of Dir(α) is of Beta(α_y, S − α_y)."""
    alpha = [x + 1 for x in evidence]
    own = stats.beta(alpha[target], sum(alpha) - alpha[target])
    return integrate.quad(lambda p: -log(p) * own.pdf(p), 0, 1)[0]


def divergence_to_uniform(evidence, target):
    """KL from the Dirichlet without what speaks for the target, by SciPy's entropy: the uniform density is Γ(C)."""
    alpha = [1.0 if c == target else x + 1 for c, x in enumerate(evidence)]
    return -stats.dirichlet(alpha).entropy() - log(2)  # of three classes


@pytest.mark.parametrize(("epoch", "strength"), [(0, 0.0), (5, 0.25), (20, 1.0), (30, 1.0)])
@pytest.mark.parametrize("target", [0, 2])
def test_loss_against_integrals(target, epoch, strength):
    opinions = [*EVIDENCES[:2], tmc_combine(rows(*EVIDENCES[:2]))[0].tolist()]
    expected = sum(expected_cross_entropy(x, target) + strength * divergence_to_uniform(x, target) for x in opinions)
    loss = tmc_loss(rows(*EVIDENCES[:2]), torch.tensor([target]), epoch, annealing_epochs=20)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_loss_is_the_mean_of_the_samples():
    first, second = rows(*EVIDENCES[:2]), rows(*EVIDENCES[1:])
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    separate = (tmc_loss(first, torch.tensor([0]), 50) + tmc_loss(second, torch.tensor([2]), 50)) / 2
    torch.testing.assert_close(tmc_loss(both, torch.tensor([0, 2]), 50), separate)


def test_loss_has_the_gradient_of_finite_differences():
    evidences = [x.requires_grad_() for x in rows(*EVIDENCES[:2])]
    evidences[0] = torch.tensor([[4.0, 0.5, 0.3]], dtype=torch.float64, requires_grad=True)  # 0 has one side only
    assert torch.autograd.gradcheck(lambda *x: tmc_loss(x, torch.tensor([1]), 7), evidences)


def test_annealing_takes_an_epoch_or_more():
    with pytest.raises(UserError, match="annealing_epochs"):
        tmc_loss(rows(*EVIDENCES), torch.tensor([0]), 0, annealing_epochs=0)


def test_tmc_scores_are_the_mean_of_the_fused_dirichlet():
    model = TMC({"image": nn.Identity(), "audio": nn.Identity()})
    evidences = EVIDENCES[:2]
    # softplus is undone: the encoders' scores are those that give the evidence 3, ½, 1 and so on
    inputs = {name: torch.tensor([x]).clamp(min=0.01).expm1().log() for name, x in zip(VIEWS, evidences, strict=False)}
    combined = tmc_combine([torch.tensor([x]).clamp(min=0.01) for x in evidences])[0].double().numpy()
    expected = torch.tensor(stats.dirichlet(combined + 1).mean()).log().float()
    torch.testing.assert_close(model.scores({**inputs, "target": torch.tensor([0])})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_sure_modality_weighs_more():
    # log-sum-exp of (log 3, log 2, log 5) is log 10 and that of zeros is log 3
    sure, unsure = torch.tensor([[3.0, 2.0, 5.0]]).log(), torch.zeros(1, 3)
    assert qmf_confidence(sure).item() == pytest.approx(log(10) / 10)
    assert qmf_confidence(unsure).item() == pytest.approx(log(3) / 10)
    fused = qmf_fuse([sure, unsure + 1])
    expected = [log(10) / 10 * log(x) + (log(3) + 1) / 10 for x in (3, 2, 5)]
    assert fused[0].tolist() == pytest.approx(expected)


def test_the_weights_of_the_fusion_are_no_path_for_the_gradient():
    scores = torch.tensor([[3.0, 2.0, 5.0]]).log().requires_grad_()
    qmf_fuse([scores]).sum().backward()
    assert scores.grad[0].tolist() == pytest.approx([log(10) / 10] * 3)


def noted(*losses):
    history = LossHistory(5)
    history.update(torch.arange(len(losses)), torch.tensor(losses))
    return history


def test_history_is_of_mean_losses():
    history = noted(1.0, 2.0, 4.0, 5.0)
    history.update(torch.tensor([2, 0]), torch.tensor([0.0, 3.0]))  # means 2, 2, 2, 5: sample 4 is unknown
    assert history.relative(torch.tensor([3, 0])).tolist() == [1.0, 0.0]
    history.update(torch.tensor([1, 1 + 2]), torch.tensor([5.0, 5.0]))  # means 2, 3.5, 2, 5
    assert history.relative(torch.tensor([1])).tolist() == pytest.approx([0.5])


def test_history_of_equal_losses_orders_nothing():
    history = noted(0.5, 0.5)
    index = torch.tensor([0, 1])
    assert history.relative(index).tolist() == [0.0, 0.0]
    assert qmf_ranking_loss(torch.tensor([0.9, 0.1]), index, history).item() == 0.0


def test_ranking_by_hand():
    history = noted(0.0, 1.0, 0.25)  # relative losses 0, 1, ¼
    confidence = torch.tensor([0.9, 0.2, 0.4], requires_grad=True)
    loss = qmf_ranking_loss(confidence, torch.tensor([0, 1, 2]), history)
    # 0 against 1: −(0.9 − 0.2) + 1 = 0.3; 1 against 2: (0.2 − 0.4) + ¾ = 0.55; 2 against 0: (0.4 − 0.9) + ¼ → 0
    assert loss.item() == pytest.approx((0.3 + 0.55) / 3)
    loss.backward()
    # the first wants more of sample 0 and less of 1, the second less of 1 and more of 2
    assert confidence.grad.tolist() == pytest.approx([-1 / 3, 2 / 3, -1 / 3])


def test_ranking_goes_by_the_samples_numbers():
    history = noted(0.0, 1.0)
    loss = qmf_ranking_loss(torch.tensor([0.9, 0.2]), torch.tensor([1, 0]), history)
    # the sample with the greater loss is the surer one: (0.9 − 0.2) + 1, from either side
    assert loss.item() == pytest.approx(1.7)


def test_qmf_loss_by_hand():
    model = QMF({"image": nn.Identity(), "audio": nn.Identity()}, num_samples=2, ranking=0.5)
    image, audio = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    loss = model.loss({"image": image, "audio": audio}, torch.tensor([0, 0]), torch.tensor([1, 0]))
    image_losses = [log(1 + exp(-1)), log(2)]  # relative losses 0 and 1
    weight = log(1 + e) / 10
    fused_losses = [log(1 + exp(-weight)), log(2)]
    # the first is surer by log((1 + e) / 2) / 10 and shall be by 1, from either side; audio has no order
    ranking = 1 - log((1 + e) / 2) / 10
    expected = sum(fused_losses) / 2 + sum(image_losses) / 2 + log(2) + 0.5 * ranking
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(model.scores({"image": image, "audio": audio}), image * torch.tensor([[weight], [0.0]]))


def separable(n=240):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(n) % 3
    centres = {name: torch.randn(3, 8, generator=generator) * 2 for name in VIEWS}
    return {name: c[target] + torch.randn(n, 8, generator=generator) for name, c in centres.items()}, target


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("rule", ["tmc", "qmf"])
def test_learns_over_stored_features(rule, hidden):
    torch.manual_seed(0)
    inputs, target = separable()
    encoders = heads(dict.fromkeys(VIEWS, 8), 3, hidden)
    model = TMC(encoders, annealing_epochs=10) if rule == "tmc" else QMF(encoders, len(target))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(60):
        optimizer.zero_grad()
        model.loss(inputs, target, epoch if rule == "tmc" else torch.arange(len(target))).backward()
        optimizer.step()
    fused = F.cross_entropy(model.scores(inputs), target)
    assert (model.scores(inputs).argmax(1) == target).float().mean() > 0.95
    assert fused < log(3) / 2  # of chance
