"""Starting from another `W`: heads, freezing, fine-tuning."""

from kregkit.transfer.freeze import freeze, unfreeze
from kregkit.transfer.gradual_unfreeze import GradualUnfreeze
from kregkit.transfer.head import features, insert, reinitialize, replace_head, strip

__all__ = ["GradualUnfreeze", "features", "freeze", "insert", "reinitialize", "replace_head", "strip", "unfreeze"]
