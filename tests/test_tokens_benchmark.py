"""The table of benchmarks/tokens.py, from lines that are made up."""

import pytest
from scipy import stats

from benchmarks.tokens import table


def line(arm, seed, bits, tau=None, start="a"):
    return {"arm": arm, "seed": seed, "bits": bits, "tau": tau, "start": f"{start}{seed}", "teacher": "t"}


REFERENCE = [line("fixed 1", seed, bits, 1.0) for seed, bits in enumerate((2.10, 2.12, 2.17), start=1)]


def test_differences_are_paired_by_seed():
    own = [2.20, 2.25, 2.26]
    rows = list(table([*REFERENCE, *(line("no teacher", seed, bits) for seed, bits in enumerate(own, start=1))]))
    interval = stats.ttest_rel(own, [2.10, 2.12, 2.17]).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    assert rows[2] == f"| no teacher | 3 | 2.237 | +0.107 ± {half:.3f} | – |"
    assert rows[3] == "| fixed 1 | 3 | 2.130 | – | 1.00 |"


def test_seeds_that_one_arm_lacks_do_not_count():
    rows = list(table([*REFERENCE, line("fixed 2", 1, 2.0, 2.0), line("fixed 2", 3, 2.0, 2.0)]))
    expected = ((2.0 - 2.10) + (2.0 - 2.17)) / 2
    assert f"| 2 | 2.000 | −{-expected:.3f} ±" in rows[3]


def test_arms_that_did_not_start_alike_are_refused():
    with pytest.raises(SystemExit, match="different first weights"):
        list(table([*REFERENCE, line("fixed 2", 1, 2.0, 2.0, start="b")]))
