import hashlib
import stat
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from lightning.pytorch import Trainer

from ctkd_lightning import DistillationModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_model, fingerprint, load_weights, read_state_dict, save_weights

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("resnet8", num_classes=10)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "student.",
        "network._orig_mod.",
        "classifier.",
        "net.module.",
        "_orig_mod.a.b._orig_mod.module.c.",
    ],
)
def test_loads_what_was_saved(tmp_path, model, prefix):
    source = create_model("resnet8", num_classes=10).state_dict()
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in source.items()}}, tmp_path / "x.ckpt")
    assert not equal(model.state_dict(), source)
    load_weights(model, tmp_path / "x.ckpt")
    assert equal(model.state_dict(), source)


def test_loads_into_a_wrapped_network(tmp_path, model):
    source = create_model("resnet8", num_classes=10)
    save_weights(source, tmp_path / "x.safetensors")
    load_weights(torch.nn.DataParallel(model), tmp_path / "x.safetensors")
    assert equal(model.state_dict(), source.state_dict())


def test_a_part_called_module_keeps_its_name(tmp_path):
    def make():
        return torch.nn.ModuleDict({"module": torch.nn.Linear(3, 5), "head": torch.nn.Linear(5, 2)})

    source, network = make(), make()
    save_weights(source, tmp_path / "x.safetensors")
    load_weights(network, tmp_path / "x.safetensors")
    assert equal(network.state_dict(), source.state_dict())


def test_loads_into_a_compiled_network(tmp_path, model):
    source = create_model("resnet8", num_classes=10)
    save_weights(torch.compile(source), tmp_path / "x.safetensors")
    load_weights(torch.compile(model), tmp_path / "x.safetensors")
    assert equal(model.state_dict(), source.state_dict())


def test_loads_old_files_without_batch_counters(tmp_path, model):
    source = create_model("resnet8", num_classes=10).state_dict()
    old = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(source)
    torch.save({"model": old}, tmp_path / "x.pth")
    load_weights(model, tmp_path / "x.pth")
    assert equal(model.state_dict(), source)


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("resnet8", 100, r"x\.safetensors: the checkpoint has 100 classes, the model 10; create .* num_classes=100"),
        (
            "resnet14",
            10,
            r"holds another architecture than this ResNet: of its 56 entries 0 are missing, and 36 of the file are "
            r"unknown to it \(layer1\.1\.bn1\.bias, layer1\.1\.bn1\.running_mean, layer1\.1\.bn1\.running_var, …\)",
        ),
        ("vgg8", 10, r"of its 56 entries 47 are missing \(conv1\.weight, bn1\.weight, .*unknown to it \(block0\.0"),
        ("resnet8x4", 10, r"0 are missing, and 6 of the file are unknown to it \(layer1\.0\.downsample\.0\.weight, "),
    ],
)
def test_another_network_is_refused_and_nothing_is_loaded(tmp_path, model, name, num_classes, message):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_weights(create_model(name, num_classes=num_classes), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)
    assert equal(model.state_dict(), before)


def test_another_width_is_refused(tmp_path, model):
    save_weights(create_model("resnet8", num_classes=10, in_channels=1), tmp_path / "x.safetensors")
    with pytest.raises(
        UserError,
        match=r"1 of 56 shapes differ, first conv1\.weight, \(16, 1, 3, 3\) in the file and \(16, 3, 3, 3\) in the",
    ):
        load_weights(model, tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_and_nothing_is_loaded(tmp_path, model, value):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    source = create_model("resnet8", num_classes=10)
    source.bn1.running_var[3] = value
    source.fc.weight.data[0, 0] = value
    save_weights(source, tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=r"x\.safetensors holds values that are not finite, first in bn1\.running_var: "
    ):
        load_weights(model, tmp_path / "x.safetensors")
    assert equal(model.state_dict(), before)


def test_class_count_of_another_librarys_network(tmp_path):
    save_weights(create_model("torchvision/shufflenet_v2_x0_5", num_classes=7), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="the checkpoint has 7 classes, the model 10"):
        load_weights(create_model("torchvision/shufflenet_v2_x0_5", num_classes=10), tmp_path / "x.safetensors")


def test_saved_file_is_plain_safetensors(tmp_path, model):
    path = tmp_path / "new" / "folder" / "x.safetensors"
    save_weights(model.to(memory_format=torch.channels_last), path)
    assert equal(safetensors.torch.load_file(path), model.state_dict())
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_save_replaces_the_file_instead_of_writing_into_it(tmp_path, model):
    path, reader = tmp_path / "x.safetensors", tmp_path / "as opened before"
    save_weights(create_model("resnet14"), path)
    reader.hardlink_to(path)
    before = reader.read_bytes()
    save_weights(model, path)
    assert reader.read_bytes() == before != path.read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_weights(model, path)
    before = path.read_bytes()

    def fail(self, content):
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(create_model("resnet8"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_home_folder(tmp_path, monkeypatch, model):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = create_model("resnet8", num_classes=10)
    save_weights(source, "~/new/x.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]
    load_weights(model, "~/new/x.safetensors")
    assert equal(model.state_dict(), source.state_dict())
    assert equal(read_state_dict("~/new/x.safetensors"), source.state_dict())


def test_saves_parameters_that_share_memory(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "x.safetensors")
    assert equal(read_state_dict(tmp_path / "x.safetensors"), model.state_dict())


def test_equal_networks_give_equal_files(tmp_path, model):
    """And files that the library reads: the header is written anew."""
    metadata = {name: f"{name} ünd more" for name in "qwertyuiop"}
    for name, order in (("a", 1), ("b", -1)):
        save_weights(model, tmp_path / f"{name}.safetensors", dict(list(metadata.items())[::order]))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        said = file.metadata()
    assert len(said.pop("ctkd_lightning.sha256")) == 64
    assert said == {"format": "pt", **metadata}
    loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_flipped_byte_anywhere_is_seen(tmp_path, model):
    """Safetensors has no check sum of its own: one bit in a weight would be another network, in a word another name."""
    save_weights(model, tmp_path / "a.safetensors", {"classes": "cat dog"})
    whole = (tmp_path / "a.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, start, 7), *range(start, len(whole), max(1, (len(whole) - start) // 40)), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        (tmp_path / "a.safetensors").write_bytes(damaged)
        if place < start and safetensors_reads_the_same(tmp_path / "a.safetensors", whole):
            continue  # a blank behind the header
        with pytest.raises(UserError, match=r"a\.safetensors "):
            load_weights(model, tmp_path / "a.safetensors")


def safetensors_reads_the_same(path, whole):
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = file.metadata()
        loaded, before = safetensors.torch.load_file(path), safetensors.torch.load(whole)
    except Exception:
        return False
    same = loaded.keys() == before.keys() and all(torch.equal(loaded[name], before[name]) for name in before)
    return same and said.get("classes") == "cat dog"  # of the sum itself only the name, so that there is none


def test_saving_under_another_ending_is_refused(tmp_path, model):
    with pytest.raises(UserError, match=r"must end in \.safetensors, found .*x\.pth"):
        save_weights(model, tmp_path / "x.pth")


def test_fingerprint_is_sha256_over_description_and_bytes():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = hashlib.sha256(b"('w', 'torch.float32', (2, 2))" + values.numpy().tobytes()).hexdigest()
    assert fingerprint({"w": values}) == expected
    assert fingerprint({"w": values.T.contiguous().T}) == expected  # strides do not matter


def test_fingerprint_sees_every_difference():
    base = {"a": torch.zeros(4), "b": torch.tensor(1)}
    others = [
        {"a": torch.zeros(4)},
        {"c": torch.zeros(4), "b": torch.tensor(1)},
        {"a": torch.zeros(2, 2), "b": torch.tensor(1)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.tensor(1)},
        {"a": torch.zeros(4), "b": torch.tensor(2)},
        {"a": torch.zeros(4, dtype=torch.bfloat16), "b": torch.tensor(1)},
    ]
    assert len({fingerprint(state) for state in [base, *others]}) == len(others) + 1


def test_loads_the_student_of_a_distillations_checkpoint(tmp_path, model):
    student = create_model("resnet8", num_classes=10)
    module = DistillationModule(create_model("resnet14", num_classes=10), student)
    trainer = Trainer(accelerator="cpu", logger=False, enable_model_summary=False, default_root_dir=tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    load_weights(model, tmp_path / "x.ckpt")
    assert equal(model.state_dict(), student.state_dict())


@pytest.mark.parametrize("name", ["wrn_40_2", "resnet56"])
def test_real_teachers_load(name):
    path = SHARED / "teachers" / f"{name}_tin32a.pth"
    if not path.exists():
        pytest.skip("no trained teacher beside the repository")
    model = create_model(name)
    load_weights(model, path)
    assert equal(model.state_dict(), torch.load(path, weights_only=True)["model"])
