"""The loaders, which share their behaviour: memory.py, workers.py and loader.py."""

import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader, _shutdown_workers_and_reset_iterator

from ctkd_lightning.data import Batch
from ctkd_lightning.data._augmentation import CropFlip, RandomResizedCropFlip
from ctkd_lightning.data._image_files import ImageFiles
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.memory import MemoryLoader
from ctkd_lightning.data._loading.preprocess import Preprocess
from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler
from ctkd_lightning.data._loading.workers import WorkerLoader, one_line_errors
from ctkd_lightning.errors import UserError
from tests.data.folders import write_images
from tests.data.test_multimodal_loader import make as make_multimodal

AUGMENT = CropFlip(padding=2)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def array(count: int = 22) -> ImageArray:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageArray(pixels, torch.arange(count) % 4)


def make(kind: str, sampler: EpochSampler | None = None, device: str = "cpu") -> Loader:
    sampler = sampler or EpochSampler(torch.arange(22), 4, num_views=AUGMENT.num_views, seed=1)
    preprocess = Preprocess(AUGMENT.on_batch, MEAN, STD, torch.device(device))
    if kind == "memory":
        return MemoryLoader(array(), sampler, preprocess)
    return WorkerLoader(array(), sampler, preprocess, num_workers=int(kind[-1]))


def assert_same(ours: list[Batch], others: list[Batch]) -> None:
    assert len(ours) == len(others)
    for batch, other in zip(ours, others, strict=True):
        for x, y in zip(batch, other, strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x, y)


KINDS = pytest.mark.parametrize("kind", ["memory", "workers 0", "workers 2"])


@KINDS
def test_a_batch_is_what_its_indices_and_views_say(kind):
    images = array()
    batches = list(make(kind))
    assert [len(batch.target) for batch in batches] == [4, 4, 4, 4, 4, 2]
    for image, target, index, view in batches:
        assert torch.equal(target, images.targets[index])
        expected = AUGMENT.on_batch(images.pixels[index], view) / 255
        expected = (expected - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        torch.testing.assert_close(image, expected)
        assert (image.dtype, target.dtype, index.dtype, view.dtype) == (torch.float32, *[torch.int64] * 3)


@KINDS
def test_without_a_trainer_each_pass_is_the_next_epoch(kind):
    loader, memory = make(kind), make("memory")
    first, second = list(loader), list(loader)
    assert loader.sampler.epoch == 2
    assert [b.index.tolist() for b in first] != [b.index.tolist() for b in second]
    for epoch, batches in enumerate([first, second]):
        memory.sampler.set_epoch(epoch)
        assert_same(batches, list(memory))


@KINDS
@pytest.mark.parametrize("stop", [1, 3, 5, 6])
def test_resume_gives_the_rest(kind, stop):
    whole = make("memory")
    expected = list(whole) + list(whole)
    stopped = make(kind)
    iterator = iter(stopped)
    for _ in range(stop):
        next(iterator)
    resumed = make(kind)
    iter(resumed)  # Lightning makes iterators that it throws away
    resumed.load_state_dict(stopped.state_dict())
    assert len(resumed) == 6  # the whole epoch's, by which Lightning counts
    rest = list(resumed) + list(resumed)
    assert_same(rest[: 12 - stop], expected[stop:])


@KINDS
def test_the_epoch_is_read_at_the_first_batch(kind):
    loader, memory = make(kind), make("memory")
    iterator = iter(loader)
    loader.sampler.set_epoch(5)
    memory.sampler.set_epoch(5)
    assert_same(list(iterator), list(memory))


@KINDS
def test_an_abandoned_pass_leaves_nothing_behind(kind):
    loader = make(kind)
    first = next(iter(loader))
    assert_same([next(iter(loader))], [first])


def test_workers_leave_the_global_random_state():
    before = torch.get_rng_state()
    list(make("workers 0"))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_batches():
    sampler = EvaluationSampler(torch.tensor([3, 1, 4]), 2)
    (first, second), images = list(make("memory", sampler)), array()
    assert first.index.tolist() + second.index.tolist() == [3, 1, 4]
    assert first.view.tolist() == [-1, -1]
    expected = images.pixels[[3, 1]] / 255
    expected = (expected - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(first.image, expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_views_of_files_are_made_in_the_workers(tmp_path, num_workers):
    write_images(tmp_path, 6)
    augment = RandomResizedCropFlip(size=8)
    files = ImageFiles(tmp_path, [f"{i}.png" for i in range(6)], list(range(6)), augment)
    preprocess = Preprocess(lambda images, view: images, (0, 0, 0), (1, 1, 1), torch.device("cpu"))
    loader = WorkerLoader(files, EpochSampler(torch.arange(6), 3, num_views=augment.num_views), preprocess, num_workers)
    for image, target, index, view in loader:
        assert torch.equal(target, index)
        for i in range(3):
            expected = files.pixels_of(int(index[i]), int(view[i]))
            torch.testing.assert_close(image[i] * 255, expected.float())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_named_in_one_line(tmp_path, num_workers):
    write_images(tmp_path, 2)
    (tmp_path / "1.png").write_bytes(b"no image")
    files = ImageFiles(tmp_path, ["0.png", "1.png"], [0, 1], RandomResizedCropFlip(size=8))
    preprocess = Preprocess(lambda images, view: images, (0, 0, 0), (1, 1, 1), torch.device("cpu"))
    loader = WorkerLoader(files, EvaluationSampler(torch.arange(2), 2), preprocess, num_workers)
    with pytest.raises(UserError, match=r"^cannot decode the image .*1\.png .*: replace or remove the file$"):
        list(loader)
    _shutdown_workers_and_reset_iterator(loader)


def test_lightning_stops_the_workers_at_the_end_of_a_run():
    loader = make("workers 2")
    next(iter(loader))
    workers = loader._iterator._workers
    assert [worker.is_alive() for worker in workers] == [True, True]
    combined = CombinedLoader(loader)
    iter(combined)
    combined.reset()
    assert [worker.is_alive() for worker in workers] == [False, False]
    assert len(list(loader)) == 6  # with new workers
    combined.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("of", [partial(make, "memory"), make_multimodal], ids=["images", "modalities"])
def test_on_a_gpu_the_host_waits_for_no_batch(of):
    iterator = iter(of(device="cuda"))
    batches = [next(iterator)]  # the samples and the epoch's order go to the device with the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches += list(iterator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(batches, list(of(device="cpu")), check_device=False)


def test_a_small_shared_memory_is_refused(monkeypatch):
    """Where a batch does not fit, the workers would wait for ever. 22 images of 192 bytes are 4224."""

    def of_size(free):
        return lambda folder: SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=10**6)

    monkeypatch.setattr(os, "statvfs", of_size(4224))
    assert sum(len(batch.target) for batch in make("workers 2", EpochSampler(torch.arange(22), 8))) == 22
    monkeypatch.setattr(os, "statvfs", of_size(4223))
    with pytest.raises(
        UserError, match=r"2 worker processes of the data need 4\.2 kB of /dev/shm, and 4\.2 kB are free"
    ):
        make("workers 2", EpochSampler(torch.arange(22), 8))
    make("workers 0", EpochSampler(torch.arange(22), 8))
    make("workers 1", EpochSampler(torch.arange(22), 8))  # two of its three batches at once


def test_a_worker_that_a_full_shared_memory_has_killed():
    with pytest.raises(UserError, match=r"/dev/shm being full: make it larger"), one_line_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    with pytest.raises(RuntimeError, match="Segmentation"), one_line_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault.")
