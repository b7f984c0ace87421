"""What every picture starts from."""

from kregkit._core.optional import import_optional


def new_axes(axes=None, size=(6.4, 4.2)):
    """Returns `axes`, or new ones on a figure of `size` inches that lays itself out."""
    if axes is not None:
        return axes
    pyplot = import_optional("matplotlib.pyplot", "kregkit.plots")
    return pyplot.figure(figsize=size, layout="constrained").add_subplot()


def whole_numbers(axis):
    """Puts the ticks of an axis at integers, one, two or five of a power of ten apart."""
    ticker = import_optional("matplotlib.ticker", "kregkit.plots")
    axis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def plain_numbers(axis):
    """Writes a logarithmic axis's ticks as plain numbers: over a few powers of ten 1, 2, 3 and 5 of each, else 1."""
    ticker = import_optional("matplotlib.ticker", "kregkit.plots")

    class Locator(ticker.LogLocator):
        # With several ticks a power and many powers, Matplotlib's own gives none.
        def tick_values(self, vmin, vmax):
            self.set_params(subs=(1.0, 2.0, 3.0, 5.0) if 0 < vmax < 3e3 * vmin else (1.0,), numticks=8)
            return super().tick_values(vmin, vmax)

    axis.set_major_locator(Locator())
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())


def finish(axes, legend=True):
    """Gives axes the look that all of kregkit's share: a faint grid behind the data, no frame above and right."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    labels = axes.get_legend_handles_labels()[1]
    if legend and labels:
        # Above the data, where it hides nothing; in as many columns as are as wide as the axes and their margins.
        inches = axes.get_position().width * axes.figure.bbox.width / axes.figure.dpi / 0.775
        columns = int(inches / (0.6 + 0.085 * max(map(len, labels))))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=max(1, columns))
    return axes
