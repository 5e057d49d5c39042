"""What the writing of a token store may be asked for; without torch, so that a command can say it at once."""

from __future__ import annotations

from typing import Any

from ctkd_lightning.errors import check_number


def check_store_settings(tolerance: Any, top: Any, rank: Any, batch_size: Any) -> None:
    """Refuse settings of :func:`~ctkd_lightning.token_store.write_token_store` that are out of range.

    Raises:
        UserError: naming the setting.
    """
    check_number("tolerance", tolerance, above=0)
    check_number("top", top, least=0, whole=True)
    check_number("batch_size", batch_size, least=1, whole=True)
    if rank is not None:
        check_number("rank", rank, least=1, whole=True)
