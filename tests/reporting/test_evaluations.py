from pathlib import Path

from ctkd_lightning.job.cost import Cost
from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation
from ctkd_lightning.job.quality import Agreement, Quality
from ctkd_lightning.reporting.evaluations import evaluation_table
from ctkd_lightning.reporting.runs import read_runs
from tests.reporting.made_up import write_run


def evaluation(**changed):
    teacher = NetworkEvaluation("big", Quality(90, 99, 0.5, 0.0312, 0.2), None, Cost(400, 8000, 1600, 2.5, 1000.0))
    student = NetworkEvaluation("small", Quality(85, 98, None, None, None), Agreement(88, 0.25), Cost(100, 2000, 400))
    values = {
        "data": "made_up", "test_data": "abc", "samples": 10, "num_classes": 3, "image_size": 8, "outputs": "computed",
        "networks": {"teacher": teacher, "student": student}, "device": "cpu", "threads": 2, "channels_last": True,
        "batch_size": 32,
    }  # fmt: skip
    return Evaluation(**values | changed)


def test_a_row_a_network():
    files = write_run("run", 85.0)
    evaluation().write(files.evaluation)
    missing = []
    table = evaluation_table(read_runs([files.path]).runs, {Path("run"): "run"}, missing)
    assert [[cell.text for cell in row] for row in table.rows] == [
        [
            "run, teacher", "made_up", "90.00", "99.00", "0.5000", "3.12", "0.2000", "–", "–",
            "400", "8,000", "2.50", "1,000",
        ],
        ["run, student", "made_up", "85.00", "98.00", "–", "–", "–", "88.00", "0.2500", "100", "2,000", "–", "–"],
    ]  # fmt: skip
    assert "2 CPU threads, 32 images" in table.words
    assert missing == []


def test_on_other_data_too():
    files = write_run("run", 85.0)
    evaluation(threads=1).write(files.evaluation)
    evaluation(data="noisy", test_data="xyz", samples=1234).write(files.evaluation_on("noisy"))
    files.evaluation_on("torn").write_text("{")
    missing = []
    table = evaluation_table(read_runs([files.path]).runs, {Path("run"): "run"}, missing)
    assert [(row[0].text, row[1].text, row[1].note) for row in table.rows] == [
        ("run, teacher", "made_up", "10 samples"),
        ("run, student", "made_up", "10 samples"),
        ("run, teacher", "noisy", "not the run’s own; 1,234 samples"),
        ("run, student", "noisy", "not the run’s own; 1,234 samples"),
    ]
    assert missing == ["run: evaluation_torn.json is damaged; evaluate the run again"]
    assert "1 CPU thread, 32 images" in table.words


def test_other_data_alone():
    files = write_run("run", 85.0)
    evaluation(data="noisy").write(files.evaluation_on("noisy"))
    assert len(evaluation_table(read_runs([files.path]).runs, {Path("run"): "run"}, []).rows) == 2


def test_none_and_damaged():
    files = [write_run("a", 85.0), write_run("b", 85.0)]
    files[1].evaluation.write_text('{"data": ')
    missing = []
    assert evaluation_table(read_runs([f.path for f in files]).runs, {Path("a"): "a", Path("b"): "b"}, missing) is None
    assert missing == ["b: evaluation.json is damaged; evaluate the run again"]
