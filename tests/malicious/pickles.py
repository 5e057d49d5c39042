"""Pickles that run something, or become large."""

import io
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary: Path, outside: Path) -> Iterator[tuple[str, object]]:
    """Things that leave a canary, or change what lies outside."""
    import cProfile
    import shutil
    import subprocess
    import timeit

    touch, write = f"touch '{canary}'", f"open({str(canary)!r}, 'w').close()"
    yield "os.system", Calls(os.system, touch)
    yield "os.popen", Calls(os.popen, touch)
    yield "os.mkdir", Calls(os.mkdir, str(canary))
    yield "os.mkfifo", Calls(os.mkfifo, str(canary))
    yield "os.symlink", Calls(os.symlink, "x", str(canary))
    yield "os.remove", Calls(os.remove, str(outside / "kept"))
    yield "os.truncate", Calls(os.truncate, str(outside / "kept"), 0)
    yield "os.rename", Calls(os.rename, str(outside / "kept"), str(canary))
    yield "shutil.rmtree", Calls(shutil.rmtree, str(outside / "folder"))
    yield "shutil.copy", Calls(shutil.copy, str(outside / "kept"), str(canary))
    yield "subprocess.call", Calls(subprocess.call, ["touch", str(canary)])
    yield "subprocess.Popen", Calls(subprocess.Popen, ["touch", str(canary)])
    yield "subprocess.getoutput", Calls(subprocess.getoutput, touch)
    yield "eval", Calls(eval, write)
    yield "exec", Calls(exec, write)
    yield "open", Calls(open, str(canary), "w")
    yield "timeit", Calls(timeit.timeit, write, "pass", time.perf_counter, 1)
    yield "cProfile", Calls(cProfile.run, write, str(canary))
    yield "numpy.save", Calls(np.save, str(canary), 1)
    yield "torch.save", Calls(torch.save, {}, str(canary))


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **settings) -> None:
    """A file as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w", settings.pop("compression", zipfile.ZIP_STORED)) as file:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", content)
        for name, content in (storages or {}).items():
            file.writestr(f"archive/data/{name}", content)


def saved(content: object, **settings) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def legacy(data: bytes) -> bytes:
    """A file as torch wrote it before 1.6, around any pickle."""
    return MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + data + pickle.dumps([], 2)


def tuples(depth: int) -> bytes:
    """A key that is a tuple that holds itself twice, so many levels deep: it is hashed."""
    levels = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(depth))
    return b"\x80\x02)q\x00" + levels + b"}h" + bytes([depth]) + b"Ns."


def object_array(content: bytes) -> bytes:
    """A .npy file around a pickle."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + content


def call(module: str, name: str, *arguments: object) -> bytes:
    """A pickle of a call by name, whether the function can be pickled or not."""
    packed = b"(" + b"".join(pickle.dumps(each, 2)[2:-1] for each in arguments) + b"t"
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + packed + b"R."


def text(value: str) -> bytes:
    """A pickled text."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded
