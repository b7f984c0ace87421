"""Train on several devices and machines through plain `model.fit`: what `tf.distribute` needs for that in Keras."""

from kregkit.distribution.batch_normalization import synchronize_batch_normalization
from kregkit.distribution.chief import is_chief
from kregkit.distribution.loss_scaling import enable_loss_scaling
from kregkit.distribution.multi_worker import enable_multi_worker

__all__ = ["enable_loss_scaling", "enable_multi_worker", "is_chief", "synchronize_batch_normalization"]
