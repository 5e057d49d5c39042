import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.detection import DetectorTap, find_detector
from ctkd_lightning.features.outputs import NetworkOutput
from tests.detection.small import CLASSES, collated, made, scenes


def heard(network, samples, roles=()):
    tap = DetectorTap(find_detector(network), roles)
    kept = tap.listen()
    found = network(*collated(samples))
    tap.stop()
    tap.remove()
    return found, tap.output(kept)


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd"])
def test_the_boxes_are_those_that_the_network_itself_detects(kind):
    network = made(kind, 1, score_thresh=0.0, nms_thresh=1.0, detections_per_img=10**6, topk_candidates=10**6).eval()
    with torch.no_grad():
        detections, output = heard(network, scenes(1), ["boxes"])
    detected = detections[0]["boxes"]
    assert len(detected) > 0
    clipped = output.features["boxes"][0].clamp(0, 32)
    between = torch.cdist(detected, clipped, p=1)  # of p=2 there is a fast way, with errors
    assert between.amin(dim=1).amax() < 1e-4
    assert between.amin(dim=0).amax() < 1e-4


def test_the_reassigned_labels_give_ssds_own_classification_loss():
    losses, output = heard(made("ssd", 1), scenes(2, empty=(1,)))
    each = F.cross_entropy(output.logits.flatten(0, 1), output.labels.flatten(), reduction="none").view(2, -1)
    foreground = output.labels > 0
    assert foreground[0].any()
    assert not foreground[1].any()
    hardest = each[0][~foreground[0]].topk(3 * int(foreground[0].sum())).values  # three of background to one of objects
    total = each[foreground].sum() + hardest.sum()
    torch.testing.assert_close(losses["classification"], total / foreground.sum())


@pytest.mark.parametrize(("kind", "certain"), [("retinanet", 0.8807971), ("fcos", 0.8807971), ("ssd", 0.8711439)])
def test_a_place_weighs_what_the_teacher_is_sure_of(kind, certain):
    detector = find_detector(made(kind, 1))
    logits = torch.tensor([[[-2.0, 0.0, 2.0, -1.0]]])
    found = detector.step(heard(detector.network, scenes(1))[1], NetworkOutput(logits)).mask
    expected = 1 - torch.exp(logits[0, 0, 0]) / torch.exp(logits).sum() if kind == "ssd" else torch.tensor(certain)
    torch.testing.assert_close(found, expected.view(1, 1))


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_the_classes_of_one_against_the_rest_are_not_assigned(kind):
    assert heard(made(kind, 1), scenes(1))[1].labels is None
    assert find_detector(made(kind, 1)).num_classes == CLASSES
