"""What a checkpoint must hold beside weights, so that a training goes on as if nothing had stopped it.

Lightning keeps what the trained network and its optimizer are. Of what a process has summed since the epoch began, and
of where its random numbers are, it keeps nothing.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ctkd_lightning._across_processes import processes

_RANDOM = "ctkd_lightning.random"  # in a checkpoint


def of_all_processes(part: Any) -> list[Any]:
    """What each process has of something, by its rank; a collective call.

    Args:
        part: this process's, of plain objects and tensors on the CPU.
    """
    if processes() == 1:
        return [part]
    parts: list[Any] = [None] * processes()
    dist.all_gather_object(parts, part)
    return parts


def of_this_process(parts: Any) -> Any:
    """This process's part of them; ``None`` where they are of another number of processes, or none at all."""
    if not isinstance(parts, list):
        return None
    if len(parts) != processes():
        warnings.warn(
            f"the checkpoint is of {len(parts)} process(es), and {processes()} go on: the random numbers are others, "
            "and within an epoch its losses and temperatures are those of the rest",
            stacklevel=2,
        )
        return None
    return parts[dist.get_rank() if processes() > 1 else 0]


class RandomNumbers:
    """Where the random numbers of Python, NumPy and torch are, on each process: what dropout and shuffling draw."""

    def __init__(self) -> None:
        self._loaded: Mapping[str, Any] | None = None

    def save(self, checkpoint: dict[str, Any], device: torch.device) -> None:
        """Tell a checkpoint, once; a collective call.

        Args:
            checkpoint: to be written.
            device: of the training.
        """
        if _RANDOM in checkpoint:
            return
        version, words, gauss = random.getstate()
        _, keys, *rest = np.random.get_state()
        state = {
            "python": (version, torch.tensor(words), gauss),
            "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
        }
        if device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(device)
        checkpoint[_RANDOM] = of_all_processes(state)

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take them from a checkpoint."""
        self._loaded = of_this_process(checkpoint.get(_RANDOM))

    def go_on(self, device: torch.device) -> None:
        """Go on with those of a checkpoint, if one was loaded."""
        state, self._loaded = self._loaded, None
        if state is None:
            return
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
