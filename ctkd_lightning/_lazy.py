"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names are looked up late.

    Importing one part then does not load all others: the losses need no Lightning, a configuration no torch.

    Args:
        package: ``__name__`` of the package.
        places: from each public name to the module that has it.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return find, listed
