"""How sure a number is: bootstrap intervals over clips.

Clips are drawn with replacement, as many as there are, and the number is computed anew
from each draw; the interval holds the middle share of the results (percentile
bootstrap, Efron & Tibshirani 1993, chapter 13). Two systems on the same clips are
compared by drawing the same clips for both: what makes a clip hard then cancels.

Clips of one video are alike, so where a video gives several of them videos are drawn,
each with all its clips: drawn one by one, clips would seem to be more than they are.

A statistic is a function of the mean over the clips. With one value for each clip it is
that mean. A ratio of sums over clips is a ratio of means: `f1` turns mean counts into
the F1 of all clips together. A statistic is given many draws at a time, [..., m].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

NUM_SAMPLES = 2000
_BLOCK = 2**22  # draws times clips at a time: 32 MB

Values = Float[np.ndarray, "n *m"] | Int[np.ndarray, "n *m"]
Statistic = Callable[[Float[np.ndarray, "*s m"]], Float[np.ndarray, "*s"]]


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    difference: float
    low: float
    high: float


def f1(means: Float[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s"]:
    """Statistic for counts (matched, predicted, true): 2 matched / (predicted + true).

    NaN where nothing is predicted and nothing true.
    """
    total = means[..., 1] + means[..., 2]
    with np.errstate(invalid="ignore"):
        return 2 * means[..., 0] / total


def interval(
    values: Values,
    *,
    statistic: Statistic | None = None,
    num_samples: int = NUM_SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over clips, or of a statistic of it.

    Args:
      values: one number, or with a statistic a row of numbers, for each clip. A clip
        with a NaN (not defined there) is left out.
      statistic: function of the mean, see above; None = the mean itself.
      num_samples: draws.
      level: share of them that the interval holds.
      seed: the same seed and number of clips draw the same clips.

    Returns:
      (low, high), in units of the statistic; NaN for fewer than two clips.

    Raises:
      ValueError: `level` not between 0 and 1.
    """
    kept = _rows(values)[_defined(values)]
    draws = _draw_means([kept], num_samples, seed)
    return _middle(_apply(statistic, draws[0]), level)


def paired_difference(
    first: Values,
    second: Values,
    *,
    groups: Sequence[int] | None = None,
    statistic: Statistic | None = None,
    num_samples: int = NUM_SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """first - second on the same clips, with the interval of that difference.

    An interval without 0 says that the systems differ by more than the choice of clips
    explains.

    Args:
      first, second: as `values` of `interval`, clip by clip. A clip that has a NaN in
        either is left out of both.
      groups: number of each clip's video; None = every clip for itself.
      statistic, num_samples, level, seed: as in `interval`.

    Returns:
      (difference, low, high); the difference is NaN without a clip, the interval with
      fewer than two groups.

    Raises:
      ValueError: the shapes differ, or `level` is not between 0 and 1.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"values of shapes {np.shape(first)} and {np.shape(second)}; wanted those"
            " of the same clips, in the same order"
        )
    both = _defined(first) & _defined(second)
    pair = [_rows(values)[both] for values in (first, second)]
    here = [_apply(statistic, _mean(kept)) for kept in pair]
    if groups is None:
        groups = np.arange(len(both))
    drawn = _draw_means(pair, num_samples, seed, np.asarray(groups)[both])
    draws = [_apply(statistic, means) for means in drawn]
    low, high = _middle(draws[0] - draws[1], level)
    return Difference(float(here[0] - here[1]), low, high)


def _rows(values):
    values = np.asarray(values, np.float64)
    return values[:, None] if values.ndim == 1 else values


def _defined(values):
    return ~np.isnan(_rows(values)).any(1)


def _mean(rows):
    return rows.mean(0) if len(rows) else np.full(rows.shape[1:], np.nan)


def _apply(statistic, means):
    return means[..., 0] if statistic is None else statistic(means)


def _draw_means(sets, num_samples, seed, groups=None):
    """Mean of each draw, [num_samples, m], of sets [n, m] that share their clips."""
    if groups is None:
        groups = np.arange(len(sets[0]))
    names, of_row = np.unique(groups, return_inverse=True)
    n = len(names)  # groups, which are drawn
    counts = np.bincount(of_row, minlength=n)
    if n < 2:
        return [np.full((num_samples, rows.shape[1]), np.nan) for rows in sets]
    sums = [np.zeros((n, rows.shape[1])) for rows in sets]
    for total, rows in zip(sums, sets, strict=True):
        np.add.at(total, of_row, rows)
    rng = np.random.default_rng(seed)
    results = [[] for _ in sets]
    block = max(_BLOCK // n, 1)
    for start in range(0, num_samples, block):
        size = min(block, num_samples - start)
        chosen = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        # How often each clip is drawn: then the means are one matrix product.
        times = np.bincount(chosen.ravel(), minlength=size * n).reshape(size, n)
        for rows, means in zip(sums, results, strict=True):
            means.append(times @ rows / (times @ counts)[:, None])
    return [np.concatenate(means) for means in results]


def _middle(results, level):
    if not 0 < level < 1:
        raise ValueError(f"level={level}, wanted a share between 0 and 1, such as 0.95")
    # A draw for which the statistic is not defined (no event in it) says nothing.
    results = results[~np.isnan(results)]
    if not len(results):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
