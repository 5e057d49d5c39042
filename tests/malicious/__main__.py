"""``python -m tests.malicious``: all malicious files, read by this package and by what is commonly used."""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torchvision.datasets.utils as downloads
from rich.console import Console
from rich.table import Table

from tests.malicious.files import KINDS, cases
from tests.malicious.measure import measure
from tests.malicious.readers import OURS, USUAL


def without_network() -> None:
    """Let every download fail."""

    def fail(*arguments: object, **settings: object) -> None:
        raise OSError("no network in tests")

    downloads._urlretrieve = fail


def outcomes(read: dict, kinds: set[str]) -> list:
    """Of the files of some kinds."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        canary, outside = folder / "canary", folder / "outside"
        chosen = [case for case in cases(folder / "files", canary, outside) if case.kind in kinds]
        return list(measure(chosen, read, canary, outside))


def main(kinds: list[str]) -> int:
    """Print a row a kind, and what is not right."""
    without_network()
    chosen = set(kinds or KINDS)
    ours = outcomes(OURS, chosen)
    usual = outcomes({kind: read for kind, (_, read) in USUAL.items()}, chosen)
    table = Table(title="Malicious files")
    ours_of = ("kind", "files", "refused here", "harm here", "slowest, s")
    for heading in (*ours_of, "usual reader", "harm there", "no end", "crashed"):
        table.add_column(heading, justify="left" if heading in ("kind", "usual reader") else "right")
    for kind in [kind for kind in KINDS if kind in chosen]:
        own = [each for each in ours if each.kind == kind]
        other = [each for each in usual if each.kind == kind]
        how = Counter(each.how for each in other)
        harm = [sum(bool(each.harm) for each in found) for found in (own, other)]
        slowest = max(each.seconds for each in own)
        row = [len(own), sum(each.right for each in own), harm[0], f"{slowest:.1f}", USUAL[kind][0], harm[1]]
        table.add_row(kind, *map(str, [*row, how["no end"], how["crashed"]]))
    console = Console(width=150)
    console.print(table)
    wrong = [each for each in ours if not each.right]
    for each in wrong:
        console.print(
            f"{each.kind}, {each.name}: {each.how} {each.harm} {each.seconds:.1f} s {each.said}", markup=False
        )
    console.print(f"{len(ours) - len(wrong)} of {len(ours)} refused in one line, within the limits and without harm")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
