"""The examples of the plug-in run, learn, and move the temperature."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
START = 1 + 20 / (1 + 2.718281828459045**-1)  # the default temperature's


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


@pytest.mark.parametrize("name", ["plugin_unedited", "plugin_own_loss", "plugin_logits_output"])
def test_digits(name):
    results = run(name)
    assert results["student distilled"] > 0.8  # a guesser has 0.1
    assert abs(results["temperature"] - START) > 0.5


@pytest.mark.slow
def test_language_model():
    results = run("plugin_language_model")
    assert results["teacher"] < results["student distilled"] < 4.0  # bits; of 90 characters a guesser needs 6.5
    assert abs(results["temperature"] - 2.0) > 0.1


@pytest.mark.slow
def test_detection():
    results = run("plugin_detection")
    assert results["student distilled"] > 0.6  # a guesser that finds every digit has 0.2
    assert abs(results["temperature"] - (1 + 4 / (1 + 2.718281828459045**2))) > 0.1


DOCS = Path(__file__).resolve().parents[1] / "docs" / "plugin.md"


@pytest.mark.parametrize("index", [0, 1])
def test_code_in_the_docs(index, capsys):
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)[index]
    names = {}
    exec(compile(code, str(DOCS), "exec"), names)
    if index == 0:
        assert "GlobalTemperature" in capsys.readouterr().out
        assert names["distil"].temperature.lambda_ == 1.0  # the curriculum ran
