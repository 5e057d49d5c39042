"""A language model that is asked for its logits, and for what its head reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features._linear_head import LinearHead
from ctkd_lightning.features.frozen import FrozenNetwork, check_complete
from ctkd_lightning.features.outputs import Pick, pick_logits


class AskedModel:
    """Ask a network for what it says after each token.

    Args:
        network: from token ids (B, T) to logits (B, T, V), or to an output that has them.
        pick: from its output to the logits, where that is neither a tensor nor has ``.logits``.
    """

    def __init__(self, network: nn.Module, pick: Pick | None = None) -> None:
        check_complete(network)
        self.network = FrozenNetwork(network)
        self._pick = pick
        self._head = LinearHead(network)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((p.device for p in self.network.network.parameters()), torch.device("cpu"))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of tokens (B, T).

        Raises:
            UserError: the network gives something else.
        """
        logits = pick_logits(self.network(tokens.to(self.device)), self._pick, "teacher")
        if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
            raise UserError(
                f"the teacher gave logits of shape {tuple(logits.shape)} for tokens of shape {tuple(tokens.shape)}: "
                "expected (B, T, V)"
            )
        return logits

    def with_hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits, and what the head read, (B, T, H); ``None`` if these are not the logits of a linear head."""
        return self._head.read_by(lambda: self(tokens))

    @property
    def head(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of the last linear layer."""
        if (layer := self._head.layer) is None:
            return None
        return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
