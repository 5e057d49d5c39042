import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import DKD, KD, NetworkOutput
from ctkd_lightning.methods._base import middle_pair, stage_pairs
from ctkd_lightning.temperature import Softening


def output(stages):
    maps = {f"stage{i}": torch.full((1, 1, 1, 1), float(i)) for i in stages}
    return NetworkOutput(torch.zeros(1, 2), maps)


def test_stages_come_in_the_order_of_their_numbers():
    assert [x.item() for x in output((10, 2, 1, 11)).stages] == [1, 2, 10, 11]


def test_networks_with_other_numbers_of_stages_are_aligned_at_their_ends():
    longer, shorter = output(range(1, 13)), output(range(1, 4))
    assert [(s.item(), t.item()) for s, t in stage_pairs(longer, shorter)] == [(10, 1), (11, 2), (12, 3)]
    assert [x.item() for x in middle_pair(longer, shorter)] == [11, 2]


def test_a_weight_without_warm_up_is_a_number_and_one_with_it_a_buffer_outside_the_checkpoint():
    assert KD(weight=0.5).weight == 0.5
    for method in (DKD(weight=3.0, warmup_epochs=4), KD(weight=3.0, warmup_epochs=4)):
        assert [method.set_epoch(e) or method.weight.item() for e in range(6)] == [0.75, 1.5, 2.25, 3, 3, 3]
        assert method.state_dict() == {}


def test_a_method_that_overrides_set_epoch_hears_the_progress_as_whole_epochs():
    class Own(KD):
        def set_epoch(self, epoch):
            heard.append(epoch)

    heard = []
    engine = Distillation(teacher=torch.nn.Identity(), method=Own())
    for epoch, fraction in ((0, 0.0), (1.75, None), (2, 0.5)):
        engine.progress(epoch, fraction)
    assert heard == [0, 1, 2]


def test_warm_up_does_not_compile_again():
    method = DKD(warmup_epochs=20)
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def weighted(logits, target, temperature):
        network = NetworkOutput(logits)
        return method.weight * method(
            network, NetworkOutput(logits.flip(0)), Step(target), Softening.at(temperature, logits)
        )

    losses = []
    for epoch in range(20):
        method.set_epoch(epoch)
        losses.append(weighted(torch.eye(4), torch.arange(4), torch.tensor(4.0)).item())
    assert counter.frame_count == 1
    assert losses == pytest.approx([losses[-1] * (epoch + 1) / 20 for epoch in range(20)], rel=1e-5)


@pytest.mark.parametrize("value", ["a", None, True, math.nan, math.inf, -1])
def test_weight_and_warm_up_out_of_range(value):
    with pytest.raises(UserError, match="DKD's weight must be a finite number from 0, found"):
        DKD(weight=value)
    with pytest.raises(UserError, match="DKD's warmup_epochs must be a whole number from 0, found"):
        DKD(warmup_epochs=value)
