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

    Such models move the labels within their loss. Whether it is so shows in the first batches: each label is the token
    at its place, and not the next one. Once there have been enough of them, later batches are not looked at, which
    would wait for the device.

    Args:
        ignore_index: the label that leaves its position out.
    """

    def __init__(self, ignore_index: int) -> None:
        self._ignore_index = ignore_index
        self._moves: bool | None = None  # not known yet
        self._seen = 0  # labels that were their own tokens
        self._told = False

    def __call__(self, target: Tensor | None, call: Call) -> Tensor | None:
        """The target of each position.

        Args:
            target: as it was found in the batch.
            call: the student's.
        """
        if target is None or target.ndim != 2 or self._moves is False or not is_integer(target):
            return target
        if self._moves is None and not self._are_own_tokens(target, call):
            return target
        mask, places = (_like(call.named.get(name), target) for name in ("attention_mask", "position_ids"))
        return next_tokens(target, mask=mask, position_ids=places, ignore_index=self._ignore_index)

    def _are_own_tokens(self, target: Tensor, call: Call) -> bool:
        """Whether this batch's labels are; decides for later ones when enough have been seen."""
        tokens = _tokens(call, target)
        if tokens is None:
            self._moves = False
            return False
        target, tokens = target.long(), tokens.long()
        kept = kept_targets(target, self._ignore_index)
        own = bool((target == tokens)[kept].all())
        count = int(kept.sum())
        if not own:
            self._moves = False
        if not own or not count:
            return False
        if bool((target[:, :-1] == tokens[:, 1:])[kept[:, :-1]].all()) and bool(kept[:, :-1].any()):
            return False  # all tokens are the same, which says nothing
        self._seen += count
        if self._seen >= _ENOUGH:
            self._moves = True
        self._tell(call)
        return True

    def _tell(self, call: Call) -> None:
        if self._told or "CausalLM" in type(call.output).__name__:  # transformers' outputs, whose labels are moved
            return
        self._told = True
        rank_zero_warn(
            "the labels are the tokens that the student is given, so each position's target is taken to be the "
            "next one, as causal language models have it: if they are not predicted from the tokens before, say "
            "what is right with target=lambda batch: …"
        )


def _tokens(call: Call, target: Tensor) -> Tensor | None:
    """The numbers of the tokens among the call's arguments: by their usual name, or the first of the labels' shape."""
    named = call.named.get("input_ids")
    placed = [x for argument in call.args if not isinstance(argument, Mapping) for x in tensors_in(argument)]
    fit = [x for x in (named, *placed) if isinstance(x, Tensor) and x.shape == target.shape and is_integer(x)]
    return fit[0] if fit else None


def _like(value: Any, target: Tensor) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.shape == target.shape else None
