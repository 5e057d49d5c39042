from pathlib import Path

from ctkd_lightning.reporting.runs import read_runs
from ctkd_lightning.reporting.what_ran import commands, environment_table, names, runs_table
from tests.reporting.made_up import summary_of, write_run


def read(*files):
    runs = read_runs([file.path for file in files]).runs
    return runs, names([run.files.path for run in runs])


def test_names_tell_folders_apart():
    assert next(iter(names([Path("a/0"), Path("b/0")]).values())).endswith("a/0")
    assert names([Path("/x/a"), Path("/x/y/b")]) == {Path("/x/a"): "x/a", Path("/x/y/b"): "x/y/b"}
    assert names([Path("/x/y")]) == {Path("/x/y"): "y"}
    assert names([Path("/x"), Path("/y")]) == {Path("/x"): "x", Path("/y"): "y"}


def test_numbers_are_the_files():
    runs, named = read(write_run("s/a", 91.236), write_run("s/b", 90.0, temperature="global", seed=3))
    table = runs_table(runs, named)
    titles = [column.title for column in table.columns]
    assert titles[:3] == ["run", "temperature", "seed"]
    for row, folder in zip(table.rows, ("s/a", "s/b"), strict=True):
        cells, kept = dict(zip(titles, [cell.text for cell in row], strict=True)), summary_of(folder)
        assert cells["run"] == folder
        assert cells["temperature"] == kept["temperature"]
        assert cells["student, test top-1 %"] == f"{kept['student']['top1']:.2f}"
        assert cells["top-5 %"] == f"{kept['student']['top5']:.2f}"
        assert cells["teacher, test top-1 %"] == f"{kept['teacher']['top1']:.2f}"
        assert (cells["epochs"], cells["training"], cells["images/s"]) == ("2", "1 min 00 s", "1,234")


def test_long_values_are_cut():
    runs, named = read(write_run("a", 90.0, settings={"note": "x" * 500}), write_run("b", 90.0))
    cells = [row[1].text for row in runs_table(runs, named).rows]
    assert (len(cells[0]), cells[1]) == (60, "")


def test_a_column_an_environment():
    runs, named = read(*(write_run(f"s/{i}", 90.0, seed=i, versions={"torch": "2.9"}) for i in range(3)))
    assert [column.title for column in environment_table(runs, named).columns] == ["what", "all runs"]
    other, _ = read(write_run("s/3", 90.0, versions={"torch": "2.10"}))
    runs += other
    table = environment_table(runs, names([run.files.path for run in runs]))
    assert [column.title for column in table.columns] == ["what", "s/0 and 2 more", "s/3"]
    assert [cell.text for cell in table.rows[0]] == ["torch", "2.9", "2.10"]


def test_commands_can_be_pasted():
    words = ["method=[kd,at]", "data.root=my images", "run_dir=/old", "resume=auto", "+model.student.depth=3"]
    runs, named = read(write_run("s/a", 90.0, overrides=words))
    (command,) = commands(runs, named)
    line = "python -m ctkd_lightning.run 'method=[kd,at]' 'data.root=my images' +model.student.depth=3"
    assert (command.run, command.line) == ("a", line)
    Path("s/a/.hydra/overrides.yaml").unlink()
    assert commands(runs, named)[0].line is None
