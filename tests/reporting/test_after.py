"""Pages that the main command writes by itself."""

from pathlib import Path

import pytest

from tests.reporting.made_up import Tables, summary_of


def test_a_run_writes_its_page(command, caplog):
    command("run_dir=run", "report=true")
    page = Tables(Path("run/report.html").read_text())
    top1 = summary_of("run")["student"]["top1"]
    assert page.numbers("results")["kd, global τ"] == [f"{top1:.2f}", "1", "–"]
    assert Path("run/figures/temperature.svg").is_file()
    command("run_dir=run", "seed=2", "report=true")  # the page of the later run takes the place of the earlier one's
    assert "–" in Tables(Path("run/report.html").read_text()).numbers("results")["kd, global τ"]


def test_a_run_without_a_page(command):
    command("run_dir=run", "report=false")
    assert not Path("run/report.html").exists()


def test_report_must_be_a_flag(command):
    with pytest.raises(SystemExit, match="report must be true, false, found 3"):
        command("run_dir=run", "report=3")


def test_a_page_that_cannot_be_written_is_a_warning(command, capfd):
    Path("run/report.html").mkdir(parents=True)
    command("run_dir=run", "report=true")
    assert summary_of("run")["status"] == "complete"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "report" in line.lower()]
    assert line.endswith("run/report.html is a folder: name a file in it")


def test_a_bug_in_the_page_is_a_warning_too(command, capfd, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr("ctkd_lightning.reporting.page.write_page", broken)
    command("run_dir=run", "report=true")
    assert summary_of("run")["status"] == "complete"
    assert "No report: KeyError: 'a bug'" in capfd.readouterr().err


def test_a_sweep_is_followed_by_its_page(command):
    command("-m", "run_dir='swe[e]p'", "temperature=fixed,global", "report=true")  # a glob of another folder's name
    page = Tables(Path("swe[e]p/report.html").read_text())
    values = [summary_of(f"swe[e]p/{job}")["student"]["top1"] for job in range(2)]
    numbers = page.numbers("results")
    assert [numbers[f"kd, {name} τ"][0] for name in ("fixed", "global")] == [f"{top1:.2f}" for top1 in values]
    assert Path("swe[e]p/1/report.html").is_file()


def test_a_sweep_without_a_page(command):
    command("-m", "run_dir=sweep", "seed=1,2")
    assert not list(Path("sweep").glob("**/report.html"))


def test_a_sweep_whose_jobs_fail_says_that_alone(command, capfd):
    with pytest.raises(SystemExit, match="2 of 2 jobs failed"):
        command("-m", "run_dir=sweep", "max_epochs=0", "seed=1,2", "report=true")
    assert "report" not in capfd.readouterr().err.lower()
    assert not Path("sweep/report.html").exists()


def test_a_stopped_run_has_no_page(command, monkeypatch):
    from lightning.pytorch import Trainer

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stop)
    with pytest.raises(SystemExit):
        command("run_dir=run", "report=true")
    assert not Path("run/report.html").exists()
