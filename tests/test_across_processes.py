import pytest
import torch

from ctkd_lightning._across_processes import (
    WholeBatch,
    check_processes,
    processes,
    samples_of_all,
    shares,
    total,
    weighed,
)
from ctkd_lightning.errors import UserError
from tests.processes import TwoRanks

CPU = torch.device("cpu")
ROWS = {"even": ([0, 2], [1, 3]), "uneven": ([0, 2, 4, 5], [1, 3]), "empty": ([0, 1], []), "none": ([], [])}


def on_a_rank(rank):
    found = {"processes": processes()}
    for name, parts in ROWS.items():
        rows = torch.tensor(parts[rank], dtype=torch.float64)
        x = torch.stack([rows, 10 * rows], dim=1).requires_grad_()
        batch = WholeBatch(len(rows), CPU)
        whole, kept, other = batch.gather(x, rows > 1, rows.view(-1, 1, 1))
        weight = torch.arange(len(whole), dtype=torch.float64) + 1
        (weight[:, None] * whole.square()).sum().backward()
        found[name] = {
            "x": whole.detach(),
            "bool": kept,
            "other": other,
            "own": batch.own.tolist(),
            "length": len(batch),
        }
        found[name]["gradient"] = x.grad
    alone = WholeBatch(rank + 1, CPU, together=False)
    found["alone"] = [*alone.gather(torch.ones(rank + 1))], alone.own.tolist()
    x = torch.tensor(2.0 + rank, requires_grad=True)
    summed = total(x)
    ((1 + rank) * summed.square()).backward()
    found["total"] = summed.detach(), x.grad
    counts = [torch.tensor(n, dtype=torch.float64) for n in ((3.0, 0.0, 0.0), (1.0, 4.0, 0.0))[rank]]
    found["shares"] = torch.stack(shares(*counts))
    found["samples"] = samples_of_all(2 + rank, CPU)
    check_processes(2)
    try:
        check_processes(1)
    except UserError as error:
        found["refused"] = str(error)
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return TwoRanks(on_a_rank, tmp_path_factory.mktemp("ranks")).results()


@pytest.mark.parametrize("name", ROWS)
def test_the_whole_batch_is_in_the_order_of_the_sampler(ranks, name):
    rows = sorted(row for rows in ROWS[name] for row in rows)
    for rank, found in enumerate(ranks):
        assert found["processes"] == 2
        assert found[name]["x"].tolist() == [[row, 10 * row] for row in rows]
        assert found[name]["bool"].tolist() == [row > 1 for row in rows]
        assert found[name]["other"].shape == (len(rows), 1, 1)
        assert found[name]["other"].flatten().tolist() == rows
        assert found[name]["own"] == ROWS[name][rank]
        assert found[name]["length"] == len(rows)


@pytest.mark.parametrize("name", ROWS)
def test_the_mean_of_the_gradients_is_that_of_the_whole(ranks, name):
    for rank, found in enumerate(ranks):
        expected = [2 * (row + 1) * value for row in ROWS[name][rank] for value in (row, 10 * row)]
        # the other process has no gradient for these rows, so that the mean is a half
        assert (found[name]["gradient"] / 2).flatten().tolist() == expected


def test_alone(ranks):
    for rank, found in enumerate(ranks):
        (x,), own = found["alone"]
        assert len(x) == rank + 1
        assert own == [*range(rank + 1)]


def test_sums_carry_the_gradients_of_both_losses(ranks):
    for found in ranks:
        summed, gradient = found["total"]
        assert summed == 5
        assert gradient == 2 * 5 * 1 + 2 * 5 * 2


def test_shares_make_the_mean_of_means_that_of_all_entries(ranks):
    first, second = (found["shares"] for found in ranks)
    assert first.tolist() == [1.5, 0.0, 0.0]
    assert second.tolist() == [0.5, 2.0, 0.0]
    assert [found["samples"] for found in ranks] == [5, 5]


def test_a_training_of_fewer_processes_is_refused(ranks):
    assert all("the training has 1 process(es), and 2 are in" in found["refused"] for found in ranks)


def test_one_process():
    assert processes() == 1
    check_processes(1)
    x = torch.randn(3, 2)
    batch = WholeBatch(3, CPU)
    assert batch.gather(x)[0] is x
    assert (len(batch), batch.own.tolist()) == (3, [0, 1, 2])
    assert total(x) is x
    assert samples_of_all(3, CPU) == 3
    assert shares(torch.tensor(3.0, dtype=torch.float64))[0] == 1
    loss = weighed(torch.tensor(2.0), torch.tensor(0.5, dtype=torch.float64))
    assert (loss, loss.dtype) == (1, torch.float32)
