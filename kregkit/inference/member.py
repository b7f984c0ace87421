"""One of the models that an ensemble averages."""

from kregkit.inference._predicting import Predicting
from kregkit.inference._predictor import Predictor


class Member(Predicting):
    """One member of an ensemble: `predict`, `evaluate` and `to_model`, as its own model has them.

    Args:
        state: The member's architecture and arrays.
        name: String.
        information: Dictionary of what is known of its training, such as a snapshot's `cycle`, `epoch` and `logs`.
    """

    def __init__(self, state, name, information=None):
        super().__init__([state.forward.model])
        self.state = state
        self.name = name
        self.information = dict(information or {})

    def __repr__(self):
        return f"<Member {self.name!r} of {self.state.forward.model.name!r}>"

    def _make_predictor(self):
        return Predictor([self.state.forward.model], self.state)

    def to_model(self):
        """Returns a new Keras model, uncompiled, with this member's weights."""
        return self.state.rebuild(self.state.forward.model.name)
