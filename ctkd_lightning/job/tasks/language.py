"""Language models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.filesize import decimal
from rich.progress import Progress
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import TokenDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.owner import launched_rank
from ctkd_lightning.job.tasks.task import Learning, Task
from ctkd_lightning.job.training import run_test
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.token_store.cached import CachedTexts, store_texts


class Language(Task[TokenDataModule]):
    """Bits a byte of language models."""

    name = "language"
    without_effect = ("channels_last", "keep_outputs")
    temperature = "global_tokens"

    def check(self) -> None:
        """A compiled network does not show its head."""
        super().check()
        if self.cfg.fuse_heads is True and self.cfg.compile:
            raise UserError("fuse_heads=true does not go with compile=true: leave one of them out")

    def read(self) -> str:
        """Texts."""
        self.data = build.token_data(self.cfg)
        return self.data.test_fingerprint()

    def measure(self, network: nn.Module, stage: str, role: str | None = None) -> Mapping[str, float]:
        """Cross-entropy a token, and in bits a byte."""
        found, _ = run_test(self.cfg, ClassifierModule, network, self.data, stage)
        nats = found[f"{stage}/loss"]
        return {
            "nats": nats,
            "bits": nats / math.log(2) / self.data.bytes_per_token("val" if stage == "val" else "test"),
        }

    def check_teacher(self, found: Mapping[str, float]) -> None:
        """Better than a uniform guess."""
        if not found["nats"] < (uniform := math.log(self.data.num_classes)):
            raise UserError(
                f"teacher {self.cfg.model.teacher.name} is no better than a uniform guess: {found['nats']:.2f} nats a "
                f"token on the validation texts, a guesser has {uniform:.2f}; is its tokeniser another, or train it "
                "longer (teacher.max_epochs)"
            )

    def check_cacheable(self, learning: Learning) -> None:
        """Logits alone."""
        module = learning.module
        if isinstance(module, DistillationModule) and (needs := module.distillation.teacher_needs):
            raise UserError(
                f"teacher_cache keeps a language model's logits, and a method reads its {', '.join(sorted(needs))}: "
                "take a method of logits, or leave teacher_cache out"
            )

    def cache_teacher(self, learning: Learning, folder: Path, precision: str) -> str:
        """By token of each text, right at every temperature."""
        module, data = learning.module, self.data
        assert isinstance(module, DistillationModule)
        texts = [(index, data.text("train", index)) for index in data.train_indices.tolist()]
        with Progress(disable=launched_rank() > 0) as bar:
            task = bar.add_task("teacher's outputs", total=len(texts) * data.length)
            store = store_texts(
                folder,
                f"{data.name}-{data.text_fingerprint()[:16]}",
                module.distillation.teacher.network,
                texts,
                batch_size=data.eval_batch_size,
                write=launched_rank() == 0,  # others start when it is there
                progress=lambda tokens: bar.advance(task, tokens),
            )
        module.cached_teacher = CachedTexts(store)
        found = store.manifest
        size = decimal(found.tokens * found.bytes_per_token)
        return f"{store.folder}, {size}, {found.bytes_per_token} bytes a token"
