"""From a run to a file: the student alone, written, loaded again, compared, and only then left in its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import OmegaConf
from torch import Tensor, nn

from ctkd_lightning import build
from ctkd_lightning._files import written_whole
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.exporting.comparison import Pixels, Scorer, Scores, latency, scores_of
from ctkd_lightning.exporting.formats import FORMATS, Format
from ctkd_lightning.exporting.quiet import quiet
from ctkd_lightning.exporting.settings import ExportSettings
from ctkd_lightning.exporting.table import Row, print_table
from ctkd_lightning.job.earlier import EarlierRun, decode_into_own_cache, explained_run, need_student, read_run
from ctkd_lightning.job.student import describe
from ctkd_lightning.models import StudentDescription, create_model, load_weights

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 256
"""Training images that show the ranges of a static quantisation."""


def export_student(settings: ExportSettings) -> list[Row]:
    """Export the student of a run, and print what it is like beside the original.

    Returns:
        The student in each form: the run's, as exported, and in int8 where that was asked for.

    Raises:
        UserError: a run without a student, a network that the format cannot hold, a file that cannot be written, or
            one whose logits are further from the original's than the tolerance; then no file is left.
    """
    chosen = FORMATS[settings.format]
    chosen.check()
    run = read_run(settings.run)
    summary = need_student(run)
    with explained_run(run.files.path):
        data = _data(run, settings)
        description = describe(run.configuration, data, summary.final, normalize=settings.normalize)
        network = create_model(description.network, data.num_classes, **description.options).eval()
    load_weights(network, run.files.student)
    exporting = _Export(settings, chosen, data, description, network)
    rows = [exporting.original(run.files.student)]
    with _writable(settings.output), TemporaryDirectory() as folder:
        float32 = Path(folder, settings.output.name)
        rows.append(exporting.float32(float32))
        with written_whole(settings.output) as partial:
            if settings.quantize is None:
                partial.write_bytes(float32.read_bytes())
            else:
                rows.append(exporting.int8(float32, partial))
    print_table(rows, description, settings.output, images=len(exporting.reference.target))
    return rows


class _Export:
    """The original, and what is made of it."""

    def __init__(
        self,
        settings: ExportSettings,
        chosen: Format,
        data: ImageDataModule,
        description: StudentDescription,
        network: nn.Module,
    ) -> None:
        self.settings = settings
        self.chosen = chosen
        self.data = data
        self.description = description
        self.network = network
        self.given: Callable[[Tensor], Tensor] = Pixels(data) if settings.normalize else lambda image: image
        self.reference = scores_of(network, data)

    def original(self, path: Path) -> Row:
        """The run's network."""
        return self._row("the run's", path, self.network, self.reference)

    def float32(self, path: Path) -> Row:
        """Write the network, and refuse what is not like the original."""
        name = self.settings.format
        with _explained(self.description.network, name):
            self.chosen.write(self.network, self.description, path)
            loaded = self.chosen.load(path)
            scores = scores_of(self._on_data(loaded), self.data)
        difference, tolerance = scores.difference(self.reference), self.settings.tolerance
        if not difference <= tolerance:  # NaN is not
            raise UserError(
                f"the exported {self.description.network} is not like the original: their logits differ by up to "
                f"{difference:.2g} on {len(scores.target)} test images, tolerance={tolerance:g}: no file is left; take "
                "another format, or a greater tolerance"
            )
        return self._row(name, path, loaded, scores)

    def int8(self, float32: Path, path: Path) -> Row:
        """Write an int8 copy of the ONNX model, and warn where it knows less than the original."""
        from ctkd_lightning.exporting.int8 import quantize  # needs an extra

        kind = self.settings.quantize
        calibration = self._calibration() if kind == "static" else None
        with _explained(self.description.network, f"{self.settings.format} in int8"):
            quantize(float32, self.description, path, calibration)
            loaded = self.chosen.load(path)
            scores = scores_of(self._on_data(loaded), self.data)
        lost = self.reference.top1 - scores.top1
        if not lost < 1:
            other = "static" if kind == "dynamic" else "dynamic"
            log.warning("int8 costs %.2f points of top-1: try quantize=%s", lost, other)
        return self._row(f"{self.settings.format} int8 ({kind})", path, loaded, scores)

    def _on_data(self, loaded: Scorer) -> Scorer:
        """A file's network, which may want other images than the data give."""
        return lambda image: loaded(self.given(image))

    def _calibration(self) -> Iterator[Tensor]:
        """Training images, of all classes and as the network saw them, one by one: the last batch may be small."""
        images = (image for batch in self.data.train_dataloader() for image in self.given(batch.image))
        return (image[None] for image in islice(images, CALIBRATION_IMAGES))

    def _row(self, name: str, path: Path, scorer: Scorer, scores: Scores) -> Row:
        image = self.given(next(iter(self.data.test_dataloader())).image[:1])
        with quiet():
            milliseconds = latency(scorer, image)
        return Row(name, path.stat().st_size, scores.top1, scores.difference(self.reference), milliseconds)


def _data(run: EarlierRun, settings: ExportSettings) -> ImageDataModule:
    """The run's data, with as many test images as are wanted."""
    cfg = run.configuration.copy()
    decode_into_own_cache(cfg)
    if settings.data_root is not None:
        OmegaConf.update(cfg, "data.root", settings.data_root, force_add=True)
    if settings.images is not None:
        limit = cfg.data.get("limit_eval")
        cfg.data.limit_eval = settings.images if limit is None else min(limit, settings.images)
    cfg.channels_last = False  # the exporters' layout
    return build.data(cfg)


@contextmanager
def _explained(network: str, format: str) -> Iterator[None]:
    """Keep the libraries quiet, and say in a line what they say of a network that they cannot take.

    Raises:
        UserError: they cannot.
    """
    try:
        with quiet():
            yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever the exporters and their runtimes raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(
            f"{network} cannot be exported as {format}: {said.rstrip('.')}; take another format, such as "
            "format=safetensors, or another network"
        ) from error


@contextmanager
def _writable(output: Path) -> Iterator[None]:
    """Say in a line what keeps a file from being written.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {output}: {error.strerror or error}; make room, or set output to another folder"
        ) from error
