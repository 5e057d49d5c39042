"""Every malicious file is refused in one line, soon, in little memory, and does nothing."""

import pytest
import torchvision.datasets.utils as downloads

from tests.malicious.__main__ import without_network
from tests.malicious.files import KINDS, cases
from tests.malicious.measure import measure
from tests.malicious.readers import OURS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, of the tensors that are made to be refused


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folder of the files, canary and what lies outside."""
    monkeypatch.setattr(downloads, "_urlretrieve", downloads._urlretrieve)  # put back at the end
    without_network()
    return tmp_path / "files", tmp_path / "canary", tmp_path / "outside"


def check(chosen, places):
    wrong = [outcome for outcome in measure(chosen, OURS, *places[1:]) if not outcome.right]
    assert not wrong


def test_there_are_more_than_three_hundred(places):
    found = list(cases(*places))
    assert len(found) >= 300
    assert {case.kind for case in found} == KINDS.keys() == OURS.keys()
    assert len({(case.kind, case.name) for case in found}) == len(found)


def test_one_in_twelve(places):
    check(list(cases(*places))[::12], places)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all(places, kind):
    check([case for case in cases(*places) if case.kind == kind], places)


def test_harm_is_seen(places):
    """What the test looks for is there where the files are believed."""
    from tests.malicious.readers import USUAL

    believed = {kind: read for kind, (_, read) in USUAL.items()}
    chosen = [case for case in cases(*places) if case.name.startswith(("os.system", "os.remove", "eval"))]
    found = list(measure(chosen, believed, *places[1:]))
    assert {outcome.harm for outcome in found} >= {"ran code", "changed what lies outside"}
    assert not any(outcome.right for outcome in found if outcome.kind in ("weights", "resume", "arrays"))
