"""A network that is used and never trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ctkd_lightning.errors import UserError
from ctkd_lightning.features._arguments import ArgumentGuard, KeptArguments, tensors_in

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # those that layers compute in


class FrozenNetwork(nn.Module):
    """Hold a network for inference only: always in eval mode, without gradients, in no optimizer, in no checkpoint.

    The network is hidden from the module tree, so that ``parameters()``, ``state_dict()``, ``load_state_dict()``, DDP
    and optimizers of the owner never meet it (and loading stays strict), while moves of the owner to another device or
    type still reach it. It may be of any kind that PyTorch calls a module: TorchScript and exported programs too.

    Floating inputs are cast to the type of its weights, also within containers. What it does to its inputs, the caller
    does not see.

    Args:
        network: put into eval mode, its parameters' ``requires_grad`` turned off.
        shared: a module that may have parts in common with the network, such as a frozen backbone. They keep their
            mode, save while the network runs, and their ``requires_grad``. They are looked for at the first run or in
            :meth:`freeze`, so that either side may be completed until then.
    """

    def __init__(self, network: nn.Module, shared: nn.Module | None = None) -> None:
        super().__init__()
        self._hidden = [network]
        self._beside = [] if shared is None else [shared]  # until it is frozen
        self._arguments = ArgumentGuard(
            f"the teacher ({type(network).__name__}) overwrites its input {{where}}, in this call and not in those "
            "before: have its forward clone it first"
        )
        self._frozen = False
        if shared is None:
            self.freeze()

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._hidden[0]

    def freeze(self) -> None:
        """Put the network into eval mode and turn its gradients off, parts in common left alone.

        Raises:
            UserError: parameters in common that are trained.
        """
        if self._frozen:
            return
        beside = next(iter(self._beside), None)
        if beside is not None:
            check_separate(self.network, beside)
        foreign = set() if beside is None else {id(x) for x in (*beside.modules(), *beside.parameters())}
        # kept: to walk the tree at each step takes ten times as long
        self._own = [part for part in self.network.modules() if id(part) not in foreign]
        self._common = [part for part in self.network.modules() if id(part) in foreign]
        for parameter in self.network.parameters():  # one by one: TorchScript has no requires_grad_ for all
            if id(parameter) not in foreign:
                parameter.requires_grad_(False)
        self._evaluate_own()
        self._find_weight()
        self._beside, self._frozen = [], True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output, without gradients."""
        if not self._frozen:
            self.freeze()
        kept = self._fit(args, kwargs)
        if any(part.training for part in self._own):  # someone reached in and flipped it
            self._evaluate_own()
        trained = [part for part in self._common if part.training]
        for part in trained:
            part.training = False
        try:
            with torch.no_grad():  # a loss cannot save inference_mode's tensors for its backward pass
                output = self.network(*kept.args, **kept.kwargs)
        finally:
            for part in trained:
                part.training = True
        kept.check()
        return output

    def _evaluate_own(self) -> None:
        if not self._common:
            try:
                self.network.eval()
                return
            except NotImplementedError:  # an exported program, whose mode is that of its export
                pass
        for part in self._own:
            part.training = False

    def _find_weight(self) -> None:
        weights = (p for p in self.network.parameters() if p.dtype in _FLOATS)
        self._weight = [next(weights, None)]  # hidden too

    def _fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> KeptArguments:
        """The arguments as the network can take them, for it alone."""
        weight = self._weight[0]
        if weight is None or (len(args) == 1 and not kwargs and _fits(args[0], weight)):
            return self._arguments.keep(args, kwargs)
        tensors = list(tensors_in((args, kwargs)))
        if tensors and all(tensor.device != weight.device for tensor in tensors):
            # Strategies that move registered parameters one by one (FSDP) pass the hidden network by.
            self.network.to(tensors[0].device)
        return self._arguments.keep(args, kwargs, lambda tensor: _cast(tensor, weight.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        self.network._apply(fn, recurse)
        self._find_weight()
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Name of the network's class."""
        return type(self.network).__name__


def check_complete(teacher: nn.Module) -> None:
    """Refuse a teacher whose weights are not there.

    Raises:
        UserError: some layers are lazy and have not run, or some weights are on the meta device.
    """
    for name, tensor in (*teacher.named_parameters(), *teacher.named_buffers()):
        if is_lazy(tensor):
            raise UserError(
                f"the teacher's {name!r} has no shape yet, its layer is lazy: run the teacher once on an example, "
                "and load its weights"
            )
        if tensor.is_meta:
            raise UserError(
                f"the teacher's {name!r} is on the meta device, which keeps no values: make the teacher on a real one, "
                "or move it there with to_empty(device='cpu'), and load its weights"
            )


def check_separate(teacher: nn.Module, module: nn.Module) -> None:
    """Refuse a teacher that is, or holds, a part of what is trained: it must stand still.

    Raises:
        UserError: naming a parameter that both have.
    """
    trained = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    shared = [trained[id(p)] for p in teacher.parameters() if id(p) in trained]
    if shared:
        raise UserError(
            f"the teacher shares {len(shared)} trained parameter(s) with {type(module).__name__}, such as "
            f"{shared[0]!r}: it must stand still; pass a copy, copy.deepcopy(network), or freeze it"
        )


def _fits(value: Any, weight: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.device != weight.device:
        return False
    return value.dtype == weight.dtype or value.dtype not in _FLOATS


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype == dtype or tensor.dtype not in _FLOATS:
        return tensor
    limits, own = torch.finfo(dtype), torch.finfo(tensor.dtype)
    tensor = tensor.detach()
    if limits.max < own.max:  # the least number of a type, in attention masks, would become minus infinity
        tensor = tensor.clamp(limits.min, limits.max)
    return tensor.to(dtype)
