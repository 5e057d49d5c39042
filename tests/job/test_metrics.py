import json
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from ctkd_lightning.job.metrics import MetricsLogger, read_rows, read_series, rows_before


def test_series_leave_out_empty_cells_and_count_epochs_from_one():
    Path("metrics.csv").write_text("epoch,lr,step,val/top1\n0,0.1,0,\n0,,9,50.0\n1,,19,60.5\n")
    assert read_rows(Path("metrics.csv"))[1] == {"epoch": 0.0, "step": 9.0, "val/top1": 50.0}
    assert read_series(Path("metrics.csv")) == {"lr": [(1.0, 0.1)], "val/top1": [(1.0, 50.0), (2.0, 60.5)]}
    assert read_rows(Path("missing.csv")) == []


def test_the_file_is_the_one_that_lightning_writes():
    own, theirs = MetricsLogger("own"), CSVLogger("theirs", name="", version="")
    for logger in (own, theirs):
        for epoch in range(3):
            logger.log_metrics({"epoch": epoch, "x": epoch / 3}, step=2 * epoch)
            logger.log_metrics({"epoch": epoch, "a" if epoch else "x": 0.5}, step=2 * epoch + 1)
            logger.save()
    assert Path("own/metrics.csv").read_text() == Path("theirs/metrics.csv").read_text().replace("\r\n", "\n")


def test_rows_before_a_checkpoint():
    lines = ["epoch,step,x", "0,1,0.5", "1,2,0.25", "1,3,0.125"]
    Path("metrics.csv").write_text("\n".join(lines) + "\n")
    last = {"epoch": 1, "step": 3, "x": 0.0625}
    found = rows_before({"epoch": 1, "ctkd_lightning.metrics": {"rows": 2, "pending": last}}, Path("metrics.csv"))
    assert found == [{"epoch": 0, "step": 1, "x": 0.5}, {"epoch": 1, "step": 2, "x": 0.25}, last]
    found = rows_before({"epoch": 1, "ctkd_lightning.metrics": {"rows": 1, "pending": {}}}, Path("metrics.csv"))
    assert found == [{"epoch": 0, "step": 1, "x": 0.5}]
    assert len(rows_before({"epoch": 0}, Path("metrics.csv"))) == 1  # of version 0.1


class DieAfter(Callback):
    """What a process leaves that ends once an epoch's checkpoint is written, before the epoch's last row is."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 2:
            lines = Path("run/metrics.csv").read_text().splitlines(keepends=True)
            assert len(lines) == 7
            Path("run/metrics.csv").write_text("".join(lines[:-1]))
            raise KeyboardInterrupt


@pytest.mark.slow
def test_each_row_once(command):
    command("run_dir=whole", "max_epochs=4", "temperature=instance")
    die = "+callbacks.die={_target_: tests.job.test_metrics.DieAfter}"
    with pytest.raises(SystemExit):
        command("run_dir=run", "max_epochs=4", "temperature=instance", die)
    command("run_dir=run", "max_epochs=4", "temperature=instance", "resume=auto")
    assert Path("run/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
    # killed between the training and the test, so that nothing is left to train
    Path("run/summary.json").unlink()
    Path("run/test_outputs.safetensors").unlink()
    command("run_dir=run", "max_epochs=4", "temperature=instance", "resume=auto")
    assert Path("run/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
    assert timeless("run") == timeless("whole")


def timeless(run):
    found = json.loads(Path(run, "summary.json").read_text())
    assert found["status"] == "complete"
    return {name: value for name, value in found.items() if name not in ("train_seconds", "images_per_second")}
