import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from ctkd_lightning.modules._accuracy import TopKAccuracy


@pytest.mark.parametrize("k", [1, 5])
def test_equals_torchmetrics_over_several_batches(k):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 20, generator=generator)
    target = torch.randint(20, (100,), generator=generator)
    accuracy = TopKAccuracy(k)
    for batch in (slice(0, 64), slice(64, 100)):
        accuracy.update(logits[batch], target[batch])
    expected = 100 * multiclass_accuracy(logits, target, num_classes=20, top_k=k, average="micro")
    torch.testing.assert_close(accuracy.compute(), expected)


def test_fewer_classes_than_k():
    accuracy = TopKAccuracy(5)
    assert accuracy(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])) == 100.0


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_count_as_wrong(k, value):
    logits = torch.eye(4)
    logits[1:3] = value
    logits[3, 0] = value
    assert TopKAccuracy(k)(logits, torch.arange(4)) == 25.0
