import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import NetworkOutput, ReviewKD, reviewkd_loss
from ctkd_lightning.methods.reviewkd import AttentionFusion
from tests.methods.setting import SMALL, Setting, on_levels

SETTINGS = {"reviewkd": Setting(ReviewKD, on_levels(reviewkd_loss), SMALL, SMALL)}


@pytest.mark.parametrize(("size", "pyramid"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,))])
def test_pyramids_of_means(size, pyramid):
    student, teacher = torch.randn(2, 3, 2, size, size)
    total, weights = ((student - teacher) ** 2).mean(), 1.0
    for level, cells in enumerate(pyramid, start=1):
        cell, weight = size // cells, 0.5**level
        weights += weight
        pooled = [x.unfold(2, cell, cell).unfold(3, cell, cell).mean((4, 5)) for x in (student, teacher)]
        total = total + weight * ((pooled[0] - pooled[1]) ** 2).mean()
    last = torch.randn(2, 3, 5, 1, 1)
    expected = total / weights + ((last[0] - last[1]) ** 2).mean()  # a single pixel has no pyramid
    torch.testing.assert_close(reviewkd_loss([student, last[0]], [teacher, last[1]]), expected)


def test_fusion_is_an_attention_over_both_maps():
    fusion = AttentionFusion(3, 4, 5, deepest=False).eval()
    student, deeper = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
    out, fused = fusion(student, deeper, torch.Size((4, 4)))
    assert out.shape == (2, 5, 4, 4)
    own = fusion.reduce(student)
    upsampled = deeper.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    share = fusion.attention(torch.cat([own, upsampled], dim=1))
    expected = own * share[:, :1] + upsampled * share[:, 1:]
    torch.testing.assert_close(fused, expected[:, :, ::2, ::2])


def test_warms_up_over_twenty_epochs():
    method = ReviewKD(weight=5.0)
    assert float(method.weight) == pytest.approx(0.25)
    method.set_epoch(19)
    assert float(method.weight) == 5


def test_wrong_input():
    with pytest.raises(UserError, match="found 1 student maps and 0 teacher maps: pass one of each a level"):
        reviewkd_loss([torch.zeros(1, 2, 4, 4)], [])


def test_adapters_start_as_the_authors_do():
    torch.manual_seed(0)
    fusion = AttentionFusion(48, 32, 64, deepest=True)
    # uniform over the variance 1 / fan_in
    for weight, fan_in in ((fusion.reduce[0].weight, 48), (fusion.expand[0].weight, 9 * 32)):
        assert weight.abs().max() <= (3 / fan_in) ** 0.5
        assert weight.var().item() == pytest.approx(1 / fan_in, rel=0.1)


def test_reads_the_students_stages_and_the_teachers_maps_before_the_activation():
    shapes = {f"stage{i}{end}": (2, 4, 8 >> i, 8 >> i) for i in (1, 2) for end in ("", "_preact")}
    student, teacher = (
        NetworkOutput(torch.zeros(2, 3), {role: torch.randn(s) for role, s in {**shapes, "pooled": (2, 6)}.items()})
        for _ in range(2)
    )
    method = ReviewKD()
    method.build(student, teacher)
    adapted, fused = [], None
    levels = [(student.feature("pooled")[:, :, None, None], teacher.feature("pooled")[:, :, None, None])]
    levels += [(student.feature(f"stage{i}"), teacher.feature(f"stage{i}_preact")) for i in (2, 1)]
    for fusion, (s, t) in zip(method.fusions, levels, strict=True):
        out, fused = fusion(s, fused, t.shape[2:])
        adapted.append(out)
    torch.testing.assert_close(method.loss(student, teacher), reviewkd_loss(adapted, [t for _, t in levels]))
