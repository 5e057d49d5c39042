"""What there is to say of a method or a temperature: said once, in its class; tables and checks are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal, TypeVar

T = TypeVar("T")

WeightSource = Literal["paper", "authors' code", "CTKD's code", "RepDistiller", "mdistiller", "ours"]


@dataclass(frozen=True)
class MethodFacts:
    """Of a method, what its code does not say.

    The rest is read from the class: ``needs``, ``needs_target``, weight, settings, warm-up.

    Attributes:
        paper: first author, venue and year.
        url: of the paper.
        weight_from: where the default weight comes from.
        index: whether it reads the samples' indices.
        classifier: whether it reads the teacher's classifier.
        same_widths: whether both networks' maps must have the same numbers of channels.
        reads: what more is to say of the features that it reads.
        tau: what the paper says of τ, where the temperature acts and the usual one is not meant.
        own: its trainable parts and memories.
        cost: beside the two networks.
        name: of its configuration, where that is not the class's in small letters.
    """

    paper: str
    url: str
    weight_from: WeightSource
    index: bool = False
    classifier: bool = False
    same_widths: bool = False
    reads: str = ""
    tau: str = ""
    own: str = ""
    cost: str = ""
    name: str = ""


@dataclass(frozen=True)
class TemperatureFacts:
    """Of a temperature.

    Attributes:
        paper: first author, venue and year.
        url: of the paper.
        what: what τ is, in some words.
        student: the student's τ.
        teacher: the teacher's τ.
        scale: the factor of the loss.
        needs: what it must be given, beside the logits of both networks.
        breaks: where it does no good, and what is done about it.
        name: of its configuration, where that is not the class's in small letters.
    """

    paper: str
    url: str
    what: str
    student: str = "τ"
    teacher: str = "τ"
    scale: str = "τ²"
    needs: str = ""
    breaks: str = ""
    name: str = ""


def choices(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """The kinds of ``base`` that a package exports, by the name of their configuration, sorted.

    A class in a module that begins with an underscore is one to build on, not a choice.
    """
    exported = [getattr(package, name) for name in package.__all__]
    kinds = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, base)]
    return dict(sorted((_name(kind, base), kind) for kind in kinds if not _internal(kind)))


def _name(kind: type, base: type) -> str:
    name: str = getattr(getattr(kind, "facts", None), "name", "")
    return name or kind.__name__.lower().removesuffix(base.__name__.lower())


def _internal(kind: type) -> bool:
    return kind.__module__.rpartition(".")[2].startswith("_")
