"""A batch size of one process, or of all together."""

from types import SimpleNamespace

import pytest
import torch

from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError


def on_processes(world_size, **settings):
    data = Fake(train_size=64, num_classes=4, image_size=8, val_size=0, **settings)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=world_size, local_rank=1, strategy=strategy)
    return data


@pytest.mark.parametrize(("total", "size"), [(False, 16), (True, 8)])
def test_the_batch_size_of_a_process_or_of_all_together(total, size):
    loader = on_processes(2, batch_size=16, batch_size_is_total=total).train_dataloader()
    assert {len(batch[0]) for batch in loader} == {size}


def test_a_total_that_the_processes_cannot_share():
    with pytest.raises(UserError, match="batch_size=16 is the total of all processes, and 3 do not share it evenly"):
        on_processes(3, batch_size=16, batch_size_is_total=True).train_dataloader()
