from torch import nn

from ctkd_lightning.features._head import find_classifier


def test_own_name_wins_over_the_last_linear_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert find_classifier(model) == "1"
    model.__dict__["classifier_layer"] = "0"
    assert find_classifier(model) == "0"


def test_last_convolution_where_there_is_no_linear_layer():
    assert find_classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1), nn.ReLU())) == "1"


def test_neither():
    assert find_classifier(nn.Sequential(nn.ReLU())) == ""
