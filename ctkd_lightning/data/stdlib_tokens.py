"""The source of Python's standard library as tokens."""

from __future__ import annotations

import sysconfig
from pathlib import Path, PurePosixPath
from typing import Any

from ctkd_lightning.data.text_files import TextFiles


class StdlibTokens(TextFiles):
    """Python source for small language models: the standard library of the Python that runs, as pairs of bytes.

    Args:
        root: the folder of sources; that of the running Python by default. Other Pythons have other texts.
        pattern: of the files' names.
        **settings: as in :class:`TextFiles`.

    Raises:
        UserError: a setting that cannot be; no sources, or no tokenizers.
    """

    name = "stdlib_tokens"

    def __init__(self, root: str | Path | None = None, pattern: str = "*.py", **settings: Any) -> None:
        super().__init__(sysconfig.get_paths()["stdlib"] if root is None else root, pattern, **settings)

    def _has(self, name: str) -> bool:
        """All but what was installed."""
        return "site-packages" not in PurePosixPath(name).parts
