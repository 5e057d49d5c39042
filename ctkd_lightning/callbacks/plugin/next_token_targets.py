"""See whether labels found in a batch stand at their tokens' own places, and move them to where they are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from ctkd_lightning._scores.ignored import kept_targets
from ctkd_lightning.callbacks.plugin.calls import Call
from ctkd_lightning.features._arguments import tensors_in
from ctkd_lightning.features.outputs import is_integer
from ctkd_lightning.tokens.shift import next_tokens

_ENOUGH = 8  # tokens that are their own labels are no chance


class NextTokenTargets:
    """Targets of causal language models whose labels are the tokens that the model is given.

    Such models move the labels within their loss. Whether it is so shows in the first batch that has enough of them:
    each label is the token at its place, and not the next one. Later batches are not looked at, which would wait for
    the device.

    Args:
        ignore_index: the label that leaves its position out.
    """

    def __init__(self, ignore_index: int) -> None:
        self._ignore_index = ignore_index
        self._moves: bool | None = None  # not known yet

    def __call__(self, target: Tensor | None, call: Call) -> Tensor | None:
        """The target of each position.

        Args:
            target: as it was found in the batch.
            call: the student's.
        """
        if target is None or target.ndim != 2 or self._moves is False or not is_integer(target):
            return target
        if self._moves is None:
            self._look(target, call)
        if not self._moves:
            return target
        said = {name: _like(call.kwargs.get(name), target) for name in ("attention_mask", "position_ids")}
        return next_tokens(
            target, mask=said["attention_mask"], position_ids=said["position_ids"], ignore_index=self._ignore_index
        )

    def _look(self, target: Tensor, call: Call) -> None:
        tokens = _tokens(call, target)
        if tokens is None:
            self._moves = False
            return
        target, tokens = target.long(), tokens.long()
        kept = kept_targets(target, self._ignore_index)
        if int(kept.sum()) < _ENOUGH:
            return
        own = bool((target == tokens)[kept].all())
        moved = bool((target[:, :-1] == tokens[:, 1:])[kept[:, :-1]].all())
        if own and moved:  # all tokens are the same
            return
        self._moves = own
        if own and "CausalLM" not in type(call.output).__name__:  # transformers' outputs, whose labels are moved
            rank_zero_warn(
                "the labels are the tokens that the student is given, so each position's target is taken to be the "
                "next one, as causal language models have it: if they are not predicted from the tokens before, say "
                "what is right with target=lambda batch: …"
            )


def _tokens(call: Call, target: Tensor) -> Tensor | None:
    """The numbers of the tokens among the call's arguments."""
    named = _like(call.kwargs.get("input_ids"), target)
    if named is not None:
        return named
    placed = (_like(x, target) for argument in call.args for x in _tensors_of(argument))
    return next((x for x in placed if x is not None), None)


def _tensors_of(argument: Any) -> list[Tensor]:
    """A positional argument's tensors, in order; of a batch by names the tokens alone."""
    if isinstance(argument, Mapping):
        argument = argument.get("input_ids")
    return list(tensors_in(argument))


def _like(value: Any, target: Tensor) -> Tensor | None:
    fits = isinstance(value, Tensor) and value.shape == target.shape and is_integer(value)
    return value if fits else None
