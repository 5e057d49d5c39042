import errno
import json
import os
import re
import time
from pathlib import Path

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.reporting.page import write_page, write_report
from ctkd_lightning.reporting.runs import find_runs, read_runs
from tests.reporting.made_up import Tables, comparison, pictures, summary_of, write_run

EVIL = "<script>alert('x')</script>&amp;\"onload=\""


def written(runs, *figures, **settings):
    return write_page(runs, pictures(*figures), Path("page/report.html"), **settings).read_text()


def test_the_numbers_on_the_page_are_the_files():
    comparison("runs", [85.0, 86.0, 84.5], [86.5, 87.0, 86.2], [80.0, 81.0, 80.5])
    text = written(read_runs(find_runs(["runs"])))
    page = Tables(text)
    assert page.numbers("results")["kd, global τ"] == ["86.57 ± 0.40", "3", "+1.40"]
    assert page.numbers("results")["student alone"] == ["80.50 ± 0.50", "3", "–"]
    assert page.numbers("worth")["kd, global τ"][:3] == ["80.50 ± 0.50", "86.57 ± 0.40", "90.00"]
    headings = [cell[0] for cell in page.tables["runs"][0]]
    column = headings.index("student, test top-1 %")
    shown = {row[0][0]: row[column][0] for row in page.tables["runs"][1:]}
    assert shown == {f"runs/{p.name}": f"{summary_of(p)['student']['top1']:.2f}" for p in Path("runs").iterdir()}
    assert len(shown) == 9
    bold = [row[0][0] for row in page.tables["results"] if any(cell[2] for cell in row)]
    assert bold == ["kd, global τ"]


def test_what_a_reader_without_eyes_has():
    comparison("runs", [85.0], [86.5])
    text = written(read_runs(find_runs(["runs"])))
    page = Tables(text)
    assert [image["alt"] for image in page.images] == ["Seven levels."] * 2
    assert all(page.captions.values())
    for landmark in ("<header>", "<nav aria-label=", '<main id="content"', "<footer>", 'href="#content"', 'lang="en"'):
        assert landmark in text
    assert text.count("<table") == text.count("<caption") == len(page.tables)
    assert len(re.findall(r"<th scope=(?:\"col\"|row|\"colgroup\")", text)) == text.count("<th ")
    assert re.search(r"<h(\d)", text)[1] == "1"
    assert text.count("<h1") == 1
    anchors, targets = re.findall(r'href="#([^"]+)"', text), re.findall(r'id="([^"]+)"', text)
    assert set(anchors) <= set(targets)
    assert len(targets) == len(set(targets))


def test_nothing_comes_from_elsewhere():
    comparison("runs", [85.0], [86.5])
    text = written(read_runs(find_runs(["runs"])))
    assert "default-src 'none'" in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]{1,20})', text)
    assert sources
    assert all(source.startswith(("#", "data:")) for source in sources)


def test_names_are_text():
    for number, temperature in enumerate(("fixed", "global")):
        write_run(
            f"runs/<b>{number}", 90.0, temperature=temperature, pair=f"{EVIL}_to_x", overrides=[f"a={EVIL}"],
            settings={"note": f"{EVIL}{number}"}, versions={"torch": EVIL}, hardware={"processor": EVIL},
        )  # fmt: skip
    Path("runs/<i>/.hydra").mkdir(parents=True)
    Path("runs/<i>/.hydra/config.yaml").write_text("{}")
    text = written(read_runs(find_runs(["runs"])), EVIL, missing=[EVIL])
    assert "<script" not in text
    assert not re.search(r"<[bi]>", text)
    assert "runs/<b>0" in Tables(text).numbers("runs")


def test_sections_are_in_their_order():
    comparison("runs", [85.0], [86.5])
    found = read_runs(find_runs(["runs"]))
    text = written(found, "samples", "new kind", "temperature", missing=["t-SNE: no features were kept"])
    titles = re.findall(r"<h2[^>]*>([^<]+)", text)
    assert titles == [
        "Results", "Was it worth it?", "The temperature", "Temperatures of the samples", "new kind",
        "What is not here", "What ran",
    ]  # fmt: skip
    assert "t-SNE: no features were kept" in text


def test_what_is_left_out_is_named_with_why():
    comparison("runs", [85.0], [86.5])
    write_run("runs/other", 10.0, test_data="xyz")
    unfinished = write_run("runs/stopped", 10.0)
    unfinished.summary.write_text(json.dumps(summary_of("runs/stopped") | {"status": "stopped"}))
    write_run("runs/torn", 10.0).metrics.write_text("epoch,step,val/top1\n0,1,abc\n")
    text = written(read_runs(find_runs(["runs"])))
    for name, why in (("other", "other samples"), ("stopped", "unfinished"), ("torn", "metrics.csv is damaged")):
        assert re.search(rf"<li>runs/{name}: [^<]*{why}", text)
    assert Tables(text).numbers("results")["kd, fixed τ"][0] == "85.00"


@pytest.mark.parametrize(
    ("task", "arms"),
    [
        ("classification", "-m temperature=fixed,global seed"),
        ("language", "-m experiment=… temperature=fixed_one,global_tokens seed"),
        ("detection", "-m experiment=… temperature=fixed_one,global_near_one seed"),
    ],
)
def test_one_run_names_arms_of_its_task(task, arms):
    files = write_run("run", 90.0)
    files.summary.write_text(json.dumps(summary_of("run") | {"task": task}))
    assert arms in written(read_runs(find_runs(["run"])))


def test_one_run_says_what_one_can_say():
    write_run("run", 90.0, baseline=85.0, teacher=95.0)
    text = written(read_runs(find_runs(["run"])))
    page = Tables(text)
    assert "This is a single run." in text
    assert page.numbers("results")["kd, fixed τ"] == ["90.00", "1", "–"]
    assert page.numbers("worth")["kd, fixed τ"][:5] == ["85.00", "90.00", "95.00", "+5.00", "50%"]
    assert "±" not in "".join(cell[0] for table in page.tables.values() for row in table for cell in row)
    assert [row[0][0] for row in page.tables["runs"][1:]] == ["run"]


def test_the_whole_report_and_where_it_goes():
    comparison("runs", [85.0, 86.0], [86.5, 87.0])
    path = write_report(find_runs(["runs"]))
    assert path == Path("runs/report.html").absolute()
    assert (path.parent / "figures/kd_loss.svg").is_file()
    with pytest.raises(UserError, match=r"report.html is there already: .* overwrite=true"):
        write_report(find_runs(["runs"]))
    assert write_report(find_runs(["runs"]), overwrite=True) == path
    assert write_report(find_runs(["runs/kd-fixed-1"])) == Path("runs/kd-fixed-1/report.html").absolute()


def test_outputs_that_cannot_be():
    write_run("run", 90.0)
    runs = find_runs(["run"])
    with pytest.raises(UserError, match=r"must be an HTML file such as report.html, found page.pdf"):
        write_report(runs, "page.pdf")
    Path("folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_report(runs, "folder.html", overwrite=True)
    Path("file").touch()
    with pytest.raises(UserError, match=r"cannot write file/page.html: .*; make room, or set output"):
        write_report(runs, "file/page.html")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk(monkeypatch):
    write_run("run", 90.0)

    def full(self, *_, **__):
        with open("/dev/full", "w", buffering=1) as file:
            file.write("x\n")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"No space left on device; make room"):
        write_report(find_runs(["run"]), "page.html")
    assert not Path("page.html").exists()
    assert not Path("figures").exists()


def test_a_failure_leaves_nothing_new():
    write_run("run", 90.0)
    runs = read_runs(find_runs(["run"]))

    def breaking():
        yield from pictures("temperature")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device; make room"):
        write_page(runs, breaking(), Path("page/report.html"))
    assert list(Path("page").iterdir()) == []
    write_page(runs, pictures("loss"), Path("page/report.html"))
    before = {path: path.read_bytes() for path in Path("page").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="No space left"):
        write_page(runs, breaking(), Path("page/report.html"))
    assert {path: path.read_bytes() for path in Path("page").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path("page/figures").iterdir()) == ["of_loss.png", "of_loss.svg"]


def test_no_run_that_counts():
    for name in ("a", "b"):
        write_run(name, 90.0, status="failed")
    with pytest.raises(UserError, match=r"no run to report on: a: unfinished: .*; likewise 1 more$"):
        write_report(find_runs(["a", "b"]))
    assert not Path("report.html").exists()


def test_a_hundred_runs_are_quick_and_small():
    comparison("runs", [80 + i % 7 for i in range(50)], [82 + i % 5 for i in range(50)], overrides=["x=1"] * 10)
    started = time.process_time()
    path = write_report(find_runs(["runs"]))
    assert len(Tables(path.read_text()).tables["runs"]) == 101
    assert time.process_time() - started < 60
    assert os.path.getsize(path) < 10e6
