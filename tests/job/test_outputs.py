import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.job import RunDirectory
from ctkd_lightning.job.outputs import NetworkOutputs, RecordingModule, TestOutputs, test_fingerprint
from ctkd_lightning.models import create_model, load_student, load_weights
from tests.quiet import quiet_trainer


def test_what_a_run_keeps(command):
    command("run_dir=run", "temperature=instance", "teacher.checkpoint=null", "data.test_size=40")
    kept = TestOutputs.read(RunDirectory("run"))
    cfg = build.config(run="run")
    data = build.data(cfg)
    network = create_model("resnet8", num_classes=4).eval()
    load_weights(network, "run/student.safetensors")
    images = torch.cat([batch.image for batch in data.test_dataloader()])
    # by hand: the layers up to the classifier, and the classifier
    read = []
    network.fc.register_forward_pre_hook(lambda _, x: read.append(x[0]))
    with torch.no_grad():
        expected = network(images)
        again = load_student("run/student.safetensors")(images)
    assert torch.equal(again, expected)
    assert torch.equal(kept.index, torch.arange(40))
    assert torch.equal(kept.target, data.split_images("test").targets)
    torch.testing.assert_close(kept.networks["student"].logits, expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(kept.networks["student"].features, read[0], rtol=2e-3, atol=2e-3)
    assert set(kept.networks) == {"teacher", "student"}
    assert kept.class_names == data.class_names
    assert load_file("run/test_outputs.safetensors")["student.logits"].dtype == torch.float16
    # the samples with the lowest and the highest τ, as they are in the data set
    order = kept.tau.argsort().tolist()
    assert set(kept.pictures) == {*order[:8], *order[-8:]}
    for position, pixels in kept.pictures.items():
        assert torch.equal(pixels, data.split_images("test").pixels[position])


def test_a_rule_gives_each_sample_its_own(command):
    """NormKD's: τ times the deviation of the student's logits."""
    command("run_dir=run", "temperature=normkd")
    kept = TestOutputs.read(RunDirectory("run"))
    tau = build.config(run="run").temperature.base.tau
    torch.testing.assert_close(kept.tau, tau * kept.networks["student"].logits.std(dim=1), rtol=2e-3, atol=2e-3)
    assert len(kept.pictures) == 16


def test_a_temperature_for_all_has_no_pictures(command):
    command("run_dir=run")
    kept = TestOutputs.read(RunDirectory("run"))
    assert kept.tau is None
    assert not kept.pictures


def test_nothing_is_kept_where_that_is_asked_for(command):
    command("run_dir=run", "keep_outputs=false")
    assert TestOutputs.read(RunDirectory("run")) is None
    assert not Path("run/test_outputs.safetensors").exists()


def test_damaged(tmp_path):
    run = RunDirectory(tmp_path)
    run.test_outputs.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged"):
        TestOutputs.read(run)


class Sideways(nn.Module):
    """A classifier without a linear head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3))


def test_a_head_of_another_kind_has_no_features(tmp_path):
    data, network = Fake(train_size=8, test_size=12, image_size=8, num_classes=4), Sideways()
    before = copy.deepcopy(network.state_dict())
    module = RecordingModule(network)
    quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert module.outputs.features is None
    assert module.outputs.logits.shape == (12, 4)
    assert set(network.state_dict()) == set(before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_numbers_that_float16_has_not(tmp_path):
    run = RunDirectory(tmp_path)
    outputs = TestOutputs(torch.arange(1), torch.zeros(1, dtype=torch.int64), {})
    outputs.networks["student"] = NetworkOutputs(torch.tensor([[1e6, -1e6]]))
    outputs.write(run)
    assert TestOutputs.read(run).networks["student"].logits.isfinite().all()


def test_the_same_test_samples_are_told():
    def told(**settings):
        data = Fake(train_size=64, test_size=32, image_size=8, num_classes=4, **settings)
        data.setup("test")
        return test_fingerprint(data)

    assert told() == told(seed=2, val_size=0, limit_train=32) != told(limit_eval=16)
