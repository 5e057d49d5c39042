import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import SeriesEncoder, VectorEncoder


def test_no_hidden_layer_is_a_linear_classifier():
    encoder, x = VectorEncoder((2, 3), 4), torch.randn(5, 2, 3)
    torch.testing.assert_close(encoder(x), x.reshape(5, 6) @ encoder.head.weight.T + encoder.head.bias)
    assert len(list(encoder.parameters())) == 2


def test_hidden_layers_are_normalised_and_rectified():
    encoder, x = VectorEncoder((6,), 4, hidden=[8], dropout=0.9).eval(), torch.randn(5, 6)
    _, linear, norm, *_ = encoder.body
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    hidden = ((x @ linear.weight.T + linear.bias - 0.3) / (2.0 + norm.eps) ** 0.5).clamp(min=0)
    torch.testing.assert_close(encoder(x), hidden @ encoder.head.weight.T + encoder.head.bias)


def test_series_are_convolved_with_a_stride_and_averaged():
    encoder, x = SeriesEncoder((3, 50), 7, width=4).eval(), torch.randn(2, 3, 50)
    h = x
    for conv, padding in zip(encoder.body[::3], (3, 2, 2), strict=True):
        h = F.conv1d(h, conv.weight, stride=2, padding=padding).div((1 + 1e-5) ** 0.5).clamp(min=0)
    assert h.shape == (2, 8, 7)
    torch.testing.assert_close(encoder(x), F.linear(h.mean(dim=2), encoder.head.weight, encoder.head.bias))
    assert encoder(torch.randn(2, 3, 81)).shape == (2, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeriesEncoder((64,), 7), r"takes samples \(channels, T\), found the shape \(64,\)"),
        (lambda: SeriesEncoder((3, 50), 7, width=0), "width"),
        (lambda: VectorEncoder((8,), 7, hidden=[0]), "hidden width"),
        (lambda: VectorEncoder((8,), 7, dropout=1.0), "dropout"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
