import os
import signal
import stat
import threading
import time

import pytest

from ctkd_lightning import _files
from ctkd_lightning._files import locked, owned, user_path, written_whole
from ctkd_lightning.errors import UserError
from tests.processes import FORK, run_in_processes


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a/b") == tmp_path / "a" / "b"
    assert str(user_path("a/~")) == "a/~"
    with pytest.raises(UserError, match=r"^the home folder in ~no_such_user/x is not known: write the path out$"):
        user_path("~no_such_user/x")


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with written_whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with written_whole(path) as partial:
        partial.write_text("newer")
    assert path.read_text() == "newer"
    assert os.listdir(path.parent) == ["x.txt"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        with written_whole(tmp_path / "x") as partial:
            partial.touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_an_error_half_way_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail_half_way():
        with written_whole(tmp_path / "x") as partial:
            partial.write_text("ha")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def die_half_way(path):
    with written_whole(path) as partial:
        partial.write_text("ha")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_is_killed_half_way_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("old")
    assert run_in_processes(1, die_half_way, tmp_path / "x") == [-signal.SIGKILL]
    assert run_in_processes(1, die_half_way, tmp_path / "y") == [-signal.SIGKILL]
    assert (tmp_path / "x").read_text() == "old"
    assert not (tmp_path / "y").exists()


def test_without_replacing_the_first_one_stays(tmp_path):
    for text in ("first", "second"):
        with written_whole(tmp_path / "x", replace=False) as partial:
            partial.write_text(text)
    assert (tmp_path / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["x"]


def count_up(path, times):
    for _ in range(times):
        with locked(path):
            number = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(number + 1))


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    assert run_in_processes(4, count_up, path, 25) == [0] * 4
    assert path.read_text() == "100"
    assert os.listdir(tmp_path) == ["number"]


def die_with_the_lock(path):
    with locked(path):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_lock_ends_with_its_process(tmp_path):
    run_in_processes(1, die_with_the_lock, tmp_path / "x")
    with locked(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_worker_that_lives_on_does_not_keep_the_lock(tmp_path):
    worker = FORK.Process(target=time.sleep, args=(60,))
    waiting = threading.Thread(target=count_up, args=(tmp_path / "x", 1), daemon=True)
    (tmp_path / "x").write_text("0")
    try:
        with locked(tmp_path / "x"):
            worker.start()
            waiting.start()
            time.sleep(0.3)
        waiting.join(10)
        assert (tmp_path / "x").read_text() == "1"
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("reason", ["no locks here", "no folder here"])
def test_where_nothing_can_be_locked_nobody_waits(tmp_path, monkeypatch, reason):
    path = tmp_path / "x"
    if reason == "no locks here":
        monkeypatch.setattr(_files, "fcntl", None)
    else:
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "x"
    with locked(path), locked(path):
        pass


def _hold(folder, ready, done):
    with owned(folder):
        ready.set()
        done.wait(60)


def test_a_folder_has_one_owner(tmp_path):
    ready, done = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_hold, args=(tmp_path / "run", ready, done))
    process.start()
    assert ready.wait(60)
    refused = pytest.raises(UserError, match=rf"run is in use by process {process.pid} on .+: wait for its end")
    with refused, owned(tmp_path / "run", patience=0.2):
        pass
    done.set()
    with owned(tmp_path / "run"):  # waits for the other's end
        pass
    process.join(60)
    assert not list((tmp_path / "run").iterdir())


def test_the_lock_of_a_killed_process_is_none(tmp_path):
    ready = FORK.Event()
    process = FORK.Process(target=_hold, args=(tmp_path, ready, FORK.Event()))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert (tmp_path / ".lock").is_file()
    with owned(tmp_path, patience=0.0):
        pass
    assert not (tmp_path / ".lock").exists()
