"""Which of a step's calls a loss depends on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from ctkd_lightning.callbacks.plugin.calls import Call
from ctkd_lightning.features._arguments import tensors_in


@torch.compiler.disable
def calls_behind(loss: Tensor, calls: Sequence[Call]) -> list[Call]:
    """The calls whose gradients come from a loss, in their order.

    The graph is walked from the loss, the nearest operations first, until all calls are found. A call whose output
    holds no tensor that can be found is taken for one of them; one without gradients never is.

    Args:
        loss: a scalar, before its backward pass.
        calls: of the step.
    """
    ends = [(call, _ends(call)) for call in calls if call.has_gradient]
    wanted = {node for _, nodes in ends for node in nodes}
    found = _reached(loss, wanted)
    return [call for call, nodes in ends if not nodes or not found.isdisjoint(nodes)]


def _ends(call: Call) -> list[Node]:
    return [get_gradient_edge(tensor).node for tensor in tensors_in(call.output) if tensor.requires_grad]


def _reached(loss: Tensor, wanted: set[Node]) -> set[Node]:
    if not wanted or not loss.requires_grad:
        return set()
    start = get_gradient_edge(loss).node
    seen, waiting, missing = {start}, deque([start]), set(wanted)
    while waiting and missing:
        node = waiting.popleft()
        missing.discard(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return wanted - missing
