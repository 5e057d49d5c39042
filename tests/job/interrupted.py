"""A run that Ctrl-C stops."""

from __future__ import annotations

import pytest
from lightning.pytorch import Callback


class Stop(Callback):
    """Ctrl-C in the student's second epoch."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and trainer.callback_metrics.get("train/kd") is not None:
            raise KeyboardInterrupt


def stopped_run(command, *settings):
    """Run the command until its student's second epoch; what it may load is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctkd_lightning.job.configuration.check_content", lambda *_, **__: None)
        with pytest.raises(SystemExit) as stopped:
            command(*settings, f"+callbacks.stop={{_target_: {Stop.__module__}.Stop}}", small=False)
    assert stopped.value.code == 130
