"""Write a store, and say what it costs and how exact it is."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ctkd_lightning.storing.documents import read_documents
from ctkd_lightning.storing.model import load_model
from ctkd_lightning.storing.settings import StoreSettings
from ctkd_lightning.token_store import write_token_store
from ctkd_lightning.token_store._choice import Choice
from ctkd_lightning.token_store._manifest import Errors, Manifest


def write_store(settings: StoreSettings) -> Manifest:
    """Ask the teacher for all documents; print the choice before and a table at the end.

    Raises:
        UserError: a setting, file or model that cannot be; what
            :func:`~ctkd_lightning.token_store.write_token_store` refuses.
    """
    documents = read_documents(settings.tokens)
    network = load_model(settings.teacher, settings.device)
    console = Console()

    def announce(choice: Choice) -> None:
        _print_choice(console, choice, documents.tokens)

    with Progress(console=console) as bar:
        task = bar.add_task("tokens", total=documents.tokens)
        found = write_token_store(
            settings.output,
            network,
            documents,
            tolerance=settings.tolerance,
            top=settings.top,
            rank=settings.rank,
            batch_size=settings.batch_size,
            announce=announce,
            progress=lambda tokens: bar.advance(task, tokens),
        )
    _print_store(console, found, settings)
    return found


def _print_choice(console: Console, choice: Choice, tokens: int) -> None:
    """What was tried, and what is taken."""
    table = Table(title=f"Relative errors on {choice.measured_on:,} held-out tokens, %", title_justify="left")
    for heading in ("coefficients", "bits", "bytes a token", "KL", "to hidden states", "to the head"):
        table.add_column(heading, justify="right")
    for candidate in choice.tried:
        layout = candidate.layout
        of = (f"{100 * largest(candidate.errors, part):.2g}" for part in ("kl", "hidden", "head"))
        table.add_row(str(layout.rank), str(layout.bits), str(layout.nbytes), *of)
    console.print(table)
    layout = choice.candidate.layout
    if choice.candidate.whole:
        console.print(
            "No fewer do than all directions in which the logits vary: of a linear head, its hidden states.",
            highlight=False,
        )
    console.print(
        f"{layout.nbytes} bytes a token, {decimal(layout.nbytes * tokens)} for {tokens:,} tokens", highlight=False
    )


def _print_store(console: Console, found: Manifest, settings: StoreSettings) -> None:
    table = Table(title=f"{escape(settings.teacher)}, {found.vocabulary:,} logits a token", title_justify="left")
    table.add_column("")
    for tau in found.errors:
        table.add_column(f"τ = {tau}", justify="right")
    for part, name in (("kl", "error of KL, %"), ("hidden", "to hidden states, %"), ("head", "to the head, %")):
        table.add_row(name, *(f"{100 * of_tau[part]:.2g}" for of_tau in found.errors.values()))
    console.print(table)
    kept = f"{found.rank} coefficients of {found.bits} bits, the top {found.top} exactly: {found.bytes_per_token} bytes"
    for name, text in (
        ("documents", f"{found.documents:,}, {found.tokens:,} tokens"),
        ("a token", kept),
        ("size", decimal(found.tokens * found.bytes_per_token)),
        ("folder", str(settings.output)),
    ):
        console.print(f"{name:19} {text}", highlight=False, markup=False, soft_wrap=True)


def largest(errors: Errors, part: str) -> float:
    """The largest error of one part over the temperatures."""
    return max(of_tau[part] for of_tau in errors.values())
