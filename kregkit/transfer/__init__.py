"""Starting from another `W`: heads, freezing, fine-tuning."""

from kregkit.transfer.backbone import backbone, digits_backbone
from kregkit.transfer.fine_tuning import FineTuned, Plan, Similarity, fine_tune, measure_similarity, recommend
from kregkit.transfer.freeze import freeze, unfreeze
from kregkit.transfer.gradual_unfreeze import GradualUnfreeze
from kregkit.transfer.head import features, insert, reinitialize, replace_head, strip
from kregkit.transfer.linear_probe import LinearProbe, linear_probe
from kregkit.transfer.vectors import embedding_from_vectors

__all__ = [
    "FineTuned",
    "GradualUnfreeze",
    "LinearProbe",
    "Plan",
    "Similarity",
    "backbone",
    "digits_backbone",
    "embedding_from_vectors",
    "features",
    "fine_tune",
    "freeze",
    "insert",
    "linear_probe",
    "measure_similarity",
    "recommend",
    "reinitialize",
    "replace_head",
    "strip",
    "unfreeze",
]
