"""Drawings of an evaluation: clip by clip, what each part loses, what a step gains.

They look like those of `report.plots` and are made of the same pieces.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from jax_vidpred.report.plots import (
    CYCLE,
    FONT_SIZE,
    INK,
    WIDE,
    new_axes,
    plain,
    render,
    styles,
)

_MAX_DOTS = 200  # of a system; more clips are shown by as many spread over their ranks


def _rows(names, xlabel, height):
    """Axes with a named row for each of `names`, the first on top."""
    figure, axes = new_axes((WIDE[0], 0.7 + height * max(len(names), 2)), xlabel, "")
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def clip_dots(
    values: Mapping[str, Sequence[float]], *, xlabel: str, image_format: str = "svg"
) -> bytes:
    """A row of dots for each system, one for each clip, with a line at the median.

    Args:
      values: system -> [n]; what is not finite is left out.
      xlabel: what is measured, with its unit.
      image_format: "svg" or "png".
    """
    figure, axes = _rows(list(values), xlabel, 0.34)
    style = styles(values)
    for row, (name, numbers) in enumerate(values.items()):
        numbers = np.asarray(numbers, np.float64)
        numbers = np.sort(numbers[np.isfinite(numbers)])
        if not len(numbers):
            continue
        ranks = np.linspace(0, len(numbers) - 1, min(len(numbers), _MAX_DOTS))
        # Spread up and down in a fixed order, so that equal clips do not hide.
        places = row + 0.2 * np.sin(2.4 * np.arange(len(ranks)))
        shown = numbers[ranks.astype(int)]
        color = style[name][0]
        axes.plot(shown, places, ".", color=color, alpha=0.6, markersize=4)
        axes.plot([np.median(numbers)] * 2, [row - 0.36, row + 0.36], color=color, lw=2)
    return render(figure, image_format)


def bars(
    values: Mapping[str, float], *, xlabel: str, image_format: str = "svg"
) -> bytes:
    """A named bar for each value, with its number; losses in another colour.

    Args:
      values: name -> finite number, from top to bottom.
      xlabel: what is measured, with its unit.
      image_format: "svg" or "png".
    """
    figure, axes = _rows(list(values), xlabel, 0.28)
    numbers = list(values.values())
    colors = [CYCLE[0] if number >= 0 else CYCLE[1] for number in numbers]
    axes.barh(range(len(numbers)), numbers, 0.62, color=colors)
    for row, number in enumerate(numbers):
        axes.annotate(
            f"{number:+.2f}",
            (max(number, 0), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
        )
    axes.axvline(0, color=INK, linewidth=1)
    axes.margins(x=0.16)
    return render(figure, image_format)


def points(
    x: Sequence[float],
    y: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    image_format: str = "svg",
) -> bytes:
    """Measured points in order of x, joined by lines.

    Args:
      x, y: [n]; a NaN in y leaves a gap.
      xlabel, ylabel: what is measured, with its unit.
      image_format: "svg" or "png".
    """
    figure, axes = new_axes(WIDE, xlabel, ylabel)
    order = np.argsort(x)
    x, y = (np.asarray(values, np.float64)[order] for values in (x, y))
    axes.plot(x, y, color=CYCLE[0], linewidth=2, marker="o", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.axhline(0, color=INK, alpha=0.5, linewidth=1)
    return render(figure, image_format)
