"""What scores mean, against torch's own losses of the same kind."""

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning._scores.scores import Scores
from ctkd_lightning.errors import UserError


def size(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("scores", "target", "dim"),
    [
        (size(6, 5), None, 1),
        (size(6, 5), size(6).long(), 1),
        (size(2, 5, 3, 4), size(2, 3, 4).long(), 1),
        (size(2, 7, 5), size(2, 7).long(), 2),
        (size(2, 5, 7), size(2, 7).long(), 1),
        (size(2, 3, 4, 9, 5), size(2, 3, 4, 9).long(), 4),
        (size(4, 6, 3, 3), size(4, 1, 3, 3).long(), 1),
        (size(4, 3, 3, 5), size(4, 3, 5).long(), 1),
    ],
)
def test_the_targets_shape_says_where_the_classes_are(scores, target, dim):
    assert Scores().find_class_dim(scores, target) == dim


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (size(6), size(6).long(), "one class a position"),
        (size(6, 1), size(6).long(), "one class a position"),
        (size(6, 1, 4, 5), size(6, 4, 5).long(), "one class a position"),
        (size(2, 5, 3, 4), None, r"there is no target, so where the classes are cannot be told: pass class_dim="),
        (size(2, 6, 6), size(2, 6).long(), r"both 1 and 2 fit.*pass class_dim="),
        (size(2, 5, 3), size(2, 4).long(), r"no dimension fits"),
        (size(2, 5, 3, 4), size(2, 5, 3, 4), r"no dimension fits.*task='binary' or 'multilabel'"),
    ],
)
def test_what_cannot_be_told_is_asked_for(scores, target, message):
    with pytest.raises(UserError, match=message):
        Scores().find_class_dim(scores, target)


def test_class_dim_of_its_own():
    assert Scores(class_dim=-1).find_class_dim(size(2, 6, 6), None) == 2
    with pytest.raises(UserError, match=r"class_dim is 3, found scores of shape \(2, 6, 6\): pass a dimension from -3"):
        Scores(class_dim=3).find_class_dim(size(2, 6, 6), None)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 4), (2, 3, 5)])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_a_sigmoid_score_is_two_classes(task, shape):
    x = 3 * torch.randn(shape, dtype=torch.float64)
    scores = Scores(task)
    assert scores.find_class_dim(x, None) is None
    logits = scores.logits(x, "student", None)
    torch.testing.assert_close(logits.softmax(-1)[..., 0], torch.sigmoid(x))
    from_probabilities = Scores(task, "probabilities").logits(torch.sigmoid(x), "teacher", None)
    torch.testing.assert_close(from_probabilities.log_softmax(-1), logits.log_softmax(-1))
    there = (torch.rand(shape) < 0.5).double()
    classes = scores.classes(there.reshape(-1), logits.shape[:-1])
    ce = F.cross_entropy(logits.flatten(0, -2), classes.flatten())
    torch.testing.assert_close(ce, F.binary_cross_entropy_with_logits(x, there))


def test_probabilities_become_their_logarithms():
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    scores = Scores(scores={"teacher": "probabilities"})
    p = x.softmax(1)
    torch.testing.assert_close(scores.logits(p, "teacher", 1).softmax(-1), p.movedim(1, -1))
    assert scores.logits(x, "student", 2) is x
    zero = scores.logits(torch.tensor([[1.0, 0.0]]), "teacher", 1)
    assert zero.isfinite().all()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (torch.tensor([[1], [0]]), [1, 0]),
        (torch.tensor([1, 0], dtype=torch.int32), [1, 0]),
        (torch.tensor([[0.2, 0.8], [1.0, 0.0]]), None),
        (torch.tensor([1.0, 0.0]), None),
        (None, None),
    ],
)
def test_class_indices(target, expected):
    found = Scores().classes(target, torch.Size([2]))
    assert (None if found is None else found.tolist()) == expected


def test_words():
    for settings in ({"task": "multi-label"}, {"scores": "logit"}, {"scores": {"teachers": "logits"}}):
        with pytest.raises(UserError, match="did you mean"):
            Scores(**settings)
