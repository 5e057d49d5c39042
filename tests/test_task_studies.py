"""The studies of detectors and of tokens: their lines become their tables, and their arms are what they say."""

import json

import pytest
from scipy import stats

from benchmarks import detection, segmentation, tokens
from benchmarks.task_study import read_lines
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
    found = list(detection.STUDY.table(read_lines(lines(tmp_path / "runs.jsonl"))))
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
    assert found[-1].startswith("`learned from 1, weight 3` less `fixed 1, weight 3`: ")
    assert f"mAP % {(low + high) / 2:+.2f} ± {(high - low) / 2:.2f}" in found[-1]  # of the seeds that both have


@pytest.mark.parametrize(
    ("more", "message"), [({"start": "x"}, "different students"), ({"sum_of_teacher": "u"}, "teach")]
)
def test_lines_that_cannot_be_paired(tmp_path, more, message):
    lines(tmp_path / "runs.jsonl")
    with pytest.raises(SystemExit, match=message):
        read_lines(lines(tmp_path / "runs.jsonl", **more))


def test_a_table_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["segmentation", "--table", "--results", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match=r"^no runs in .*none\.jsonl: run the study first"):
        segmentation.STUDY.main("")


def test_the_arms_of_detectors_are_what_their_names_say():
    for arm, settings in detection.STUDY.arms.items():
        cfg = build.config("experiment=detection_digits", *settings)
        if arm == "alone":
            assert cfg.method.alone
            continue
        terms = build.methods(cfg)
        assert isinstance(terms["kd"], KD)
        assert f"weight {terms['kd'].weight:g}" in arm
        assert cfg.method.ce_weight == 1
        assert {"box_kd": "boxes" in arm, "at": "attention" in arm} == {
            name: name in terms for name in ("box_kd", "at")
        }
        learned = sum(p.numel() for p in build.temperature(cfg, terms, 11).parameters())
        assert learned == ("learned" in arm)


def test_the_arms_of_tokens_are_what_their_names_say():
    for arm, settings in tokens.STUDY.arms.items():
        cfg = build.config("experiment=tokens_stdlib", *settings)
        if arm == "no teacher":
            assert cfg.method.alone
            continue
        terms = build.methods(cfg)
        assert (cfg.method.ce_weight, terms["kd"].weight, list(terms)) == (0.1, 0.9, ["kd"])
        assert (cfg.teacher_cache != "off") == arm.endswith("from a store")
        made = build.temperature(cfg, terms, 11)
        if arm.startswith("fixed"):
            assert arm.startswith(f"fixed {made.tau:g}")
        else:
            assert made.objective == ("cooperative" if "cooperative" in arm else "adversarial")
            assert made.bounds == ((1, 21) if "21" in arm else (1, 5))


def test_the_arms_of_segmenters_are_what_their_names_say():
    for arm, settings in segmentation.STUDY.arms.items():
        cfg = build.config("experiment=segmentation_digits", *settings)
        if arm == "alone":
            assert cfg.method.alone
            continue
        terms = build.methods(cfg)
        assert {"kd": "KD" in arm, "cwd": "CWD" in arm} == {name: name in terms for name in ("kd", "cwd")}
        assert cfg.method.ce_weight == 1
        assert [terms[name].weight for name in terms] == [{"kd": 0.9, "cwd": 3.0}[name] for name in terms]
        made = build.temperature(cfg, terms, 11)
        if "fixed" in arm:
            assert f"fixed {made.tau:g}" in arm
        elif "global" in arm:
            assert "[{:g}, {:g}]".format(*made.bounds) in arm


def test_less_is_better_has_its_digits(tmp_path):
    path = tmp_path / "runs.jsonl"
    values = {"fixed 1": [2.10, 2.12, 2.17], "no teacher": [2.20, 2.25, 2.26]}
    path.write_text("".join(
        json.dumps({"arm": arm, "seed": seed, "bits": bits, "tau": [1.0] if arm == "fixed 1" else [],
                    "start": f"s{seed}", "teacher": {"sum": "t", "bits": 1.99}}) + "\n"
        for arm, several in values.items() for seed, bits in enumerate(several, start=1)
    ))  # fmt: skip
    rows = list(tokens.STUDY.table(read_lines(path)))
    low, high = stats.ttest_rel(values["no teacher"], values["fixed 1"]).confidence_interval(0.95)
    deviation = stats.tstd(values["no teacher"])
    assert rows[3] == f"| no teacher | 3 | – | 2.237 ± {deviation:.3f} | +0.107 ± {(high - low) / 2:.3f} |"
    assert rows[4] == f"| fixed 1 | 3 | 1.00 | 2.130 ± {stats.tstd(values['fixed 1']):.3f} | – |"
    assert len(rows) == 5
