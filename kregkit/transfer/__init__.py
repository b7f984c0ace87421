"""Starting from another `W`: heads, freezing, fine-tuning."""

from kregkit._core.words import missing_names
from kregkit.transfer.backbones import backbone, digits_backbone
from kregkit.transfer.feature_extraction import features
from kregkit.transfer.fine_tuning import FineTuned, fine_tune
from kregkit.transfer.freezing import freeze, unfreeze
from kregkit.transfer.gradual_unfreeze import GradualUnfreeze
from kregkit.transfer.head import replace_head
from kregkit.transfer.plan import Plan, recommend
from kregkit.transfer.probing import LinearProbe, linear_probe
from kregkit.transfer.similarity import Similarity, measure_similarity
from kregkit.transfer.surgery import insert, reinitialize, strip
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

__getattr__ = missing_names(__name__)
