"""Top-k log-probabilities as vLLM gives them for a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctkd_lightning._files import user_path
from ctkd_lightning._reading import check_regular
from ctkd_lightning.errors import UserError


class TopK(NamedTuple):
    """What a teacher gave after each token of a text, for :func:`ctkd_lightning.methods.top_k_kd_loss`.

    Attributes:
        ids: (T, k), int64, its likeliest next tokens.
        log_probabilities: (T, k), float32; minus infinity where there are fewer than k, and after the last token.
    """

    ids: Tensor
    log_probabilities: Tensor


def top_k_of_vllm(prompt_logprobs: Sequence[Any]) -> TopK:
    """From ``prompt_logprobs``, of a request's output in Python or of a server's answer in JSON.

    Their entry of a token is what the model thought of it *before* it came, and the first token has none. So they are
    moved: row t is of the token after t, as a causal model's logits are, and the last row is empty.

    Args:
        prompt_logprobs: by token ``None``, or from token ids to log-probabilities (numbers, mappings or objects with
            ``logprob``). The prompt's own token is among them, also where it is not one of the k.

    Raises:
        UserError: another layout.

    Example:
        >>> found = top_k_of_vllm([None, {"7": {"logprob": -0.5}, "2": {"logprob": -1.0}}])
        >>> found.ids.tolist(), found.log_probabilities.tolist()
        ([[7, 2], [0, 0]], [[-0.5, -1.0], [-inf, -inf]])
    """
    if not isinstance(prompt_logprobs, Sequence) or isinstance(prompt_logprobs, str) or not prompt_logprobs:
        raise UserError(
            f"expected vLLM's prompt_logprobs, a list with an entry a token, found {_told(prompt_logprobs)}: ask for "
            "them with prompt_logprobs=K"
        )
    if prompt_logprobs[0] is not None:
        raise UserError(
            f"the first entry of vLLM's prompt_logprobs is None, since nothing comes before it, found "
            f"{_told(prompt_logprobs[0])}: give those of the whole text, not of what was generated"
        )
    rows = [_pairs(entry) for entry in prompt_logprobs[1:]]
    width = max((len(row) for row in rows), default=0)
    ids = torch.zeros(len(rows) + 1, width, dtype=torch.int64)
    found = torch.full((len(rows) + 1, width), -torch.inf)
    for position, row in enumerate(rows):
        for place, (token, value) in enumerate(row.items()):
            ids[position, place], found[position, place] = token, value
    return TopK(ids, found)


def read_vllm(path: str | Path) -> Iterator[TopK]:
    """Each text of a file of vLLM's answers, one in JSON a line: ``prompt_logprobs``, an answer with them, or a choice.

    Raises:
        UserError: no file, no JSON, or an answer without them, naming the line.
    """
    file = user_path(path)
    try:
        check_regular(file)
        lines = file.open(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a file of vLLM's answers") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield top_k_of_vllm(_logprobs(json.loads(line)))
            except (ValueError, RecursionError) as error:  # UserError is one
                raise UserError(f"{file}, line {number}: {error}") from error


def _logprobs(answer: Any) -> Any:
    if isinstance(answer, Mapping) and "prompt_logprobs" not in answer:
        choices = answer.get("choices")
        answer = choices[0] if isinstance(choices, list) and len(choices) == 1 else answer
    return answer.get("prompt_logprobs") if isinstance(answer, Mapping) else answer


def _pairs(entry: Any) -> dict[int, float]:
    if not isinstance(entry, Mapping) or not entry:
        raise UserError(f"expected log-probabilities by token id, found {_told(entry)}: give vLLM's prompt_logprobs")
    try:
        return {int(token): _value(found) for token, found in entry.items()}
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"expected log-probabilities by token id, found {_told(entry)}: {error}") from error


def _value(found: Any) -> float:
    value = found["logprob"] if isinstance(found, Mapping) else getattr(found, "logprob", found)
    number = float(value)
    if not number <= 1e-3:  # a little above 0 is rounding
        raise ValueError(f"{number} is no log-probability")
    return min(number, 0.0)


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
