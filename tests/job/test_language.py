import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from safetensors.torch import load_file

from ctkd_lightning import build
from ctkd_lightning.data.text_files import _split_of
from ctkd_lightning.errors import UserError
from ctkd_lightning.job import ready_teacher
from ctkd_lightning.job.earlier import need_student, read_run
from ctkd_lightning.models import load_weights
from ctkd_lightning.reporting import write_report
from tests.job.interrupted import stopped_run

pytest.importorskip("tokenizers")  # an extra


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    for number in range(60):
        text = "\n".join(f"def f{i}_{number}(x):\n    return x + {i * number}" for i in range(12))
        (root / f"m{number}.py").write_text(text)
    return root


@pytest.fixture
def small(sources):
    return (
        "experiment=tokens_stdlib",
        f"data.root={sources}",
        "data.vocabulary=300",
        "data.length=16",
        "data.limit_train=40",
        "data.limit_eval=12",
        "data.batch_size=8",
        *(f"model.{role}.{key}={value}" for role in ("teacher", "student") for key, value in SIZES[role].items()),
        "teacher.max_epochs=2",
        "max_epochs=2",
        "trainer=cpu",
        "trainer.limit_train_batches=4",
        "logger=csv",
        "progress=none",
        "report=false",
    )


SIZES = {"teacher": {"width": 24, "layers": 2, "heads": 2}, "student": {"width": 16, "layers": 1, "heads": 2}}


@pytest.fixture
def run(command, small):
    def call(*overrides, folder="run", drawn=False):
        command(*small, *overrides, f"run_dir={folder}", small=False, drawn=drawn)
        return json.loads(Path(folder, "summary.json").read_text())

    return call


def bits_and_nats(network, data):
    with torch.no_grad():
        losses = [
            F.cross_entropy(network.eval()(x).flatten(0, 1), y.flatten(), reduction="none")
            for x, y, _ in data.test_dataloader()
        ]
    nats = float(torch.cat(losses).mean())
    size = sum(len(path.read_bytes()) for path in data.root.glob("*.py") if _split_of(path.name) == "test")
    return nats / math.log(2) / (size / len(data.tokens("test"))), nats


def test_the_run_is_a_loop_by_hand(run, small, capsys):
    """Plain torch: the student's steps, its bits a byte and those of teacher and student alone."""
    found = run("temperature=fixed_one", "with_baseline=true", drawn=True)
    assert (found["status"], found["task"], found["model"]) == ("complete", "language", "language_small_to_tiny")

    cfg = build.config(*small, "temperature=fixed_one", "run_dir=hand", "logger=[]")
    data = build.token_data(cfg)
    teacher, student = build.networks(cfg, data)
    assert ready_teacher(cfg, teacher, data) == found["teacher"]["train_seconds"]  # found in the cache
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.01)
    seed_everything(cfg.seed, workers=True, verbose=False)
    loader = data.train_dataloader()
    assert len(data.train_indices) == 40
    for epoch, rate in ((0, 0.5), (1, 0.5 * (1 + math.cos(math.pi / 2)))):
        loader.sampler.set_epoch(epoch)
        for step, (x, y, _) in enumerate(loader):
            if step == 4:
                break
            logits = student(x).flatten(0, 1)
            with torch.no_grad():
                softened = teacher(x).flatten(0, 1).softmax(-1)
            kd = F.kl_div(logits.log_softmax(-1), softened, reduction="batchmean")
            loss = 0.1 * F.cross_entropy(logits, y.flatten()) + 0.9 * kd
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = 5e-3 * rate
            optimizer.step()
    kept = load_file("run/student.safetensors")
    for name, value in student.state_dict().items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=2e-5)

    baseline = build.student(cfg, data)
    load_weights(student, "run/student.safetensors")
    load_weights(baseline, next(Path("cache").rglob("baseline.safetensors")))
    for role, network in (("teacher", teacher), ("student", student), ("baseline", baseline)):
        bits, nats = bits_and_nats(network, data)
        assert (found[role]["bits"], found[role]["nats"]) == pytest.approx((bits, nats), rel=1e-5)
        assert found[role]["top1"] is None
    rows = Path("run/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/loss")
    losses = [float(cell) for row in rows[1:] if (cell := row.split(",")[column])]
    assert found["best"]["nats"] == pytest.approx(min(losses))  # the best epoch has least
    printed = " ".join(capsys.readouterr().out.replace("│", " ").replace("┃", " ").split())
    for words in ("nats a token", "best on validation nats a token", "texts/s", f"{found['student']['bits']:.3f}"):
        assert words in printed, words
    page = Path(write_report(["run"], "page.html")).read_text()
    assert "student, test bits a byte" in page
    assert "texts/s" in page
    assert "top-1" not in page


def test_a_learned_temperature_is_the_vocabularys(run):
    found = run()
    assert 1.2 < found["final"]["ctkd/temperature"] < 1.3  # from 1.2, upwards: λ works against the student
    assert found["saturated"] == []


def test_thresholds_of_tokens_are_found(run):
    assert run("temperature=energy", "max_epochs=1")["status"] == "complete"


def test_the_range_of_images_is_told(run):
    with pytest.warns(UserWarning, match="temperature=global is learned in a range .* take temperature=global_tokens"):
        run("temperature=global", "max_epochs=1")


def test_the_teacher_learns_from_all_texts_and_the_student_from_few(run, small):
    run("max_epochs=1")
    cfg = build.config(*small, "run_dir=hand", "logger=[]")
    (settings,) = Path("cache/teachers").rglob("settings.json")
    known = json.loads(settings.read_text())["data"]
    few = build.token_data(cfg)
    assert known == build.data_of_teacher(cfg, few).fingerprint() != few.fingerprint()
    run("max_epochs=1", "teacher.data=null", folder="other")
    assert few.fingerprint() in {
        json.loads(path.read_text())["data"] for path in Path("cache/teachers").rglob("settings.json")
    }


def test_a_store_in_the_teachers_place(run, monkeypatch):
    """The student is that of the live teacher within the store's tolerance, and a second run writes nothing."""
    learned = ("teacher.max_epochs=12", "temperature=fixed", "temperature.tau=2")
    run(*learned)
    live = load_file("run/student.safetensors")
    run(*learned, "teacher_cache=auto", folder="stored")
    stored = load_file("stored/student.safetensors")
    start = build.student(cfg := build.config(run="run"), build.token_data(cfg)).state_dict()
    moved = math.sqrt(sum(float((live[name] - start[name]).square().sum()) for name in live))
    apart = math.sqrt(sum(float((live[name] - stored[name]).square().sum()) for name in live))
    assert 0 < apart < 0.05 * moved
    (folder,) = Path("cache/teacher_outputs").iterdir()
    assert json.loads((folder / "manifest.json").read_text())["documents"] == 40
    monkeypatch.setattr("ctkd_lightning.token_store.writer.TokenStoreWriter.write", None)
    run(*learned, "teacher_cache=auto", folder="again")
    again = load_file("again/student.safetensors")
    assert all(torch.equal(again[name], stored[name]) for name in stored)


@pytest.mark.parametrize("cache", ["off", "auto"])
def test_a_resumed_run_is_the_same(command, run, small, cache):
    cache = f"teacher_cache='{cache}'"
    run(cache, folder="whole")
    stopped_run(command, *small, cache, "run_dir=run")
    found = run(cache, "resume=auto")
    assert (found["status"], found["epochs"]) == ("complete", 2)
    whole, resumed = (load_file(f"{folder}/student.safetensors") for folder in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_alone(run):
    found = run("method=none", "max_epochs=1")
    assert found["teacher"] is None
    assert found["without_effect"] == ["temperature", "curriculum"]
    assert found["student"]["bits"] > 0
    with pytest.raises(UserError, match="is of language models"):
        need_student(read_run("run"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.student.name=transfomer",), "did you mean transformer"),
        (("+model.student.hidden=3",), "unexpected keyword argument 'hidden'"),
        (("model.student.heads=3",), "width must be a multiple of its heads"),
        (("model.teacher.pretrained=true",), "has no weights to download"),
        (("+teacher.data.limit_trian=3",), "did you mean limit_train"),
        (("+teacher.data.vocabulary=290",), "these data have other classes than the student's"),
        (("+teacher.data.length=8",), "texts of another length"),
        (("data.length=100000",), "length=100000 makes 0 texts"),
        (("teacher.data=3",), "teacher.data must be settings of data"),
        (("data.root=nowhere",), "no folder at"),
        (("data.vocabulary=100000",), "the files give [0-9]+ tokens"),
        (("method=fitnet",), "LanguageModel names no layer for"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, overrides, message):
    with pytest.raises(SystemExit) as error:
        run(*overrides)
    assert re.search(message, str(error.value.code)), error.value.code
    assert "\n" not in str(error.value.code)


def test_a_teacher_that_has_not_learned(run, small):
    cfg = build.config(*small, "run_dir=hand", "logger=[]")
    teacher = build.teacher(cfg, build.token_data(cfg))
    with torch.no_grad():
        teacher.head.weight.mul_(50)  # sure of anything
    torch.save(teacher.state_dict(), "bad.pth")
    with pytest.raises(SystemExit) as error:
        run("teacher.checkpoint=bad.pth")
    assert "is no better than a uniform guess" in str(error.value.code)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=digits", "model=language_small_to_tiny"), "is a language model, and these data have no texts"),
        (("data=stdlib_tokens",), "these data are texts, and the networks take images"),
        (("data=stdlib_tokens", "model=rcnn_small_to_tiny"), "these data have no boxes"),
    ],
)
def test_data_of_another_task_is_one_line(command, overrides, message):
    with pytest.raises(SystemExit, match=message):
        command(*overrides, "trainer=cpu", "logger=csv", "progress=none", "run_dir=run", small=False)
