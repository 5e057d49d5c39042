"""A teacher that is the student's own base, with other adapters or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ctkd_lightning._modes import evaluating
from ctkd_lightning.errors import UserError


class AdapterTeacher(nn.Module):
    """The student's base as its teacher, kept in memory once: a model of PEFT with its adapters off, or with others.

    It is asked in eval mode, and leaves the model as it was: mode, adapter, and which parameters are trained. It has no
    parameters of its own, so that what looks for a teacher's finds none, and nothing of it is copied or saved.

    Args:
        model: with adapters, as :func:`peft.get_peft_model` makes it; the student, or what it is made of.
        adapter: the teacher's adapter, loaded beside the student's; ``None`` for the base alone. At the start LoRA's
            adapters change nothing, so that the base alone says what the student says: it teaches a student that is
            given something else, as a shorter prompt with ``teacher_input=``, or keeps one near that learns from
            labels.

    Raises:
        UserError: a model without adapters, or without that one.
    """

    def __init__(self, model: nn.Module, adapter: str | None = None) -> None:
        super().__init__()
        adapters = getattr(model, "peft_config", None)
        if not hasattr(model, "disable_adapter") or not adapters:
            raise UserError(
                f"AdapterTeacher takes a model with adapters, as peft.get_peft_model gives, found "
                f"{type(model).__name__}: pass any other teacher as it is"
            )
        if adapter is not None and adapter not in adapters:
            raise UserError(
                f"the model has no adapter {adapter!r}, but {', '.join(map(repr, adapters))}: load it first, as with "
                f"model.load_adapter(FOLDER, {adapter!r})"
            )
        self._hidden = [model]
        self.adapter = adapter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the base says, or the base with the teacher's adapter."""
        model: Any = self._hidden[0]
        with evaluating(model), self._chosen(model):
            return model(*args, **kwargs)

    @contextmanager
    def _chosen(self, model: Any) -> Iterator[None]:
        trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            if self.adapter is None:
                with model.disable_adapter():
                    yield
            else:
                active = model.active_adapter
                model.set_adapter(self.adapter)
                try:
                    yield
                finally:
                    model.set_adapter(active)
        finally:
            for parameter, requires_grad in trained:
                parameter.requires_grad_(requires_grad)

    def extra_repr(self) -> str:
        """The adapter."""
        return "the base alone" if self.adapter is None else repr(self.adapter)
