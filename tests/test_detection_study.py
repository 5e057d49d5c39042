"""The study of detectors: its lines become its table."""

import json

import pytest
from scipy import stats

from benchmarks.detection import ARMS, read_lines, table
from ctkd_lightning import build
from ctkd_lightning.methods import KD

MAP = {"alone": [50.0, 52.0, 51.0], "fixed 1, weight 3": [51.5, 53.0, 52.8], "learned from 1, weight 3": [52.0, 52.5]}


def lines(path, sum_of_teacher="t", start="s"):
    written = [
        {"arm": arm, "seed": seed, "map": value, "ap50": 1.5 * value,
         "tau": [1.0, 1.0 + seed][: 0 if arm == "alone" else 2],
         "start": f"{start}{seed}", "teacher": {"sum": sum_of_teacher, "map": 80.0, "ap50": 95.0}}
        for arm, values in MAP.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    path.write_text(path.read_text() if path.exists() else "")
    with path.open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in written)
    return path


def test_the_table(tmp_path):
    found = list(table(read_lines(lines(tmp_path / "runs.jsonl"))))
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (row.split("|") for row in found[:-2])
    }
    low, high = stats.ttest_rel(MAP["fixed 1, weight 3"], MAP["alone"]).confidence_interval(0.95)
    assert rows["fixed 1, weight 3"][:4] == [
        "3",
        "2.00",
        f"52.43 ± {stats.tstd(MAP['fixed 1, weight 3']):.2f}",
        f"+{(low + high) / 2:.2f} ± {(high - low) / 2:.2f}",
    ]
    assert rows["alone"] == ["3", "–", "51.00 ± 1.00", "–", "76.50 ± 1.50", "–"]
    assert rows["the teacher"][2] == "80.00"
    assert "fixed 1, weight 1" not in rows
    low, high = stats.ttest_rel([52.0, 52.5], [51.5, 53.0]).confidence_interval(0.95)
    assert f"mAP % {(low + high) / 2:+.2f} ± {(high - low) / 2:.2f}" in found[-1]  # of the seeds that both have


@pytest.mark.parametrize(
    ("more", "message"), [({"start": "x"}, "different students"), ({"sum_of_teacher": "u"}, "teach")]
)
def test_lines_that_cannot_be_paired(tmp_path, more, message):
    lines(tmp_path / "runs.jsonl")
    with pytest.raises(SystemExit, match=message):
        read_lines(lines(tmp_path / "runs.jsonl", **more))


def test_the_arms_are_what_their_names_say():
    for arm, settings in ARMS.items():
        cfg = build.config("experiment=detection_digits", *settings)
        if arm == "alone":
            assert cfg.method.alone
            continue
        terms = build.methods(cfg)
        assert isinstance(terms["kd"], KD)
        assert f"weight {terms['kd'].weight:g}" in arm
        assert cfg.method.ce_weight == 1
        learned = sum(p.numel() for p in build.temperature(cfg, terms, 11).parameters())
        assert learned == ("learned" in arm)
