"""How the command shows how far it is."""

import pytest

from ctkd_lightning import build
from ctkd_lightning.callbacks import EpochLines, ProgressBar, TQDMBar


def lines(text):
    return [line for line in text.splitlines() if line.startswith("Epoch")]


def test_a_line_an_epoch_where_there_is_no_terminal(command, capsys):
    command("run_dir=run", "max_epochs=3")
    found = lines(capsys.readouterr().out)
    assert [line.split(",")[0] for line in found] == ["Epoch 1/1", "Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    for name in ("loss", "val/top1", "ctkd/lambda", "ctkd/temperature"):
        assert all(f" {name} " in line for line in found[1:]), name


def test_nothing(command, capfd):
    command("run_dir=run", "progress=none")
    out = capfd.readouterr()
    assert not lines(out.out)
    assert "it/s" not in out.out + out.err


@pytest.mark.parametrize(("choice", "kind"), [("rich", ProgressBar), ("tqdm", TQDMBar)])
def test_bars_on_a_terminal(choice, kind, monkeypatch):
    cfg = build.config(f"progress={choice}")
    assert [type(bar) for bar in build.progress_bar(cfg)] == [EpochLines]
    monkeypatch.setattr("ctkd_lightning.build.Console", lambda: type("C", (), {"is_interactive": True})())
    assert [type(bar) for bar in build.progress_bar(cfg)] == [kind]
