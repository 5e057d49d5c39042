"""A Trainer for tests."""

from lightning.pytorch import Trainer


def quiet_trainer(folder, **settings):
    """One CPU process that prints nothing and writes nothing, unless ``settings`` say so."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**(defaults | settings))
