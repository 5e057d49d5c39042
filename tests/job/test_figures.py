from pathlib import Path

from PIL import Image

from ctkd_lightning.job.figures import plot_training
from ctkd_lightning.job.run_directory import RunDirectory

COLUMNS = (
    "epoch,step,val/top1,val/top5,train/loss,ctkd/lambda,ctkd/temperature,ctkd/temperature_min,ctkd/temperature_max"
)


def test_draws_a_picture():
    Path("metrics.csv").write_text(f"{COLUMNS}\n0,9,50,90,2.0,0,15,14,16\n1,19,60,95,1.0,0.5,14,12,17\n")
    path = plot_training(RunDirectory("."), validated_on="validation")
    with Image.open(path) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 50  # more than an empty frame


def test_nothing_to_draw():
    assert plot_training(RunDirectory("."), validated_on="validation") is None
