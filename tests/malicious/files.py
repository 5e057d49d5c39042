"""All malicious files by kind, each made when it is asked for."""

import io
import json
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.job.test_trusted import FOREIGN, GROWING
from tests.malicious.images import bind, images, sparse
from tests.malicious.pickles import archive, call, legacy, object_array, payloads, saved, tuples

NAMES = {
    "an escape": "cat\x1b[2J\x1b]0;owned\x07",
    "a line": "cat\nerror: all is well",
    "turned round": "cat\u202egnp.exe",
    "a bell": "cat\x07\x08",
    "a separator": "cat\u2028dog",
    "control characters of one byte": "cat\x9b31m",
}
"""What must not reach a terminal or a page as it is."""


@dataclass(frozen=True)
class Case:
    """A file to be read.

    Attributes:
        kind: of the reader.
        name: what is wrong with it.
        path: of the file, or of the folder that is read.
        content: its bytes, or what makes it.
    """

    kind: str
    name: str
    path: Path
    content: bytes | Callable[[Path], object]

    def make(self) -> None:
        """Write it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if callable(self.content):
            self.content(self.path)
        else:
            self.path.write_bytes(self.content)


def cases(folder: Path, canary: Path, outside: Path) -> Iterator[Case]:
    """Those of all kinds.

    Args:
        folder: that they are made in.
        canary: what a payload leaves.
        outside: a folder with a file ``kept`` and a ``folder`` that none may touch.
    """
    number = 0
    for kind, makes in KINDS.items():
        for name, file, content in makes(canary, outside):
            yield Case(kind, name, folder / kind / str(number) / file, content)
            number += 1


def _other_things() -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "a pipe", os.mkfifo
    yield "a device without end", lambda path: os.symlink("/dev/zero", path)
    yield "a link to itself", lambda path: os.symlink(path, path)
    yield "a socket", bind
    yield "a folder", os.mkdir
    yield "30 GiB, sparse", sparse(b"PK\x03\x04", 30 * 2**30)


def _weights(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    for name, payload in payloads(canary, outside):
        data = pickle.dumps({"state_dict": {"fc.weight": payload}}, 2)
        yield f"{name} in an archive", "x.pth", lambda path, data=data: archive(path, data)
        yield f"{name} in the old format", "x.pth", legacy(data)
        yield f"{name} in a plain pickle", "x.safetensors" if name == "eval" else "x.pth", data
    weights = {"fc.weight": torch.zeros(4, 3), "fc.bias": torch.zeros(4)}
    large = torch.zeros(1).expand(10**6, 10**6)
    yield "a tensor of stride 0", "x.pth", saved({**weights, "fc.weight": large})
    yield "a tensor of stride 0 beside", "x.pth", saved({**weights, "other": large})
    yield "one storage, many names", "x.pth", saved({f"w{n}": torch.zeros(1000).expand(1000, 1000) for n in range(100)})
    shared = torch.zeros(10**5)
    yield "the same bytes often", "x.pth", saved({f"w{n}": shared[n:] for n in range(2000)})
    yield "a tensor without values", "x.pth", saved({**weights, "fc.weight": torch.zeros(10**6, 10**6, device="meta")})
    sparse_tensor = torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6))
    yield "a sparse tensor", "x.pth", saved({**weights, "fc.weight": sparse_tensor})
    quantized = torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.qint8)
    yield "a quantized tensor", "x.pth", saved({**weights, "fc.weight": quantized})
    yield "a tuple that is hashed for ever", "x.pth", lambda path: archive(path, tuples(60))
    yield "likewise, and something of a program", "x.pth", beside_a_program
    yield "likewise, behind a second table", "x.pth", two_tables
    yield "likewise in the old format", "x.pth", legacy(tuples(60))
    dictionary = {"w": 1}
    for _ in range(60):
        dictionary = {"a": dictionary, "b": dictionary}
    yield "dictionaries, each twice", "x.pth", saved(dictionary)
    wide = [{} for _ in range(30)]
    for each in wide:
        each.update({str(n): other for n, other in enumerate(wide)})
    yield "dictionaries that hold each other", "x.pth", saved(wide[0])
    deep: dict = {"w": torch.zeros(1)}
    for _ in range(400):
        deep = {"a": deep}
    yield "dictionaries 400 deep", "x.pth", saved(deep)
    yield "bytes that are not there", "x.pth", lambda path: archive(path, call("builtins", "bytearray", 10**11))
    yield (
        "an encoding that takes for ever",
        "x.pth",
        lambda path: archive(path, call("_codecs", "encode", "ä" * 10**6, "punycode")),
    )
    yield "a module of an encoding", "x.pth", lambda path: archive(path, call("_codecs", "encode", "x", "mbcs"))
    yield (
        "a packed archive",
        "x.pth",
        lambda path: archive(path, pickle.dumps({}, 2), {"0": bytes(300 * 2**20)}, compression=zipfile.ZIP_DEFLATED),
    )
    yield "entries over each other", "x.pth", overlapping
    whole = saved(weights)
    for part in (0.1, 0.5, 0.9, 0.99):
        yield f"cut at {part}", "x.pth", whole[: int(part * len(whole))]
    for seed in range(4):
        yield f"noise {seed}", "x.pth", (b"PK\x03\x04", b"\x80\x02", b"", pickle.dumps(1))[seed] + noise(seed)
    for what, name in NAMES.items():
        yield f"a weight's name with {what}", "x.pth", saved({name: torch.zeros(2), "fc.weight": torch.zeros(2)})
    yield from ((what, "x.pth", make) for what, make in _other_things())
    yield "a tar archive", "x.pth", tar({"storages": tarfile.SYMTYPE}, link="/etc/passwd")


def noise(seed: int, size: int = 2000) -> bytes:
    """Bytes without meaning."""
    return np.random.default_rng(seed).bytes(size)


def beside_a_program(path: Path) -> None:
    """An archive with a file named as one of TorchScript's, in another folder."""
    archive(path, tuples(60))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/sub/constants.pkl", b"")


def two_tables(path: Path) -> None:
    """An archive with a table of contents for Python's reader, of something harmless, and another one for torch's."""
    parts = []
    for content in (tuples(60), pickle.dumps({}, 2)):
        archive(path, content)
        raw = path.read_bytes()
        end = raw.rfind(b"PK\5\6")
        count, length, start = struct.unpack("<HLL", raw[end + 10 : end + 20])
        parts.append((raw[:start], raw[start : start + length]))
    (bad, bad_table), (good, good_table) = parts
    assert len(bad_table) == len(good_table)
    shifted, place = b"", 0
    while place < len(good_table):  # Python adds what lies between the two tables to each entry's place
        name, extra, comment = struct.unpack("<HHH", good_table[place + 28 : place + 34])
        (offset,) = struct.unpack("<L", good_table[place + 42 : place + 46])
        stop = place + 46 + name + extra + comment
        offset += len(bad) - len(bad_table)
        shifted += good_table[place : place + 42] + struct.pack("<L", offset) + good_table[place + 46 : stop]
        place = stop
    files = bad + good
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count, count, len(bad_table), len(files), 0)
    path.write_bytes(files + bad_table + shifted + end)


def overlapping(path: Path) -> None:
    """An archive whose entries are all the same bytes."""
    archive(path, pickle.dumps({}, 2), {"0": bytes(2**20)})
    with zipfile.ZipFile(path, "a") as file:
        first = file.getinfo("archive/data/0")
        for number in range(1, 5000):
            entry = zipfile.ZipInfo(f"archive/data/{number}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(entry, name, getattr(first, name))
            file.filelist.append(entry)
            file.NameToInfo[entry.filename] = entry
        file._didModify = True


def tar(members: dict[str, bytes], link: str = "", packed: str = "") -> bytes:
    """A tar archive of entries by name and kind."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{packed}") as made:
        for name, kind in members.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = kind, link, 0o4777
            entry.size = 4 if kind == tarfile.REGTYPE else 0
            made.addfile(entry, io.BytesIO(b"evil") if entry.size else None)
    return file.getvalue()


def _resumes(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def checkpoint(**other) -> dict:
        usual = {"epoch": 0, "state_dict": {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}}
        return {**usual, "loops": {}, "optimizer_states": [{"state": {}, "param_groups": []}], **other}

    for name, payload in payloads(canary, outside):
        data = pickle.dumps(checkpoint(state_dict={}, callbacks={"x": payload}), 2)
        yield f"{name} in a callback", "last.ckpt", lambda path, data=data: archive(path, data)
    twice: list = [1]
    for _ in range(60):
        twice = [twice, twice]
    yield "lists, each twice", "last.ckpt", saved(checkpoint(callbacks={"x": twice}))
    itself: list = []
    itself.append(itself)
    yield "a list that holds itself", "last.ckpt", saved(checkpoint(loops={"x": itself}))
    yield (
        "another shape",
        "last.ckpt",
        saved(checkpoint(state_dict={"weight": torch.zeros(5, 3), "bias": torch.zeros(4)})),
    )
    yield "another name", "last.ckpt", saved(checkpoint(state_dict={"w\x1b[2J": torch.zeros(4, 3)}))
    yield "no tensor", "last.ckpt", saved(checkpoint(state_dict={"weight": 1, "bias": torch.zeros(4)}))
    large = torch.zeros(1).expand(10**6, 10**6)
    yield "a state of stride 0", "last.ckpt", saved(checkpoint(optimizer_states=[{"state": {0: {"evil": large}}}]))
    yield "90 MiB beside", "last.ckpt", saved(checkpoint(callbacks={"x": torch.zeros(90 * 2**18)}))
    for key in ("epoch", "loops", "optimizer_states", "state_dict"):
        yield f"{key} of another kind", "last.ckpt", saved(checkpoint(**{key: "x"}))
        yield f"no {key}", "last.ckpt", saved({k: v for k, v in checkpoint().items() if k != key})
    yield "code to make", "last.ckpt", saved(checkpoint(hyper_parameters={"_target_": "os.system", "command": "x"}))
    yield (
        "code to make, as Lightning once did",
        "last.ckpt",
        saved(checkpoint(hyper_parameters={"_instantiator": "os.system"})),
    )
    yield from ((what, "last.ckpt", make) for what, make in _other_things())


def _safetensors(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def entry(shape: list, start: int, end: int, dtype: str = "F32") -> dict:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    for length in (0, 1, 10**6, 2**31, 2**63, 2**64 - 1):
        yield f"a header of {length} bytes", "x.safetensors", file({"w": entry([2], 0, 8)}, bytes(8), length)
    yield "more than the file has", "x.safetensors", file({"w": entry([2**40], 0, 2**42)}, bytes(8))
    yield "a shape that is no number", "x.safetensors", file({"w": entry([2**63, 2**63], 0, 8)}, bytes(8))
    yield "a shape below 0", "x.safetensors", file({"w": entry([-2], 0, 8)}, bytes(8))
    yield "another shape than bytes", "x.safetensors", file({"w": entry([2**31, 2**31], 0, 8)}, bytes(8))
    yield "bytes before the file", "x.safetensors", file({"w": entry([2], -8, 0)}, bytes(8))
    yield "bytes backwards", "x.safetensors", file({"w": entry([2], 8, 0)}, bytes(8))
    yield "the same bytes twice", "x.safetensors", file({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8))
    yield "a type that there is not", "x.safetensors", file({"w": entry([2], 0, 8, "os.system")}, bytes(8))
    yield "a type of four bits", "x.safetensors", file({"w": entry([4], 0, 2, "F4")}, bytes(2))
    yield (
        "the same name twice",
        "x.safetensors",
        file(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":1}', bytes(4)),
    )
    yield "no JSON", "x.safetensors", file(b"{" * 1000)
    yield "JSON 100,000 deep", "x.safetensors", file(b'{"w":' * 100_000)
    yield "no weights", "x.safetensors", file({})
    yield "a weight of 10^12 without values", "x.safetensors", file({"w": entry([0, 10**12], 0, 0)})
    yield "a pickle", "x.safetensors", pickle.dumps({}, 2)
    for what, name in NAMES.items():
        yield f"a name with {what}", "x.safetensors", file({name: entry([2], 0, 8)}, bytes(8))
    usual = {"network": "resnet8", "options": "{}", "classes": '["a", "b"]', "image_size": "8", "mean": "[0, 0, 0]"}
    usual |= {"std": "[1, 1, 1]", "normalize": "false", "temperature": "null", "precision": "float32", "version": ""}
    for key, value in (
        ("network", "timm/hf-hub:someone/something"), ("network", "../../x"), ("network", "nothing"),
        ("options", '{"checkpoint_path": "/etc/passwd"}'), ("options", '{"pretrained_cfg": {"url": "http://x"}}'),
        ("options", '{"weights": "DEFAULT"}'), ("options", "[1]"), ("options", '{"in_channels": -1}'),
        ("classes", "5"), ("classes", "[1, 2]"), ("classes", '["a\\u001b[2J", "b"]'), ("classes", "[" * 100_000),
        ("mean", '"x"'), ("std", "null"), ("image_size", "1e9"), ("image_size", "-1"), ("image_size", "{}"),
    ):  # fmt: skip
        said = {"__metadata__": usual | {key: value}, "w": entry([2], 0, 8)}
        yield f"{key} {value[:20]}", "student.safetensors", file(said, bytes(8))
    yield from ((what, "x.safetensors", make) for what, make in _other_things())


def _images(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    yield from ((name, f"x{ending}", content) for name, ending, content in images(canary))


def _folders(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def named(name: str):
        return lambda path: [(path / "train" / each).mkdir(parents=True) for each in (name, "dog")]

    for what, name in NAMES.items():
        yield f"a class with {what}", "root", named(name)
    yield (
        "a class that is a link above itself",
        "root",
        lambda path: (
            (path / "train").mkdir(parents=True),
            os.symlink("..", path / "train" / "a"),
        ),
    )
    yield "a link to itself", "root", lambda path: os.symlink(path, path)
    yield "a pipe", "root", os.mkfifo


def _configurations(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def written(content: bytes | Callable[[Path], object]):
        def make(path: Path) -> None:
            (path / ".hydra").mkdir(parents=True)
            file = path / ".hydra" / "config.yaml"
            content(file) if callable(content) else file.write_bytes(content)

        return make

    for number, text in enumerate([*FOREIGN, *GROWING.values()]):
        named = text.replace("touch ran", f"touch {canary}").replace("args: [touch, ran]", f"args: [touch, {canary}]")
        yield f"{number}: {text[:40]}", "run", written(named.encode())
    tags = ("python/object/apply:os.system ['touch CANARY']", "python/object/new:os.system ['touch CANARY']")
    tags += (
        "python/object/apply:builtins.open [CANARY, w]",
        "python/object/apply:os.mkdir [CANARY]",
        "python/name:os.system",
    )
    for tag in tags:
        yield f"!!{tag}", "run", written(f"data: !!{tag.replace('CANARY', str(canary))}".encode())
    for name, arguments in (
        ("os.mkdir", f"path: '{canary}'"), ("os.remove", f"path: '{outside / 'kept'}'"),
        ("shutil.rmtree", f"path: '{outside / 'folder'}'"),
        ("builtins.exec", f"_args_: [\"open('{canary}', 'w')\"]"), ("pathlib.Path.touch", f"_args_: ['{canary}']"),
        ("subprocess.check_output", f"args: [touch, '{canary}']"),
        ("timeit.timeit", f"stmt: \"open('{canary}', 'w')\", number: 1"),
        ("runpy.run_path", f"path_name: '{canary}'"), ("importlib.import_module", "name: antigravity"),
        ("hydra.utils.call", f"config: {{_target_: os.mkdir, path: '{canary}'}}"),
        ("torch.hub.load", "repo_or_dir: x/y, model: z"),
        ("torch.save", f"obj: 1, f: '{canary}'"), ("numpy.save", f"file: '{canary}', arr: 1"),
    ):  # fmt: skip
        yield name, "run", written(f"data: {{_target_: {name}, {arguments}}}".encode())
    yield from ((what, "run", written(make)) for what, make in _other_things())


def _runs(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    summary = {
        "model": "a_to_b",
        "data": "fake",
        "method": "kd",
        "temperature": "global",
        "curriculum": "cosine",
        "seed": 1,
    }
    summary |= {
        "status": "complete",
        "stage": "test",
        "teacher": None,
        "student": {"name": "b", "top1": 1.0},
        "epochs": 1,
    }

    def run(file: str, content: object):
        def make(path: Path) -> None:
            (path / ".hydra").mkdir(parents=True)
            (path / ".hydra" / "config.yaml").write_text("seed: 1\n")
            (path / "summary.json").write_text(json.dumps(summary))
            (path / "metrics.csv").write_text("epoch,step,val/top1\n0,1,2\n")
            (path / file).unlink(missing_ok=True)
            content(path / file) if callable(content) else (path / file).write_bytes(content)

        return make

    for file in ("summary.json", "metrics.csv"):
        yield from ((f"{file}, {what}", "run", run(file, make)) for what, make in _other_things())
        yield f"{file} of noise", "run", run(file, noise(1))
    for what, text in {"deep": "[" * 10**5, "a long number": "1" * 10**5, "nothing": "", "NUL": "\0" * 100}.items():
        yield f"summary.json, {what}", "run", run("summary.json", text.encode())
    for key, value in {
        "seed": "x", "model": 5, "epochs": [1], "student": "x", "final": {"τ": "x"}, "status": "well",
        "best": {"top1": "x"},
        "versions": [1], "hardware": 5, "without_effect": 5, "train_seconds": {}, "saturated": [[]],
    }.items():  # fmt: skip
        yield (
            f"summary.json, {key} of another kind",
            "run",
            run("summary.json", json.dumps(summary | {key: value}).encode()),
        )
    yield "metrics.csv, words", "run", run("metrics.csv", b"epoch,val/top1\n0,os.system\n")
    yield "metrics.csv, a long cell", "run", run("metrics.csv", b"epoch\n" + b"1" * 200_000)
    yield "metrics.csv, more cells", "run", run("metrics.csv", b"epoch\n1,2,3\n")


def _arrays(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    for name, payload in payloads(canary, outside):
        yield name, "watch_dataset.npy", object_array(pickle.dumps({"X": payload}, 2))
    multiarray = np.empty(0).__reduce__()[0].__module__

    def made(shape: str) -> bytes:
        return f"c{multiarray}\n_reconstruct\ncnumpy\nndarray\n({shape}tS'b'\ntR.".encode().replace(b"(", b"((", 1)

    yield "an array of 10^11 without values", "watch_dataset.npy", object_array(made("L100000000000L\n"))
    yield "the class itself called", "watch_dataset.npy", object_array(b"cnumpy\nndarray\n((L100000000000L\nttR.")
    yield "a tuple that is hashed for ever", "watch_dataset.npy", object_array(tuples(60))
    yield "another encoding", "watch_dataset.npy", object_array(call("_codecs", "encode", "ä" * 10**6, "punycode"))
    yield "another shape", "watch_dataset.npy", object_array(b"").replace(b"()", b"(9,)")
    yield "no array", "watch_dataset.npy", noise(1)
    yield from ((what, "watch_dataset.npy", make) for what, make in _other_things())


def _caches(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def header(text: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"

    for file in ("decoded.npy", "teacher.npy"):
        for name, payload in list(payloads(canary, outside))[:6]:
            yield f"{name} in {file}", file, object_array(pickle.dumps(payload, 2))
        for shape in ("(10**15,)", "(1000000000000000,)", "(-1,)", "(5, 3, 4, 1000000000000)"):
            text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
            yield f"{file} of shape {shape}", file, header(text)
        yield f"{file}, code in the header", file, header("__import__('os').system('touch x')")
        yield f"{file} of noise", file, noise(2)
        for what, make in _other_things():
            if what != "a folder":
                yield f"{file}, {what}", file, make


def _archives(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    kinds = {"a file": tarfile.REGTYPE, "a pipe": tarfile.FIFOTYPE, "a folder": tarfile.DIRTYPE}
    for where, name in {"above": "../" * 12 + str(canary)[1:], "absolute": str(canary)}.items():
        for what, kind in kinds.items():
            yield f"tar: {what}, {where}", "cifar-10-python.tar.gz", tar({name: kind}, packed="gz")
    for what, kind in {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}.items():
        data = tar({str(canary): kind}, link=str(outside / "kept"), packed="gz")
        yield f"tar: a {what} link", "cifar-10-python.tar.gz", data
    yield "tar: 1 GiB of nothing", "cifar-10-python.tar.gz", zlib.compress(bytes(10**6), 9, 31) * 1000
    yield "tar: noise", "cifar-10-python.tar.gz", noise(3)
    names = {"above": "../" * 12 + str(canary)[1:], "absolute": str(canary)}
    names |= {"above, as on Windows": "..\\..\\x", "out of the folder": "tiny-imagenet-200/../../x"}
    for where, name in names.items():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            made.writestr(name, "evil")
        yield f"zip: {where}", "tiny-imagenet-200.zip", file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, str(outside))
        made.writestr("link/kept", "evil")
        made.writestr("bomb", bytes(300 * 2**20))
    yield "zip: a link and a bomb", "tiny-imagenet-200.zip", file.getvalue()
    yield "zip: noise", "tiny-imagenet-200.zip", b"PK\x03\x04" + noise(4)


def _texts(canary: Path, outside: Path) -> Iterator[tuple[str, str, object]]:
    def tiny(file: str, content: object):
        def make(path: Path) -> None:
            base = path / "tiny-imagenet-200"
            (base / "val" / "images").mkdir(parents=True)
            (base / "wnids.txt").write_text("n1\nn2\n")
            (base / "words.txt").write_text("n1\tcat, kitty\nn2\tdog\n")
            (base / "val" / "val_annotations.txt").write_text("a.JPEG\tn1\t0\n")
            (base / file).unlink()
            content(base / file) if callable(content) else (base / file).write_bytes(content)

        return make

    for file in ("words.txt", "wnids.txt", "val/val_annotations.txt"):
        yield from ((f"{file}, {what}", "root", tiny(file, make)) for what, make in _other_things())
        yield f"{file} of noise", "root", tiny(file, b"\xff\xfe" + noise(5))
    for line in ("../../../etc/passwd\tn1", "/etc/passwd\tn1", "a.JPEG\tn9", "a.JPEG", ".hidden\tn1"):
        yield f"val_annotations.txt, {line}", "root", tiny("val/val_annotations.txt", line.encode())
    yield "words.txt without a class", "root", tiny("words.txt", b"n1\tcat\n")


KINDS = {
    "weights": _weights,
    "resume": _resumes,
    "safetensors": _safetensors,
    "images": _images,
    "folders": _folders,
    "configurations": _configurations,
    "runs": _runs,
    "arrays": _arrays,
    "caches": _caches,
    "archives": _archives,
    "texts": _texts,
}
