"""The code in docs/tokens.md runs."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tokens.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_in_the_docs(code, tmp_path, monkeypatch, capsys):
    if "transformers" in code and importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCS), "exec"), {})
    assert "check_same_vocabulary(" not in code or "different tokenisers" in capsys.readouterr().out
