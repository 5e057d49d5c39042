import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import binned_statistic, entropy
from sklearn.metrics import accuracy_score, brier_score_loss, top_k_accuracy_score

from ctkd_lightning.job.quality import agreement, quality


def made_up(samples=500, classes=7, seed=0, sharpness=2.0):
    """Logits that know something of the classes."""
    generator = np.random.default_rng(seed)
    target = generator.integers(classes, size=samples)
    logits = sharpness * (generator.normal(size=(samples, classes)) + np.eye(classes)[target])
    return logits.astype(np.float32), target


@pytest.mark.parametrize("sharpness", [0.3, 2.0, 20.0])
def test_as_scikit_learn_and_scipy_have_it(sharpness):
    logits, target = made_up(sharpness=sharpness)
    found = quality(torch.from_numpy(logits), torch.from_numpy(target))
    probabilities = softmax(logits.astype(np.float64), axis=1)
    assert found.top1 == pytest.approx(100 * accuracy_score(target, logits.argmax(axis=1)))
    assert found.top5 == pytest.approx(100 * top_k_accuracy_score(target, logits, k=5))
    assert found.nll == pytest.approx(-log_softmax(logits.astype(np.float64), axis=1)[range(500), target].mean())
    binary = (brier_score_loss(target == c, probabilities[:, c]) for c in range(7))  # Brier's sum, class by class
    assert found.brier == pytest.approx(sum(binary))

    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
    bins = {"bins": 15, "range": (0, 1)}
    count, of_confidence, of_right = (
        binned_statistic(confidence, values, statistic, **bins).statistic
        for values, statistic in ((right, "count"), (confidence, "sum"), (right, "sum"))
    )
    assert count.sum() == 500
    assert found.ece == pytest.approx(np.abs(of_right - of_confidence).sum() / 500, rel=1e-6)


def test_a_guesser_that_knows_it():
    target = torch.arange(4).repeat(5)
    found = quality(torch.zeros(20, 4), target)
    assert (found.top1, found.top5) == (25, 100)  # of ties the first; of four classes five guesses
    assert found.nll == pytest.approx(math.log(4))
    assert found.ece == pytest.approx(0, abs=1e-6)
    assert found.brier == pytest.approx(0.75)


def test_a_network_that_diverged():
    logits = torch.eye(3)
    logits[0, 0] = float("nan")
    found = quality(logits, torch.arange(3))
    assert found.top1 == pytest.approx(200 / 3)
    assert (found.nll, found.ece, found.brier) == (None, None, None)
    assert agreement(logits, torch.eye(3)).kl is None
    assert agreement(torch.eye(3), logits).kl is None


def test_agreement_as_scipy_has_it():
    (logits, _), (teacher, _) = made_up(seed=1), made_up(seed=1, sharpness=1.0)
    logits = logits + made_up(seed=2)[0]
    found = agreement(torch.from_numpy(logits), torch.from_numpy(teacher))
    q, p = (softmax(x.astype(np.float64), axis=1) for x in (logits, teacher))
    assert found.kl == pytest.approx(entropy(p, q, axis=1).mean())
    assert found.top1 == pytest.approx(100 * accuracy_score(teacher.argmax(axis=1), logits.argmax(axis=1)))
    assert 0 < found.top1 < 100
