"""Scenes of scikit-learn's handwritten digits, each pixel with its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._maps import SegmentationDataModule
from ctkd_lightning.data.digit_scenes import DigitScenes


class DigitMasks(SegmentationDataModule):
    """The scenes of :class:`DigitScenes`, 128 × 128 pixels, to be segmented: background, or one of ten digits.

    Args:
        train_size: how many training scenes.
        val_size: how many validation scenes, made of other digits.
        test_size: how many test scenes, likewise.
        scene_seed: of the scenes; ``seed`` is that of their order alone.
        **common: the arguments of :class:`SegmentationDataModule`.

    Raises:
        UserError: a setting that cannot be.

    Example:
        >>> data = DigitMasks(train_size=4, val_size=2, test_size=2, batch_size=2)
        >>> image, target, index = next(iter(data.train_dataloader()))
        >>> image.shape, target.shape
        (torch.Size([2, 3, 128, 128]), torch.Size([2, 128, 128]))
    """

    name = "digit_masks"

    def __init__(
        self,
        *,
        train_size: int = 300,
        val_size: int = 100,
        test_size: int = 200,
        scene_seed: int = 0,
        eval_batch_size: int = 20,
        **common: Any,
    ) -> None:
        self.scenes = DigitScenes(train_size=train_size, val_size=val_size, test_size=test_size, scene_seed=scene_seed)
        super().__init__(val_size=val_size, eval_batch_size=eval_batch_size, **common)
        self._maps: dict[Split, tuple[Tensor, Tensor]] = {}

    @property
    def has_validation(self) -> bool:
        """The scenes of digits that are in no training scene."""
        return True

    @property
    def class_names(self) -> list[str]:
        """The background, and ``"0"`` to ``"9"``."""
        return ["background", *self.scenes.class_names]

    @property
    def content(self) -> str:
        """That of the scenes."""
        return self.scenes.content

    @property
    def test_content(self) -> str:
        """Likewise."""
        return self.scenes.test_content

    def maps(self, split: Split) -> tuple[Tensor, Tensor]:
        """Drawn when first asked for."""
        if split not in self._maps:
            scenes = self.scenes.load(split).scenes
            pixels, masks = (torch.stack([getattr(scene, name) for scene in scenes]) for name in ("pixels", "mask"))
            self._maps[split] = pixels.unsqueeze(1), masks
        return self._maps[split]
