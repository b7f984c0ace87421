"""What ranges and choices have in common."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A hyperparameter, which may be drawn only under a condition on others."""

    condition: tuple = dataclasses.field(default=(), kw_only=True)

    def when(self, **options):
        """Returns this parameter, to be drawn only where each named choice or integer has one of the values given.

        >>> from kregkit.search import uniform
        >>> uniform(0.8, 0.99, limits=(0, 0.999)).when(optimizer="sgd").condition
        (('optimizer', ('sgd',)),)
        """
        if not options:
            raise ValueError(
                f"`when` needs the name of a choice or an integer, and its values. Received: options={options}"
            )
        condition = tuple(
            (name, tuple(values) if isinstance(values, (list, tuple, range)) else (values,))
            for name, values in options.items()
        )
        return dataclasses.replace(self, condition=(*self.condition, *condition))

    def condition_to_json(self):
        return {"when": [[name, list(options)] for name, options in self.condition]} if self.condition else {}
