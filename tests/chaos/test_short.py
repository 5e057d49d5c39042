"""A few broken runs, and that the comparison sees what differs."""

import json
import shutil

import pytest
import torch

from tests.chaos.cases import CASES
from tests.chaos.faults import Fault, told
from tests.chaos.harness import Harness, differences

FAULTS = [
    Fault("kill", "checkpoint half written", 3),
    Fault("full", "file before its rename", 8),
]


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    return Harness(tmp_path_factory.mktemp("chaos"))


def test_a_broken_run_ends_as_a_whole_one(harness):
    case = next(case for case in CASES if case.name == "instance")
    whole, counts, _ = harness.whole(case)
    assert counts["checkpoint half written"] > 6
    broken, more = harness.folder / "broken", ()
    for fault in FAULTS:  # one after the other, in the same run
        ended = harness.run(case, broken, told(fault), *more)
        assert list(harness.endings(case, fault, ended, resumed=False)) == [], fault
        more = ("resume=auto",)
    assert harness.run(case, broken, {}, "resume=auto").status == 0
    assert list(differences(whole, broken)) == []

    other = harness.folder / "other"
    shutil.copytree(broken, other)
    checkpoint = torch.load(other / "checkpoints/last.ckpt", weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(1e-6)
    torch.save(checkpoint, other / "checkpoints/last.ckpt")
    (other / "metrics.csv").write_text((other / "metrics.csv").read_text() + "1,2\n")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "epochs": 2}))
    (other / ".lock").touch()
    found = " ".join(differences(whole, other))
    for word in ("last.ckpt: /state_dict", "metrics.csv", "epochs is 2, not 3", "left behind: .lock"):
        assert word in found
