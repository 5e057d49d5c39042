import torch
from lightning.pytorch import Trainer

from ctkd_lightning.modules import ClassifierModule
from ctkd_lightning.modules._mean_iou import MeanIoU


def by_hand(guesses, target, classes):
    """Mean over the classes that are guessed or given."""
    found = []
    for c in range(classes):
        both, either = ((guesses == c) & (target == c)).sum(), ((guesses == c) | (target == c)).sum()
        if either:
            found.append(float(both / either))
    return 100 * sum(found) / len(found)


def test_it_is_that_of_all_batches_together():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=draw)
    logits[:, 4] = -10  # a class that nobody guesses, nor is given
    target = torch.randint(4, (60,), generator=draw)
    metric = MeanIoU()
    for part in (slice(0, 7), slice(7, 60)):
        metric.update(logits[part], target[part])
    assert abs(float(metric.compute()) - by_hand(logits.argmax(1), target, 5)) < 1e-4
    metric.reset()
    metric.update(logits[:9], target[:9])
    assert abs(float(metric.compute()) - by_hand(logits[:9].argmax(1), target[:9], 5)) < 1e-4


def test_ignored_pixels_do_not_count():
    draw = torch.Generator().manual_seed(1)
    images, target = torch.randn(4, 3, 6, 6, generator=draw), torch.randint(3, (4, 6, 6), generator=draw)
    target[0] = 255
    network = torch.nn.Conv2d(3, 3, 1)
    module = ClassifierModule(network, class_dim=1, ignore_index=255, miou=True)
    loader = torch.utils.data.DataLoader(list(zip(images, target, strict=True)), batch_size=2)
    (found,) = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(module, loader, verbose=False)
    kept = target != 255
    with torch.no_grad():
        guesses = network(images).argmax(1)
    assert abs(found["test/miou"] - by_hand(guesses[kept], target[kept], 3)) < 1e-3
