import json

from ctkd_lightning.job import RunDirectory, read_evaluation
from ctkd_lightning.job.cost import Cost
from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation
from ctkd_lightning.job.quality import Agreement, Quality


def evaluation(**changed):
    quality = Quality(top1=90.0, top5=99.0, nll=0.25, ece=0.0312, brier=None)
    networks = {
        "teacher": NetworkEvaluation("vgg13", quality, None, Cost(9_000_000, 285_000_000, 36_000_000)),
        "student": NetworkEvaluation("vgg8", quality, Agreement(95.5, 0.125), Cost(4, 10, 16, 1.5, 2345.6)),
    }
    values = {
        "data": "digits", "test_data": "abc", "samples": 450, "num_classes": 10, "image_size": 32, "outputs": "kept",
        "networks": networks, "device": "cpu", "threads": 2, "channels_last": True, "batch_size": 64,
    }  # fmt: skip
    return Evaluation(**{**values, **changed})


def test_it_is_read_as_it_was_written(tmp_path):
    run, shifted = RunDirectory(tmp_path), evaluation(data="noisy")
    evaluation().write(run.evaluation)
    shifted.write(run.evaluation_on("noisy"))
    assert read_evaluation(run) == evaluation()
    assert read_evaluation(run, "noisy") == shifted
    assert json.loads((tmp_path / "evaluation.json").read_text())["networks"]["student"]["agreement"]["kl"] == 0.125


def test_what_cannot_be_read_is_none(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_evaluation(run) is None
    for content in ("{", "[]", "{}", '{"networks": {"student": {}}}'):
        run.evaluation.write_text(content)
        assert read_evaluation(run) is None


def test_what_a_later_version_adds_is_passed_over(tmp_path):
    run = RunDirectory(tmp_path)
    evaluation().write(run.evaluation)
    run.evaluation.write_text(json.dumps(json.loads(run.evaluation.read_text()) | {"later": 1}))
    assert read_evaluation(run) == evaluation()
