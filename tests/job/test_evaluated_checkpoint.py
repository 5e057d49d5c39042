import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose, one_network
from ctkd_lightning.job.evaluated_checkpoint import of_checkpoint
from ctkd_lightning.models import create_model, save_weights

FAKE = ["data=fake", "data.test_size=8", "data.image_size=32", "data.num_classes=4"]


@pytest.fixture
def subject():
    def make(checkpoint, model, teacher=None):
        cfg = compose([*FAKE, one_network(f"model={model}")], "evaluate")
        return of_checkpoint(checkpoint, cfg.model, teacher, cfg.data, "cpu")

    return make


def test_a_network_by_name(subject):
    network = create_model("resnet8", num_classes=4)
    save_weights(network, "n.safetensors")
    made = subject("n.safetensors", "resnet8")
    candidate = made.candidates["network"]
    trained = candidate.trained()
    assert candidate.name == "resnet8"
    assert not trained.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.state_dict().items())
    assert (made.file, made.kept, made.data_name) == (None, None, "fake")


def test_a_pair(subject):
    for name in ("vgg13", "vgg8"):
        save_weights(create_model(name, num_classes=4), f"{name}.safetensors")
    made = subject("vgg8.safetensors", "vgg13_to_vgg8")
    assert {role: candidate.name for role, candidate in made.candidates.items()} == {"student": "vgg8"}
    made = subject("vgg8.safetensors", "vgg13_to_vgg8", "vgg13.safetensors")
    assert {role: candidate.name for role, candidate in made.candidates.items()} == {
        "teacher": "vgg13",
        "student": "vgg8",
    }
    for candidate in made.candidates.values():
        candidate.trained()


@pytest.mark.parametrize(
    ("checkpoint", "model", "teacher", "message"),
    [
        ("none.pth", "resnet8", None, "no such checkpoint: none.pth"),
        ("ten.safetensors", "resnet8", None, "the checkpoint has 10 classes, the model 4"),
        ("cut.safetensors", "resnet8", None, "truncated, damaged"),
        ("ten.safetensors", "resnet9", None, "unknown model 'resnet9': did you mean"),
        ("ten.safetensors", "torchvision/resnet9", None, "resnet9"),
        ("ten.safetensors", "vgg8", None, "another architecture"),
        ("ten.safetensors", "resnet8", "ten.safetensors", "teacher.checkpoint goes with a pair"),
    ],
)
def test_bad_input(subject, checkpoint, model, teacher, message):
    save_weights(create_model("resnet8", num_classes=10), "ten.safetensors")
    with open("ten.safetensors", "rb") as whole, open("cut.safetensors", "wb") as cut:
        cut.write(whole.read()[:-100])
    with pytest.raises(UserError, match=message):
        subject(checkpoint, model, teacher).candidates["network"].trained()
