"""Two gloo processes against one that sees both their batches at once."""

import pytest

from tests.modules import fusing_ddp_script
from tests.processes import launch_two


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    first, second = launch_two("tests.modules.fusing_ddp_script", tmp_path)
    alone = fusing_ddp_script.results(tmp_path)
    for kind, expected in alone.items():
        assert first[kind] == second[kind]
        assert first[kind]["weights"] == pytest.approx(expected["weights"], rel=1e-4, abs=1e-6)
        assert first[kind]["logged"] == pytest.approx(expected["logged"], rel=1e-4, abs=1e-6)
        assert ("ctkd/temperature_max/audio" in expected["logged"]) == (kind == "instance")
