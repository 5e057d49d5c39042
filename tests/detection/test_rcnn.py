import torch
import torch.nn.functional as F

from ctkd_lightning.detection import DetectorTap
from ctkd_lightning.detection.rcnn import RCNN
from tests.detection.small import collated, made, scenes


def heard(network, samples, roles=()):
    tap = DetectorTap(RCNN(network), roles)
    kept = tap.listen()
    losses = network(*collated(samples))
    tap.stop()
    tap.remove()
    return losses, tap.output(kept)


def test_the_reassigned_labels_give_the_networks_own_classification_loss():
    losses, output = heard(made("rcnn", 1), scenes(2))
    assert F.cross_entropy(output.logits, output.labels) == losses["loss_classifier"]
    assert (output.labels > 0).any()


def test_images_without_boxes_are_background():
    losses, output = heard(made("rcnn", 1), scenes(2, empty=(0, 1)))
    assert F.cross_entropy(output.logits, output.labels) == losses["loss_classifier"]
    assert not output.labels.any()


def test_the_boxes_are_those_of_the_assigned_class():
    network = made("rcnn", 1).double()
    kept = {}
    network.roi_heads.box_predictor.register_forward_hook(lambda module, inputs, output: kept.update(deltas=output[1]))
    _, output = heard(network, scenes(2, dtype=torch.float64), ["boxes"])
    boxes = output.features["boxes"]
    for row, label in enumerate(output.labels):
        left, top, right, bottom = torch.cat(output.places)[row]
        dx, dy, dw, dh = kept["deltas"][row].view(-1, 4)[label] / torch.tensor([10.0, 10.0, 5.0, 5.0])
        width, height = right - left, bottom - top
        x, y = left + width / 2 + dx * width, top + height / 2 + dy * height
        half_width, half_height = dw.exp() * width / 2, dh.exp() * height / 2
        expected = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height])
        torch.testing.assert_close(boxes[row], expected)


def test_the_teacher_scores_the_students_proposals_as_its_own_heads_do():
    student, teacher = made("rcnn", 1), made("rcnn", 2, channels=6).eval()
    _, output = heard(student, scenes(2))
    images = [image for image, _ in scenes(2)]
    with torch.no_grad():
        found = RCNN(teacher).score(output, ()).logits
        given = teacher.transform(images)[0]
        pooled = teacher.roi_heads.box_roi_pool(
            {"0": teacher.backbone(given.tensors)}, output.places, given.image_sizes
        )
        expected, _ = teacher.roi_heads.box_predictor(teacher.roi_heads.box_head(pooled))
    assert torch.equal(found, expected)
