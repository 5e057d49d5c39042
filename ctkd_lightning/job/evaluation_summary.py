"""What an evaluation came to: ``evaluation.json``, in types."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctkd_lightning._files import written_whole
from ctkd_lightning._reading import read_json
from ctkd_lightning.errors import UserError
from ctkd_lightning.job._types import of_its_types
from ctkd_lightning.job.cost import Cost
from ctkd_lightning.job.quality import Agreement, Quality
from ctkd_lightning.job.run_directory import RunDirectory


@dataclass
class NetworkEvaluation:
    """One of the networks.

    Attributes:
        name: as in ``model=``.
        quality: on the test samples.
        agreement: with the teacher; ``None`` of the teacher itself, and where it was not evaluated.
        cost: on the evaluation's device.
    """

    name: str
    quality: Quality
    agreement: Agreement | None
    cost: Cost


@dataclass(kw_only=True)
class Evaluation:
    """Of a run's networks, or of one network.

    Attributes:
        data: the data set's name, of image folders the folder's.
        test_data: what tells these test samples from others, as in :class:`~ctkd_lightning.job.summary.Summary`.
        samples: N, their number.
        num_classes: of the data.
        image_size: pixels, height and width.
        outputs: whether the networks' outputs were ``"computed"`` now, in float32, or are those that the run
            ``"kept"``, in float16.
        networks: by role, ``teacher``, ``student`` and ``baseline`` (the student alone), as far as there are; a
            single network by ``network``.
        device: of the measured times.
        threads: likewise, on the CPU.
        channels_last: likewise, whether images and networks were laid out so.
        batch_size: of the throughput.
    """

    data: str
    test_data: str
    samples: int
    num_classes: int
    image_size: int
    outputs: Literal["computed", "kept"]
    networks: dict[str, NetworkEvaluation]
    device: str
    threads: int
    channels_last: bool
    batch_size: int
    versions: dict[str, str | None] = field(default_factory=dict)
    git: str | None = None
    hardware: dict[str, str | int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            with written_whole(path) as partial:
                partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): make room, or set output=FILE") from error


def read_evaluation(run: RunDirectory, data: str | None = None) -> Evaluation | None:
    """The evaluation of a run; ``None`` where there is none that can be read.

    Args:
        run: its files.
        data: the name of the other data that it was evaluated on; the run's own by default.
    """
    return read_evaluation_file(run.evaluation if data is None else run.evaluation_on(data))


def read_evaluation_file(path: Path) -> Evaluation | None:
    """The evaluation in a file, likewise."""
    try:
        content: dict[str, Any] = read_json(path)
        known = {name: value for name, value in content.items() if name in Evaluation.__dataclass_fields__}
        networks = {role: _network(found) for role, found in content["networks"].items()}
        found = Evaluation(**known | {"networks": networks})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if of_its_types(found) else None


def _network(content: dict[str, Any]) -> NetworkEvaluation:
    agreement = content["agreement"]
    return NetworkEvaluation(
        content["name"],
        Quality(**content["quality"]),
        None if agreement is None else Agreement(**agreement),
        Cost(**content["cost"]),
    )
