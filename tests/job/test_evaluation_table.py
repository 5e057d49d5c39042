from pathlib import Path

from ctkd_lightning.job.evaluation_table import print_evaluation
from tests.job.test_evaluation_summary import evaluation


def test_what_a_reader_wants(capsys):
    print_evaluation(evaluation(), "vgg13_to_vgg8 of a/very/long/folder/s/name/run", Path("run/evaluation.json"))
    printed = capsys.readouterr().out
    for text in (
        "vgg13_to_vgg8 of a/very/long/folder/s/name/run on digits", "90.00", "0.2500", "ECE %, 15 bins", "3.12",
        "95.50", "0.1250", "9,000,000", "285.00 M",
        "36.0 MB", "1.50", "images/s, 64 at once", "2,346", "450; outputs as the run kept them, in float16",
        "medians on 2 CPU threads in float32, channels-last", "run/evaluation.json",
    ):  # fmt: skip
        assert text in printed, text


def test_legible_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = evaluation()
    found.networks["baseline"] = found.networks["student"]
    for network in found.networks.values():
        network.name = "torchvision/mobilenet_v3_small"
        network.cost.latency_ms, network.cost.parameters = 12345.67, 123_456_789
    print_evaluation(found, "a", None)
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, table)) <= 80
    assert printed.count("12,345.67") == printed.count("123,456,789") == 3
    assert "…" not in printed


def test_one_thread_is_one(capsys):
    print_evaluation(evaluation(threads=1), "a", None)
    assert "medians on 1 CPU thread in float32" in capsys.readouterr().out


def test_without_times(capsys):
    found = evaluation(outputs="computed")
    found.networks["student"].cost.latency_ms = found.networks["student"].cost.images_per_second = None
    print_evaluation(found, "a", None)
    printed = capsys.readouterr().out
    assert "medians" not in printed
    assert "written" not in printed
    assert "computed now, in float32" in printed
