"""Runs with known answers, written as files, and a page's tables read back."""

import json
from html.parser import HTMLParser
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import NetworkSummary, Summary
from ctkd_lightning.reporting.picture import Picture
from ctkd_lightning.reporting.runs import read_runs

TAU = {
    "fixed": {"tau": 4.0},
    "fixed_one": {"tau": 1.0},
    "global": {"tau_range": 20.0},
    "instance": {"num_classes": None},
}


def write_run(
    folder, top1, *, temperature="fixed", method="kd", seed=1, teacher=90.0, baseline=None, pair="big_to_small",
    settings=None, overrides=(), **summary,
):  # fmt: skip
    """A run's folder; ``method="none"`` is the student alone."""
    alone = method == "none"
    files = RunDirectory(folder)
    configuration = {
        "seed": seed,
        "run_dir": str(folder),
        "max_epochs": 2,
        "data": {"name": "made_up", "seed": "${seed}"},
        "model": {"teacher": {"name": "big"}, "student": {"name": pair.rpartition("_")[2]}},
        "method": {"alone": alone, "terms": {} if alone else {method: {"weight": 0.9}}},
        "temperature": TAU[temperature],
        "curriculum": {"epochs": 10},
        **(settings or {}),
    }
    files.configuration.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(configuration), files.configuration)
    OmegaConf.save(OmegaConf.create(list(overrides)), files.configuration.with_name("overrides.yaml"))
    Summary(
        **{
            "model": pair,
            "data": "made_up",
            "method": method,
            "temperature": temperature,
            "curriculum": "cosine",
            "seed": seed,
            "status": "complete",
            "stage": "test",
            "epochs": 2,
            "num_classes": 3,
            "test_data": "abc",
            "train_seconds": 30.0 if alone else 60.0,
            "images_per_second": 1234.4,
            "teacher": None if alone else NetworkSummary("big", 400, teacher, 99.0, 600.0),
            "student": NetworkSummary("small", 100, top1, 98.0),
            "baseline": None if baseline is None else NetworkSummary("small", 100, baseline, 97.0, 45.0),
            "without_effect": ["temperature", "curriculum"] if alone else ["curriculum"] * (temperature == "fixed"),
            "versions": {"torch": "2.9"},
            "hardware": {"processor": "abacus"},
            **summary,
        }
    ).write(files)
    tau = "" if alone else "4.0"
    rows = [f"{epoch},{epoch + 1},{50 + epoch},{2 - epoch},{tau}\n" for epoch in range(2)]
    files.metrics.write_text("".join(["epoch,step,val/top1,train/kd,ctkd/temperature\n", *rows]))
    return files


def comparison(folder, fixed, learned, alone=(), **settings):
    """Fixed and learned temperatures and the student alone, with seeds 1, 2, …; the runs as the report reads them."""
    for name, values, method in (("fixed", fixed, "kd"), ("global", learned, "kd"), ("fixed", alone, "none")):
        for seed, top1 in enumerate(values, start=1):
            write_run(
                Path(folder) / f"{method}-{name}-{seed}", top1, temperature=name, method=method, seed=seed, **settings
            )
    return read_runs(sorted(Path(folder).iterdir())).runs


def pictures(*sections, points=10):
    """A figure a section."""
    for section in sections or ("temperature", "loss"):
        figure = Figure(figsize=(5.2, 3))
        figure.subplots().scatter(range(points), [i % 7 for i in range(points)])
        yield Picture(
            f"of_{section.replace('/', '')}",
            f"About {section}",
            "How it was measured.",
            "Seven levels.",
            figure,
            section,
        )


class Tables(HTMLParser):
    """The tables of a page: by ``id`` the rows, each a list of (text, small text, bold)."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.captions, self.images, self._at, self._inside = {}, {}, [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self._at = attributes["id"]
            self.tables[self._at], self.captions[self._at] = [], ""
        elif self._at and tag == "tr":
            self.tables[self._at].append([])
        elif self._at and tag in ("td", "th"):
            self.tables[self._at][-1].append(["", "", False])
        elif self._at and tag == "strong":
            self.tables[self._at][-1][-1][2] = True
        if tag not in ("img", "meta", "link"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        self._inside.pop()
        if tag == "table":
            self._at = None

    def handle_data(self, data):
        if self._at is None or not data.strip():
            return
        if self._inside[-1] == "caption":
            self.captions[self._at] += data
        elif rows := self.tables[self._at]:
            rows[-1][-1][self._inside[-1] == "small"] += data.strip()

    def numbers(self, name):
        """From a row's heading to the texts of its other cells."""
        return {row[0][0]: [cell[0] for cell in row[1:]] for row in self.tables[name]}


def summary_of(folder):
    return json.loads((Path(folder) / "summary.json").read_text())
