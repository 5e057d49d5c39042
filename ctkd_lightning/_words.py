"""Words around numbers."""

from __future__ import annotations


def counted(number: int, one: str, many: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{number} {one if number == 1 else many}"


def cpu_threads(number: int) -> str:
    """``"1 CPU thread"``, ``"2 CPU threads"``."""
    return counted(number, "CPU thread", "CPU threads")
