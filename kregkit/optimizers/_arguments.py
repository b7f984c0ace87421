"""The arguments that all optimizers take and hand on to Keras, which checks few of them."""

from kregkit._core import rules

_RULES = {
    "learning_rate": rules.learning_rate,
    "beta_1": rules.number(0, 1, high_open=True),
    "beta_2": rules.number(0, 1, high_open=True),
    "epsilon": rules.number(0),
    "amsgrad": rules.boolean,
    "weight_decay": rules.number(0, none=True),
    "clipnorm": rules.number(0, none=True),
    "clipvalue": rules.number(0, none=True),
    "global_clipnorm": rules.number(0, none=True),
    "use_ema": rules.boolean,
    "ema_momentum": rules.number(0, 1),
    "ema_overwrite_frequency": rules.whole(1, none=True),
    "loss_scale_factor": rules.number(0, low_open=True, none=True),
    "gradient_accumulation_steps": rules.whole(2, none=True),
}


def keras_arguments(**arguments):
    """Returns the arguments as they are, or raises `ValueError` for one that no optimizer can use."""
    return rules.check(_RULES, **arguments)
