from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from ctkd_lightning.job.metrics import carry_over, read_rows, read_series


def test_series_leave_out_empty_cells_and_count_epochs_from_one():
    Path("metrics.csv").write_text("epoch,lr,step,val/top1\n0,0.1,0,\n0,,9,50.0\n1,,19,60.5\n")
    assert read_rows(Path("metrics.csv"))[1] == {"epoch": 0.0, "step": 9.0, "val/top1": 50.0}
    assert read_series(Path("metrics.csv")) == {"lr": [(1.0, 0.1)], "val/top1": [(1.0, 50.0), (2.0, 60.5)]}
    assert read_rows(Path("missing.csv")) == []


def test_resumed_run_keeps_the_rows_before_it():
    first = CSVLogger("run", name="", version="")
    for epoch in range(3):
        first.log_metrics({"epoch": epoch, "x": epoch / 2}, step=epoch)
    first.save()
    rows = read_rows(Path("run/metrics.csv"))
    second = CSVLogger("run", name="", version="")
    carry_over(rows, second, before_epoch=2)
    second.log_metrics({"epoch": 2, "x": 9.0, "new": 1.0}, step=2)
    second.save()
    assert read_series(Path("run/metrics.csv")) == {"x": [(1, 0.0), (2, 0.5), (3, 9.0)], "new": [(3, 1.0)]}
