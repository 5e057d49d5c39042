"""Where in a checkpoint a network is found: compared with the tensors that were put there."""

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import load_weights
from ctkd_lightning.modules.classifier import ClassifierModule


class Net(nn.Module):
    """Three blocks with normalisation and a head."""

    def __init__(self, classes=5, width=4, blocks=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        for number in range(1, blocks + 1):
            block = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU())
            self.add_module(f"block{number}", block)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.stem(x)
        for name, block in self.named_children():
            x = block(x) if name.startswith("block") else x
        return self.fc(x.mean((2, 3)))


FIRST, SECOND = Net().state_dict(), Net().state_dict()


def under(prefix, state):
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


@pytest.fixture
def load(tmp_path):
    """Save some content, load it into a new network, and return its state; any warning is an error."""

    def call(content, network=None, **arguments):
        torch.save(content, tmp_path / "x.pth")
        network = Net() if network is None else network
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        refused = None
        try:
            load_weights(network, tmp_path / "x.pth", **arguments)
        except UserError as error:
            refused = error
        if refused:
            assert "\n" not in str(refused)
            assert equal(network.state_dict(), before)  # completely or not at all
            raise refused
        return network.state_dict()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield call


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


SCORES = torch.rand(2, 2)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"weights": FIRST, "top1": torch.tensor(71.5), "step": 9}, id="beside a tensor"),
        pytest.param({"weights": FIRST, "scores": SCORES, "rng": torch.zeros(900).byte()}, id="beside larger tensors"),
        pytest.param({"run": {"best": {"g": under("module", FIRST)}}, "seed": 1}, id="nested"),
        pytest.param({"state_dict": {**under("backbone", FIRST), "head.weight": SCORES}}, id="prefix"),
        pytest.param({"state_dict": {**under("a.b", FIRST), "a.c": SCORES, "acc.matrix": SCORES}}, id="dotted prefix"),
        pytest.param(
            {"state_dict": {**under("net", FIRST), **under("teacher", Net(blocks=4).state_dict())}}, id="deeper"
        ),
        pytest.param(
            {"state_dict": {**under("net", FIRST), **under("teacher", Net(width=8).state_dict())}}, id="wider"
        ),
        pytest.param({"state_dict": {**under("net", FIRST), **under("alias", FIRST)}}, id="twice the same"),
        pytest.param({"state_dict": {**under("module", FIRST), "n_averaged": torch.tensor(7)}}, id="averaged"),
        pytest.param({**FIRST, "total_ops": torch.ones(1), "block1.0.total_params": torch.ones(1)}, id="profiler"),
        pytest.param({**FIRST, "block2.0.flops": torch.ones(1, dtype=torch.float64)}, id="another profiler"),
        pytest.param({**FIRST, "fc.calls": torch.tensor(3), "seen": torch.tensor([True])}, id="counts"),
        pytest.param(
            {"net": FIRST, "optimizer": {"state": {0: {"momentum_buffer": SCORES}}, "param_groups": [{"lr": 0.1}]}},
            id="optimizer",
        ),
    ],
)
def test_finds_the_one_network(load, content):
    assert equal(load(content), FIRST)


def test_finds_the_network_of_any_lightning_module(load, tmp_path):
    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.picture_model = Net()
            self.register_buffer("seen", torch.zeros(7))

    for module, network in ((Lit(), "picture_model"), (ClassifierModule(Net()), "network")):
        trainer = Trainer(accelerator="cpu", logger=False, enable_model_summary=False, default_root_dir=tmp_path)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
        target = Net()
        load_weights(target, tmp_path / "x.ckpt")
        assert equal(target.state_dict(), getattr(module, network).state_dict())


TWO = {
    "prefixes": ({"state_dict": {**under("student", FIRST), **under("ema", SECOND)}}, "student", "ema"),
    "nested prefixes": ({"state_dict": {**under("net", FIRST), **under("net.old", SECOND)}}, "net", "net.old"),
    "keys": ({"net": FIRST, "ema": SECOND, "acc": torch.tensor(1.0)}, "net", "ema"),
    "keys with prefixes": ({"g": under("module.a", FIRST), "h": under("a", SECOND)}, "g.a", "h.a"),
    "usual keys": ({"state_dict": FIRST, "model": SECOND}, "state_dict", "model"),
}


@pytest.mark.parametrize(("content", "first", "second"), TWO.values(), ids=TWO)
def test_two_networks_are_refused_until_one_is_chosen(load, content, first, second):
    with pytest.raises(
        UserError,
        match=rf"holds several networks that fit, under '{first}', under '{second}': choose one, .*prefix='{first}'\)$",
    ):
        load(content)
    for spelling in ("{}", "{}."):
        assert equal(load(content, prefix=spelling.format(first)), FIRST)
        assert equal(load(content, prefix=spelling.format(second)), SECOND)


@pytest.mark.parametrize(
    ("content", "other"),
    [
        ({**FIRST, **under("ema", SECOND)}, "ema"),
        ({"model": FIRST, "model_ema": SECOND}, "model_ema"),
        ({"state_dict": under("net", FIRST), "averages": under("net", SECOND)}, "averages.net"),
    ],
)
def test_the_plain_one_of_two_is_taken_and_the_other_named(load, content, other):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert equal(load(content), FIRST)
    assert f"and not what lies under '{other}'" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert equal(load(content, prefix=other), SECOND)


def test_the_empty_prefix_is_that_without_one(load):
    assert equal(load({**FIRST, **under("ema", SECOND)}, prefix=""), FIRST)
    with pytest.raises(UserError, match="another architecture"):
        load(under("ema", SECOND), prefix="")


def test_a_key_chooses_the_one_network_below_it(load):
    assert equal(load({"old": under("net", FIRST), "new": under("net", SECOND)}, prefix="new"), SECOND)


def test_a_prefix_that_is_not_there(load):
    with pytest.raises(
        UserError, match=r"has nothing under the prefix 'teacher': the network lies under 'a', under 'b'$"
    ):
        load({"a": FIRST, "b": SECOND}, prefix="teacher")
    with pytest.raises(UserError, match=r"has nothing under the prefix 'teacher': it holds x, y$"):
        load({"x.weight": SCORES, "y": SCORES}, prefix="teacher")


def test_what_lies_beside_a_plain_network_is_told(load):
    for extra in ({"loss.weight": torch.ones(5)}, {"best": torch.tensor(0.5)}):
        with pytest.warns(UserWarning, match=rf"beside the weights that are not loaded \({next(iter(extra))}\)"):
            assert equal(load({**FIRST, **extra}), FIRST)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (Net(blocks=5).state_dict(), r"another architecture than this Net: of its 25 entries 0 are missing, and 14 of"),
        (
            {**FIRST, "block2.3.weight": SCORES},
            r"0 are missing, and 1 of the file are unknown to it \(block2\.3\.weight\)",
        ),
        ({**FIRST, "scale": SCORES}, r"and 1 of the file are unknown to it \(scale\)"),
        (
            {**FIRST, "block2.2.weight": torch.ones(1)},
            r"all weights of this Net, and in it 1 numbers that it does not have",
        ),
        (Net(blocks=2).state_dict(), r"another architecture than this Net: of its 25 entries 6 are missing"),
        (
            Net(classes=9).state_dict(),
            r"the checkpoint has 9 classes, the model 5; create the model with num_classes=9",
        ),
        (Net(width=6).state_dict(), r"another width of Net: 21 of 25 shapes differ, first stem\.weight"),
    ],
    ids=["deeper", "in a part", "of its own", "one number", "shallower", "classes", "width"],
)
@pytest.mark.parametrize("prefix", ["", "backbone", "a.b"])
def test_another_architecture_stays_refused_under_any_prefix(load, state, message, prefix):
    where = rf" under '{prefix}'" if prefix else ""
    with pytest.raises(UserError, match=rf"x\.pth{where}:? .*{message}" if "classes" not in message else message):
        load({"state_dict": under(prefix, state) if prefix else state})


def test_a_network_without_weights(load):
    with pytest.raises(UserError, match="this ReLU has no weights: there is nothing of "):
        load(FIRST, nn.ReLU())
