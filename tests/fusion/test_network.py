"""Encoders and their fusion as one network: features, what is missing, copies, and exports of equal numbers."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion import FusedNetwork, TemperatureFusion
from ctkd_lightning.fusion.network import feature_widths
from tests.fusion.test_fusion import moved

WIDTHS = {"image": 6, "audio": 8}
REACHES = {"scores": {}, "features": {"joint": WIDTHS, "context": WIDTHS}, "joint": {"joint": {"image": 6}}}


def encoders(seed=0):
    torch.manual_seed(seed)
    return {
        "audio": nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)),
        "image": nn.Sequential(
            nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(True), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)
        ),
    }


def network(reach="features", **settings):
    fusion = TemperatureFusion(3, ["image", "audio"], **REACHES[reach])
    return FusedNetwork(encoders(), moved(fusion), **settings).eval()


def inputs(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(size, 2, 9, generator=generator),
        "audio": torch.randn(size, 5, generator=generator),
        "target": torch.zeros(size),
    }


@pytest.mark.parametrize("reach", REACHES)
def test_it_is_the_fusion_of_its_encoders(reach):
    net, x = network(reach), inputs()
    scores = {name: encoder(x[name]) for name, encoder in net.encoders.items()}
    pooled = {name: encoder[:-1](x[name]) for name, encoder in net.encoders.items()}
    fusion = net.fusion
    settings = {"features": pooled} if fusion.joint else {}
    settings |= {"context": pooled} if reach == "features" else {}
    torch.testing.assert_close(net(x), fusion(scores, **settings)[0])
    mask = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]])
    torch.testing.assert_close(net(x, mask), fusion(scores, mask, **settings)[0])


def test_inputs_that_are_not_finite_count_as_missing():
    net, x = network().train(), inputs()
    net.fusion.joint.eval()  # its dropout
    clean = copy.deepcopy(net)
    mask = torch.ones(4, 2)
    mask[1, 0] = mask[2, 1] = 0
    x["image"][1], x["audio"][2] = 0.0, 0.0
    expected = clean.run(x, mask)
    x["image"][1, 0, 3], x["audio"][2, 1] = torch.nan, torch.inf
    with pytest.warns(UserWarning, match="inputs of 'image' are NaN or infinite"):
        found = net.run(x)
    torch.testing.assert_close(found.fused, expected.fused)
    target = torch.arange(4) % 3
    for module, output in ((net, found), (clean, expected)):
        module.fusion.losses_of(output.experts, output.fused, target)["loss"].backward()
    for one, other in zip(net.parameters(), clean.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that they are missing was said
        copy.deepcopy(clean).run(x, {"image": mask[:, 0], "audio": mask[:, 1] != 0})


def test_a_mask_of_positions_beside_inputs_that_are_not_finite():
    tokens = {name: nn.Linear(4, 3) for name in ("image", "audio")}
    net = FusedNetwork(tokens, moved(TemperatureFusion(3, ["image", "audio"])))
    x = {name: torch.randn(2, 2, 4) for name in tokens}
    mask = torch.tensor([[1, 0], [1, 1]])
    expected, _ = net.fusion({n: tokens[n](x[n]) for n in tokens}, {"image": mask, "audio": torch.tensor([1, 0])})
    x["audio"][1, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match="inputs of 'audio'"):
        found = net(x, {"image": mask})
    torch.testing.assert_close(found, expected)


def test_frozen_encoders():
    net = network(frozen=True).train()
    assert net.training
    assert net.fusion.training
    assert not any(part.training for part in net.encoders.modules())
    net(inputs()).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in net.encoders.parameters())
    assert all(p.grad is not None for p in net.fusion.parameters())


def test_encoders_keep_the_mode_that_they_came_in():
    given = encoders()
    given["image"][1].eval()
    FusedNetwork(given, TemperatureFusion(3, ["image", "audio"]))
    assert not given["image"][1].training
    assert given["audio"].training


def test_widths_of_the_features():
    given = encoders()
    given["image"][1].eval()
    assert feature_widths(given, inputs()) == WIDTHS
    assert not given["image"][1].training
    assert given["image"].training
    assert not any(part._forward_pre_hooks for encoder in given.values() for part in encoder.modules())
    with pytest.raises(UserError, match="no linear layer"):
        feature_widths({"image": nn.Conv1d(2, 6, 3)}, inputs())


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_networks_of_their_own(way):
    net, x = network(), inputs()
    if way == "deepcopy":
        other = copy.deepcopy(net)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    before = net(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other.encoders["audio"][0].weight.zero_()
    assert not torch.allclose(other(x), before)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("reach", ["scores", "features"])
def test_exported(reach):
    net, x = network(reach), inputs()
    x = {name: x[name] for name in net.fusion.modalities}
    batch = torch.export.Dim("batch")
    shapes = {"inputs": {name: {0: batch} for name in x}, "mask": {0: batch}}
    mask = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        program = torch.export.export(net, (x, mask), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(x, mask), net(x, mask))
    more = {name: value for name, value in inputs(7, seed=1).items() if name in x}
    mask = torch.arange(14).reshape(7, 2) % 3
    torch.testing.assert_close(program(more, mask), net(more, mask))


@pytest.mark.slow
def test_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    net, x = network(), inputs()
    x = {name: x[name] for name in net.fusion.modalities}
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (),
            kwargs={"inputs": x, "mask": torch.ones(4, 2)},
            dynamo=True,
            dynamic_shapes={"inputs": {name: {0: batch} for name in x}, "mask": {0: batch}},
            verbose=False,
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    more = {name: value for name, value in inputs(7, seed=1).items() if name in x}
    mask = (torch.arange(14).reshape(7, 2) % 3).float()
    mask[0] = 0
    values = [*more.values(), mask]
    feed = {put.name: value.numpy() for put, value in zip(session.get_inputs(), values, strict=True)}
    found = torch.from_numpy(session.run(None, feed)[0])
    torch.testing.assert_close(found, net(more, mask).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": nn.Linear(1, 1)}, "'audio' has no encoder"),
        ({**encoders(), "text": nn.Linear(1, 1)}, "no modality 'text'"),
        ({**encoders(), "audio": None}, "'audio' has no encoder"),
        ({**encoders(), "audio": nn.Flatten()}, "no linear layer at its end"),
    ],
)
def test_encoders_that_are_refused(given, message):
    fusion = TemperatureFusion(3, ["image", "audio"], joint=WIDTHS)
    with pytest.raises(UserError, match=message):
        FusedNetwork(given, fusion)


@pytest.mark.parametrize(
    ("change", "mask", "message"),
    [
        ({"image": None}, None, "must be a tensor, found a NoneType"),
        ({}, torch.ones(4, 3), "one column for each"),
        ({}, {"image": torch.ones(3)}, "mask of 'image'"),
        ({}, {"imag": torch.ones(4)}, "did you mean image"),
    ],
)
def test_batches_that_are_refused(change, mask, message):
    with pytest.raises(UserError, match=message):
        network()(inputs() | change, mask)


def test_a_batch_without_a_modality():
    with pytest.raises(UserError, match="the batch has no modality 'image'"):
        network()({"audio": torch.ones(4, 5)})
