from ctkd_lightning.job import RunDirectory, Summary
from ctkd_lightning.job.summary import Best, NetworkSummary
from ctkd_lightning.job.table import print_table


def summary(**changed):
    values = {
        "model": "a_to_b", "data": "digits", "method": "kd", "temperature": "instance", "curriculum": "cosine",
        "seed": 1, "status": "complete", "epochs": 3, "teacher_cache": 0.251, "train_seconds": 12.3,
        "images_per_second": 1234.5, "teacher": NetworkSummary("a", 2255156, 49.08, 77.36),
        "student": NetworkSummary("b", 703284), "best": Best(48.2, 2, "test"),
        "final": {"ctkd/lambda": 0.5, "ctkd/temperature": 15.6, "ctkd/temperature_std": 1.5,
                  "ctkd/temperature_min": 12.0, "ctkd/temperature_max": 19.0},
    }  # fmt: skip
    return Summary(**{**values, **changed})


def test_table_shows_what_a_reader_wants(capsys):
    print_table(summary(), RunDirectory("run"))
    printed = capsys.readouterr().out
    for text in (
        "2,255,156", "49.08", "77.36", "703,284", "–", "0.50 (cosine)", "48.20 % after epoch 2",
        "15.60 ± 1.50, from 12.00 to 19.00", "best on test", "3 epochs in 12 s, 1,234 images/s", "knew 25.1 % of",
    ):  # fmt: skip
        assert text in printed, text
    assert "status" not in printed


def test_what_a_stopped_run_shows(capsys):
    print_table(summary(status="stopped", stage="student", without_effect=["curriculum"]), RunDirectory("run"))
    printed = " ".join(capsys.readouterr().out.split())  # in as many lines as the terminal needs
    assert "stopped in stage student; go on with the same settings, this run_dir and resume=auto" in printed
    assert "(cosine, no effect)" in printed


def test_a_saturated_temperature_is_told(capsys):
    print_table(summary(saturated=["ctkd/temperature", "ctkd/temperature/kd"]), RunDirectory("run"))
    assert "τ, τ of kd at an end of its range" in " ".join(capsys.readouterr().out.split())
