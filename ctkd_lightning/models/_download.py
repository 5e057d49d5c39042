"""Failed downloads, explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ctkd_lightning.errors import UserError


@contextmanager
def explained_download(name: str) -> Iterator[None]:
    """Turn a failed download into one line.

    Raises:
        UserError: naming the model and what to do without a network.
    """
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the weights of {name} are neither cached nor could they be downloaded ({reason}); connect once, or pass "
            "pretrained=False and load a file of them with load_weights"
        ) from error
