"""What a reader does with a file: in another process, with a clock, little memory, a canary and a folder to keep."""

import contextlib
import json
import os
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError
from tests.malicious.files import Case

SECONDS, MEMORY = 10, 2 * 2**30


@dataclass
class Outcome:
    """Of one file.

    Attributes:
        kind: of the case.
        name: likewise.
        how: ``refused`` in one line, ``accepted``, ``failed`` with another error, ``no end``, or ``crashed``.
        said: the error.
        harm: what it did beside: ran code, or changed what lies outside.
        seconds: that it took.
    """

    kind: str
    name: str
    how: str
    said: str = ""
    harm: str = ""
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether it was refused as promised."""
        return self.how == "refused" and not self.harm and self.seconds < SECONDS


class _NoEnd(BaseException):
    """Not to be taken for an error of the reader's."""


def measure(cases: Iterable[Case], read: dict[str, Callable], canary: Path, outside: Path) -> Iterator[Outcome]:
    """Read each of the files. What a process that does not come back was at has no end, or has crashed it."""
    open_ends = list(cases)
    log = canary.with_name("outcomes")
    while open_ends:
        log.write_text("")
        process = os.fork()
        if process == 0:
            _read_all(open_ends, read, canary, outside, log)
        how = _wait(process, log)
        found = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
        yield from found
        open_ends = open_ends[len(found) :]
        if open_ends:
            case = open_ends.pop(0)
            yield Outcome(case.kind, case.name, how, harm=_harm(canary, outside), seconds=2 * SECONDS)


def _wait(process: int, log: Path) -> str:
    size, since = 0, time.monotonic()
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.02)
        if log.stat().st_size != size:
            size, since = log.stat().st_size, time.monotonic()
        if time.monotonic() > since + 2 * SECONDS:  # in a library that no signal reaches
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return "no end"
    return "crashed"


def _read_all(cases: list[Case], read: dict[str, Callable], canary: Path, outside: Path, log: Path) -> None:
    """In the child: never returns."""
    status = 1
    with contextlib.suppress(BaseException):
        os.dup2(os.open(canary.with_name("output"), os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        os.setsid()  # no terminal
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGALRM, _stop)
        for case in cases:
            outcome = _read(case, read[case.kind], canary, outside)
            with log.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        status = 0
    os._exit(status)


def _stop(*_: object) -> None:
    raise _NoEnd


def _read(case: Case, read: Callable, canary: Path, outside: Path) -> Outcome:
    case.make()
    _restore(canary, outside)
    started = time.perf_counter()
    how, said = "accepted", ""
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(case.path)
    except UserError as error:
        how, said = "refused", str(error)
    except _NoEnd:
        how = "no end"
    except BaseException as error:
        how, said = "failed", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - started
    if how == "refused" and (printable(said) != said or not said):
        how = "not in one line"
    time.sleep(0.01)  # of a process that the payload has started
    outcome = Outcome(case.kind, case.name, how, said[:300], _harm(canary, outside), seconds)
    shutil.rmtree(case.path.parent, ignore_errors=True)
    return outcome


def _restore(canary: Path, outside: Path) -> None:
    _remove(canary)
    shutil.rmtree(outside, ignore_errors=True)
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "kept").write_text("kept")
    (outside / "kept").write_text("kept")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _harm(canary: Path, outside: Path) -> str:
    if os.path.lexists(canary):
        return "ran code"
    found = sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*"))
    whole = found == ["folder", "folder/kept", "kept"] and (outside / "kept").read_text() == "kept"
    return "" if whole else "changed what lies outside"
