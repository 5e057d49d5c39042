"""What is asked of networks and what they give: scores, features, and which layers have them."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.features._asking import StudentCall
    from ctkd_lightning.features.frozen import FrozenNetwork
    from ctkd_lightning.features.layers import default_layers
    from ctkd_lightning.features.outputs import NetworkOutput, Step
    from ctkd_lightning.features.tap import FeatureTap

__all__ = ["FeatureTap", "FrozenNetwork", "NetworkOutput", "Step", "StudentCall", "default_layers"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FeatureTap": "ctkd_lightning.features.tap",
        "FrozenNetwork": "ctkd_lightning.features.frozen",
        "NetworkOutput": "ctkd_lightning.features.outputs",
        "Step": "ctkd_lightning.features.outputs",
        "StudentCall": "ctkd_lightning.features._asking",
        "default_layers": "ctkd_lightning.features.layers",
    },
)
