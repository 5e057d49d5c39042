import json
from pathlib import Path

import torch

from ctkd_lightning.job.summary import describe_environment, parameters_of, print_table, write_summary

SUMMARY = {
    "model": "a_to_b", "data": "digits", "method": "kd", "temperature": "instance", "curriculum": "cosine", "seed": 1,
    "status": "complete", "epochs": 3, "teacher_cache": 0.251, "train_seconds": 12.3,
    "images_per_second": 1234.5,
    "teacher": {"name": "a", "parameters": 2255156, "top1": 49.08, "top5": 77.36},
    "student": {"name": "b", "parameters": 703284, "top1": None, "top5": None},
    "best": {"top1": 48.2, "epoch": 2, "chosen_on": "best on test"},
    "final": {"ctkd/lambda": 0.5, "ctkd/temperature": 15.6, "ctkd/temperature_std": 1.5, "ctkd/temperature_min": 12.0,
              "ctkd/temperature_max": 19.0},
}  # fmt: skip


def test_table_shows_what_a_reader_wants(capsys):
    print_table(SUMMARY, Path("run"))
    printed = capsys.readouterr().out
    expected = ["2,255,156", "49.08", "77.36", "703,284", "–", "0.50 (cosine)", "48.20 % after epoch 2"]
    expected += [
        "15.60 ± 1.50, from 12.00 to 19.00",
        "best on test",
        "3 epochs in 12 s, 1,234 images/s",
        "knew 25.1 % of",
    ]
    for text in expected:
        assert text in printed, text
    print_table({**SUMMARY, "status": "stopped in stage student"}, Path("run"))
    assert "go on with resume=auto" in capsys.readouterr().out


def test_summary_is_json():
    write_summary({**SUMMARY, **describe_environment()}, Path("."))
    found = json.loads(Path("summary.json").read_text())
    assert found["versions"]["python"].startswith("3.")
    assert found["hardware"]["cores"] >= 1


def test_parameters():
    assert parameters_of(torch.nn.Linear(3, 4)) == 16
