import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from safetensors.torch import load_file
from torchmetrics.functional.classification import multiclass_jaccard_index

from ctkd_lightning import build
from ctkd_lightning.errors import UserError
from ctkd_lightning.job import ready_teacher
from ctkd_lightning.job.earlier import need_student, read_run
from ctkd_lightning.models import load_weights
from ctkd_lightning.reporting import write_report
from tests.job.interrupted import stopped_run

SMALL = (
    "experiment=segmentation_digits",
    "data.train_size=6",
    "data.val_size=2",
    "data.test_size=3",
    "data.batch_size=2",
    "model.teacher.channels=[4,6]",
    "model.student.channels=[2,3]",
    "teacher.max_epochs=1",
    "teacher.check=false",
    "max_epochs=2",
    "trainer=cpu",
    "logger=csv",
    "progress=none",
    "report=false",
)


@pytest.fixture
def run(command):
    def call(*overrides, folder="run", drawn=False):
        command(*SMALL, *overrides, f"run_dir={folder}", small=False, drawn=drawn)
        return json.loads(Path(folder, "summary.json").read_text())

    return call


def test_the_run_is_a_loop_by_hand(run, capsys):
    kd = ("method=kd", "temperature=fixed", "temperature.tau=2")
    found = run(*kd, "with_baseline=true", "channels_last=false", drawn=True)
    assert (found["status"], found["task"]) == ("complete", "segmentation")
    cfg = build.config(*SMALL, "run_dir=hand", "logger=[]", "channels_last=false")
    data = build.segmentation_data(cfg)
    teacher, student = build.networks(cfg, data)
    assert ready_teacher(cfg, teacher, data) == found["teacher"]["train_seconds"]
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.05)
    seed_everything(cfg.seed, workers=True, verbose=False)
    loader = data.train_dataloader()
    student.train()
    for epoch, rate in ((0, 0.5), (1, 0.5 * (1 + math.cos(math.pi / 2)))):
        loader.sampler.set_epoch(epoch)
        for image, target, _ in loader:
            logits = student(image)
            with torch.no_grad():
                softened = (teacher(image) / 2).softmax(1)
            divergence = F.kl_div((logits / 2).log_softmax(1), softened, reduction="none").sum(1).mean()
            loss = F.cross_entropy(logits, target) + 0.9 * 4 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = 3e-3 * rate
            optimizer.step()
    kept = load_file("run/student.safetensors")
    for name, value in student.state_dict().items():
        torch.testing.assert_close(kept[name], value, rtol=1e-3, atol=1e-4)

    load_weights(student, "run/student.safetensors")
    baseline = build.student(cfg, data)
    load_weights(baseline, next(Path("cache").rglob("baseline.safetensors")))
    image, target = (torch.cat(parts) for parts in list(zip(*data.test_dataloader(), strict=True))[:2])
    for role, network in (("teacher", teacher), ("student", student), ("baseline", baseline)):
        with torch.no_grad():
            guesses = network.eval()(image).argmax(1)
        assert found[role]["miou"] == pytest.approx(
            100 * float(multiclass_jaccard_index(guesses, target, 11)), abs=1e-3
        )
        assert found[role]["pixel_accuracy"] == pytest.approx(100 * float((guesses == target).float().mean()), abs=1e-3)
        assert found[role]["top1"] is None
    rows = Path("run/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/miou")
    assert found["best"]["miou"] == pytest.approx(max(float(c) for row in rows[1:] if (c := row.split(",")[column])))
    printed = capsys.readouterr().out
    for words in ("test mIoU %", "best on validation", "mIoU"):
        assert words in printed, words
    assert "student, test mIoU %" in Path(write_report(["run"], "page.html")).read_text()


@pytest.mark.parametrize(
    "overrides", [("temperature=instance",), ("method=cwd",), ("method=[kd,cwd]",), ("method=dkd",)]
)
def test_temperatures_and_methods(run, overrides):
    assert run(*overrides, "max_epochs=1")["status"] == "complete"


def test_alone(run):
    found = run("method=none", "max_epochs=1")
    assert (found["teacher"], found["without_effect"]) == (None, ["temperature", "curriculum"])
    with pytest.raises(UserError, match="is of segmenters"):
        need_student(read_run("run"))


def test_a_resumed_run_is_the_same(command, run):
    run(folder="whole")
    stopped_run(command, *SMALL, "run_dir=run")
    assert run("resume=auto")["epochs"] == 2
    whole, resumed = (load_file(f"{folder}/student.safetensors") for folder in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("teacher_cache=auto",), "teacher_cache=auto is of classifiers and language models"),
        (("model.student.name=segmenter_smal",), "did you mean segmenter_small"),
        (("teacher.check=true",), "has learned nothing: mIoU"),
        (("data=digits",), "is a segmenter, and these data have no class a pixel"),
        (("model=wrn40_2_to_wrn16_2",), "these data have a class a pixel, and the networks are classifiers"),
        (("method=fitnet",), "names no layer for"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, overrides, message):
    given = [
        word
        for word in SMALL
        if not (overrides[0].startswith(("data=", "model=")) and word.startswith(("data.", "model.")))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.SMALL", tuple(given))
        with pytest.raises(SystemExit) as error:
            run(*overrides)
    assert re.search(message, str(error.value.code)), error.value.code
    assert "\n" not in str(error.value.code)


def test_a_teacher_that_sees_background_alone_has_learned_nothing(run):
    """Also where few validation images lack most classes, of which the mean is not taken."""
    cfg = build.config(*SMALL, "run_dir=hand", "logger=[]")
    teacher = build.teacher(cfg, build.segmentation_data(cfg))
    with torch.no_grad():
        teacher.head.weight.zero_()
        teacher.head.bias.copy_(torch.eye(11)[0])
    torch.save(teacher.state_dict(), "background.pth")
    with pytest.raises(SystemExit, match="has learned nothing: mIoU"):
        run("teacher.checkpoint=background.pth", "teacher.check=true")


def test_there_is_no_head_to_fuse(run):
    with pytest.raises(SystemExit, match="fuse_heads=true is of language models"):
        run("fuse_heads=true")
