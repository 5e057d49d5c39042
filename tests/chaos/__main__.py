"""``python -m tests.chaos --kills 50 --faults all``: a table of what was broken, and what came of it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.chaos.cases import CASES
from tests.chaos.faults import FAULTS
from tests.chaos.harness import Harness


def main() -> None:
    """Break runs, and exit with status 1 where one ended otherwise than one that was not broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=50, help="broken runs")
    parser.add_argument("--faults", nargs="+", default=["all"], choices=["all", *FAULTS])
    parser.add_argument("--cases", nargs="+", default=[], help="words that a case's name has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    arguments = parser.parse_args()
    kinds = list(FAULTS) if "all" in arguments.faults else arguments.faults
    cases = [case for case in CASES if not arguments.cases or any(word in case.name for word in arguments.cases)]
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    harness, console = Harness(folder, arguments.seed), Console()
    equal: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for number in track(range(arguments.kills), "Breaking runs", console=console):
        case = cases[number % len(cases)]
        faults, wrong = harness.break_once(case, number, kinds)
        broken[case.name] += 1
        equal[case.name] += not wrong
        told.update(fault.kind for fault in faults)
        if wrong:
            console.print(f"[bold]{number} {case.name}[/]: {', then '.join(map(str, faults))}")
            for line in wrong:
                console.print(f"  {line}", markup=False, highlight=False)
        elif not arguments.keep:
            shutil.rmtree(folder / f"broken_{number}", ignore_errors=True)
    table = Table("run", "broken", "equal in the end")
    for case in cases:
        table.add_row(case.name, str(broken[case.name]), str(equal[case.name]))
    table.add_row("together", str(broken.total()), str(equal.total()), style="bold")
    console.print(table)
    console.print("faults: " + ", ".join(f"{kind} {count}" for kind, count in told.items()))
    if equal.total() == broken.total() and not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"the runs are in {folder}")
    sys.exit(equal.total() != broken.total())


if __name__ == "__main__":
    main()
