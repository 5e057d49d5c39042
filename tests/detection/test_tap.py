import copy

import pytest

from ctkd_lightning.detection import DetectorTap, find_detector
from ctkd_lightning.errors import UserError
from tests.detection.small import collated, made, scenes


def test_it_keeps_nothing_unless_it_listens_nor_in_copies():
    network = made("rcnn", 1)
    tap = DetectorTap(find_detector(network))
    heard = tap.listen()
    twin = copy.deepcopy(network)
    twin(*collated(scenes(1)))
    assert not heard
    tap.stop()
    network(*collated(scenes(1)))
    assert not heard


def test_children_that_did_not_run():
    tap = DetectorTap(find_detector(made("rcnn", 1)))
    with pytest.raises(UserError, match="its rpn, heads, pool, scores did not run"):
        tap.output(tap.listen())
