import copy
import multiprocessing
import os
import pickle
import random
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.teacher_cache.store import TeacherCache

SHAPE = {"samples": 6, "views": 4, "width": 3}


def open_cache(folder, key="ab12", **shape):
    return TeacherCache(folder, key=key, **{**SHAPE, **shape})


def everything(samples, views):
    """All places, sample by sample."""
    index, view = torch.meshgrid(torch.arange(samples), torch.arange(views), indexing="ij")
    return index.flatten(), view.flatten()


def values_at(index, view, width=3):
    """What a teacher might give: another vector at each place, exact in float16."""
    return (index * 64 + view)[:, None].float() / 4 + torch.arange(width)


def test_what_was_written_is_read_by_the_next(tmp_path):
    index, view = everything(6, 4)
    kept = torch.randperm(24)[:10]
    open_cache(tmp_path).write(index[kept], view[kept], values_at(index[kept], view[kept]))
    values, known = open_cache(tmp_path).read(index, view)
    assert set(known.nonzero().flatten().tolist()) == set(kept.tolist())
    assert values.dtype == torch.float16
    assert torch.equal(values[kept].float(), values_at(index[kept], view[kept]))


def test_a_flipped_byte_anywhere_is_seen(tmp_path):
    """In the header, a value or a sum: what is read is what was written, or unknown."""
    index, view = everything(6, 4)
    wanted = values_at(index, view)
    open_cache(tmp_path).write(index, view, wanted)
    path = open_cache(tmp_path).path
    whole = path.read_bytes()
    unknown = 0
    for place in [*range(0, 128, 5), *range(128, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x20
        path.write_bytes(damaged)
        values, known = open_cache(tmp_path).read(index, view)
        assert torch.equal(values[known].float(), wanted[known]), place
        assert place < 128 or int((~known).sum()) == 1
        unknown += int((~known).sum())
    assert unknown >= len(whole) - 128


def test_places_that_there_are_not(tmp_path):
    cache = open_cache(tmp_path)
    index, view = torch.tensor([0, 6, -1, 2]), torch.tensor([-1, 0, 0, 4])
    cache.write(index, view, torch.ones(4, 3))
    assert not cache.read(index, view)[1].any()
    assert not cache.read(*everything(6, 4))[1].any()


def test_values_beyond_float16_are_left_out(tmp_path):
    cache, index, view = open_cache(tmp_path), torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0])
    cache.write(index, view, torch.tensor([[1e6, 0, 0], [1.0, 2, 3], [float("nan"), 0, 0]]))
    assert cache.read(index, view)[1].tolist() == [False, True, False]


def test_another_key_is_another_file_and_a_renamed_file_is_not_believed(tmp_path):
    index, view = everything(6, 4)
    cache = open_cache(tmp_path)
    cache.write(index, view, values_at(index, view))
    assert not open_cache(tmp_path, key="ab13").read(index, view)[1].any()
    shutil.copy(cache.path, tmp_path / "ab14.npy")
    assert not open_cache(tmp_path, key="ab14").read(index, view)[1].any()


def test_a_write_that_was_cut_off_is_not_believed(tmp_path):
    """Any prefix of a record, over zeros or over an older record of the same place."""
    index, view = torch.tensor([3]), torch.tensor([2])
    cache = open_cache(tmp_path)
    cache.write(index, view, torch.tensor([[5.0, 6.0, 7.0]]))
    old = cache._records[3 * 4 + 2].tobytes()
    cache.write(index, view, torch.tensor([[1.5, 2.5, 3.5]]))
    new = cache._records[3 * 4 + 2].tobytes()
    for before in (bytes(len(new)), old):
        for count in range(len(new) + 1):
            torn = new[:count] + before[count:]
            cache._records[3 * 4 + 2] = np.frombuffer(torn, dtype=cache._record)[0]
            values, known = cache.read(index, view)
            assert bool(known) == (torn in (old, new))
            if known:
                assert values.tolist() == ([[1.5, 2.5, 3.5]] if torn == new else [[5.0, 6.0, 7.0]])


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    index, view = everything(6, 4)
    cache = open_cache(tmp_path)
    cache.write(index, view, values_at(index, view))
    data = bytearray(cache.path.read_bytes())
    start = len(data) - cache.nbytes
    for position in range(start, len(data)):
        bit = 1 << position % 8
        cache._records.view(np.uint8)[position - start] ^= bit
        known = cache.read(index, view)[1]
        assert (~known).nonzero().flatten().tolist() == [(position - start) // cache._record.itemsize]
        cache._records.view(np.uint8)[position - start] ^= bit
    assert cache.read(index, view)[1].all()


@pytest.mark.parametrize("damage", ["empty", "text", "half", "zeros", "shape", "pickle", "zip", "header"])
def test_a_file_that_is_no_cache_is_made_anew(tmp_path, damage):
    path = open_cache(tmp_path).path
    whole = path.read_bytes()
    broken = {"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2], "zeros": bytes(len(whole))}
    broken |= {"zip": b"PK\x03\x04" + whole[4:], "header": whole[:10] + b"(" * 118 + whole[128:]}
    if damage == "shape":
        np.save(path, np.zeros((2, 2)))
    elif damage == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(broken[damage])
    index, view = everything(6, 4)
    cache = open_cache(tmp_path)
    assert not cache.read(index, view)[1].any()
    cache.write(index, view, values_at(index, view))
    assert open_cache(tmp_path).read(index, view)[1].all()


def test_the_disk_sets_the_space_aside(tmp_path):
    cache = open_cache(tmp_path, samples=1000, views=100, width=40)
    assert cache.nbytes == 1000 * 100 * (40 * 2 + 8)
    assert os.stat(cache.path).st_blocks * 512 >= cache.nbytes
    assert [entry.name for entry in tmp_path.iterdir()] == [cache.path.name]


def test_a_disk_too_small_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1_000_000))
    expected = r"needs 8\.8 MB for 1,000 samples × 100 views × 40 values, the disk has 1\.0 MB free: set teacher_cache"
    with pytest.raises(UserError, match=expected):
        open_cache(tmp_path, samples=1000, views=100, width=40)
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_any_disk_is_refused_by_its_size(tmp_path):
    with pytest.raises(UserError, match=r"needs 1\.5 PB for 50,000 samples × 2,147,483,648 views × 3 values, the disk"):
        open_cache(tmp_path, samples=50_000, views=2**31)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the teacher cache in .*file.*: set teacher_cache to a folder"):
        open_cache(tmp_path / "file" / "folder")


def test_two_at_once_share_one_file(tmp_path):
    index, view = everything(6, 4)
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    first.write(index[:5], view[:5], values_at(index[:5], view[:5]))
    assert second.read(index, view)[1].sum() == 5


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_shares_the_file(tmp_path, duplicate):
    cache = open_cache(tmp_path, samples=1000)
    assert len(pickle.dumps(cache)) < cache.nbytes / 10
    other, index, view = duplicate(cache), torch.tensor([3]), torch.tensor([2])
    other.write(index, view, torch.ones(1, 3))
    assert cache.read(index, view)[1].all()


def open_and_write(folder, number, start, attempts):
    for attempt in range(attempts):
        start.wait(60)
        index, view = torch.tensor([number]), torch.tensor([attempt % 4])
        open_cache(folder / str(attempt)).write(index, view, values_at(index, view))


def test_many_open_at_once(tmp_path, monkeypatch):
    """One file for all, whether there was none or a wrong one: nobody's writes are lost."""
    create = TeacherCache._create
    monkeypatch.setattr(TeacherCache, "_create", lambda cache: (time.sleep(random.uniform(0, 0.01)), create(cache)))
    processes, count, attempts = multiprocessing.get_context("fork"), 6, 40
    for attempt in range(0, attempts, 2):
        (tmp_path / str(attempt)).mkdir()
        (tmp_path / str(attempt) / "ab12.npy").write_bytes(b"hello")
    start = processes.Barrier(count)
    started = [processes.Process(target=open_and_write, args=(tmp_path, n, start, attempts)) for n in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * count
    for attempt in range(attempts):
        known = open_cache(tmp_path / str(attempt)).read(torch.arange(count), torch.full((count,), attempt % 4))[1]
        assert known.all()


def fill_for_ever(folder, filling):
    torch.set_num_threads(1)
    cache = open_cache(folder, samples=400, views=50, width=100)
    index, view = everything(400, 50)
    filling.set()
    while True:
        for places in torch.randperm(len(index)).split(64):
            cache.write(index[places], view[places], values_at(index[places], view[places], 100))


def test_a_killed_process_leaves_nothing_wrong(tmp_path):
    """SIGKILL at 20 random moments of runs that fill the cache."""
    rng, processes = np.random.default_rng(0), multiprocessing.get_context("fork")
    index, view = everything(400, 50)
    expected = values_at(index, view, 100).half()
    counts = []
    for moment in range(20):
        if moment % 5 == 0:
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        filling = processes.Event()
        process = processes.Process(target=fill_for_ever, args=(tmp_path / "cache", filling))
        process.start()
        assert filling.wait(60)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        values, known = open_cache(tmp_path / "cache", samples=400, views=50, width=100).read(index, view)
        assert torch.equal(values[known], expected[known])
        counts.append(int(known.sum()))
    assert max(counts) > 0
    assert min(counts) < len(index)
