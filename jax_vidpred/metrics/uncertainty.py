"""Does a model know what it does not know? Scores of several samples, and calibration.

A stochastic system draws K futures of each clip. The best of them says whether the
truth is among what it thinks possible, the mean what one draw is worth; both rise with
K or with sharpness alone, so CRPS and spread-skill judge the whole set of samples.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

NUM_BINS = 10


class SpreadSkill(NamedTuple):
    """Spread of the samples, and error of their mean, of each frame [b, t].

    Both are root mean squares over pixels, in units of the video. Over frames and clips
    it is their squares that are averaged: `ratio` does.
    """

    spread: Float[Array, "b t"]
    error: Float[Array, "b t"]

    @property
    def ratio(self) -> float:
        """Spread / error over all frames and clips: 1 is right, below 1 too sure.

        At least 0; NaN where spread and error are both 0, infinite where the error
        alone is.
        """
        spread, error = (
            np.mean(np.square(values, dtype=np.float64)) for values in self
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.sqrt(spread / error))


class Reliability(NamedTuple):
    """What is said and what happens, in bins of what is said.

    The reliability curve is `frequency` over `confidence`; the diagonal is right.

    Attributes:
      count: forecasts in each bin.
      confidence: mean of their probabilities; NaN in an empty bin.
      frequency: share of them that came true; NaN in an empty bin.
    """

    count: Int[np.ndarray, "n"]
    confidence: Float[np.ndarray, "n"]
    frequency: Float[np.ndarray, "n"]

    @property
    def ece(self) -> float:
        """Expected calibration error: sum of count |frequency - confidence| / total.

        In [0, 1], lower is better; NaN without a forecast. Always saying how often it
        happens at large scores 0, so it stands beside average precision. Source: Guo et
        al. 2017, eq. 3.
        """
        if not self.count.sum():
            return float("nan")
        gaps = np.nan_to_num(np.abs(self.frequency - self.confidence))
        return float((self.count * gaps).sum() / self.count.sum())


def best_of_samples(
    scores: Float[np.ndarray, "k b"], *, better: str
) -> Float[np.ndarray, "b"]:
    """The best score of each clip over its K samples, in units of the score.

    Choosing needs the truth, and more samples never make it worse: K belongs to the
    number (best of 100 is usual). Source: Denton & Fergus 2018.

    Args:
      scores: any score of each sample and clip; NaN (not defined) is left out.
      better: "higher" or "lower".

    Returns:
      NaN for a clip that has no score.

    Raises:
      ValueError: `better` is neither.
    """
    chosen = {"higher": np.fmax, "lower": np.fmin}.get(better)
    if chosen is None:
        raise ValueError(f"better={better!r}, wanted 'higher' or 'lower'")
    return chosen.reduce(np.asarray(scores), axis=0)


def mean_of_samples(scores: Float[np.ndarray, "k b"]) -> Float[np.ndarray, "b"]:
    """Mean score of each clip over its K samples: what one draw is worth.

    NaN (not defined) is left out; NaN for a clip that has no score.
    """
    scores = np.asarray(scores)
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(known, scores, 0).sum(0) / known.sum(0)


def crps(
    samples: Float[Array, "k b t h w c"], truth: Float[Array, "b t h w c"]
) -> Float[Array, "b t"]:
    """Continuous ranked probability score of each frame, mean over pixels and channels.

    mean_i |y_i - x| - sum_i<j |y_i - y_j| / (K (K - 1)), the "fair" estimator: its
    expectation does not depend on K. Lower is better; at most 1, and at least 0 but for
    the scatter of few samples. The absolute error is what it is for a point forecast.

    Args:
      samples: drawn independently; values are clamped to [0, 1].
      truth: values in [0, 1].

    Raises:
      ValueError: fewer than two samples.

    Source: Gneiting & Raftery 2007, eq. 21; Ferro 2014 for the fair estimator.
    """
    k = _count(samples)
    samples = jnp.clip(samples, 0.0, 1.0)
    error = jnp.abs(samples - truth[None]).mean((0, -3, -2, -1))
    # Of all pairs, i (k - i) lie on both sides of the gap above the i-th smallest. So
    # K log K replaces K^2, and no term is negative: equal samples give exactly 0.
    rank = np.arange(1, k)
    ordered = jnp.sort(samples, axis=0)
    gaps = (ordered[1:] - ordered[:-1]).mean((-3, -2, -1))
    pairs = jnp.asarray(rank * (k - rank) / (k * (k - 1)), gaps.dtype)
    return error - jnp.einsum("k,kbt->bt", pairs, gaps, precision="highest")


def spread_skill(
    samples: Float[Array, "k b t h w c"], truth: Float[Array, "b t h w c"]
) -> SpreadSkill:
    """Do the samples lie as far apart as their mean lies from the truth?

    spread^2 = (K + 1) / K mean s^2, with the variance s^2 of the samples (divided by
    K - 1); error^2 = mean (mean_i y_i - x)^2; means over pixels and channels. If the
    truth is a draw as the samples are, both are equal in expectation, for any K: the
    factor is the error of a mean of K.

    Args:
      samples: values are clamped to [0, 1].
      truth: values in [0, 1].

    Raises:
      ValueError: fewer than two samples.

    Source: Fortin et al. 2014.
    """
    k = _count(samples)
    samples = jnp.clip(samples, 0.0, 1.0)
    mean = samples.mean(0)
    variance = jnp.square(samples - mean[None]).sum(0) / (k - 1)
    spread = (k + 1) / k * variance.mean((-3, -2, -1))
    error = jnp.square(mean - truth).mean((-3, -2, -1))
    return SpreadSkill(jnp.sqrt(spread), jnp.sqrt(error))


def reliability(
    probability: Float[np.ndarray, "..."],
    outcome: Bool[np.ndarray, "..."],
    *,
    num_bins: int = NUM_BINS,
) -> Reliability:
    """Forecasts of an event (a collision in a step), sorted by their probability.

    Bins are equally wide, [0, 1/n), [1/n, 2/n), ..., the last with its upper end. All
    forecasts count alike, whatever clip and step they are from.

    Args:
      probability: in [0, 1].
      outcome: did it happen?

    Raises:
      ValueError: the shapes differ, or a probability is none.
    """
    probability = np.asarray(probability, np.float64)
    if probability.shape != np.shape(outcome):
        raise ValueError(
            f"probabilities {probability.shape} and outcomes {np.shape(outcome)};"
            " wanted the same shape"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a probability is NaN or not in [0, 1]; are these logits?")
    probability, outcome = probability.ravel(), np.asarray(outcome, bool).ravel()
    place = np.minimum((probability * num_bins).astype(int), num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence, frequency = (
            np.bincount(place, values, minlength=num_bins) / count
            for values in (probability, outcome)
        )
    return Reliability(count, confidence, frequency)


def _count(samples):
    k = samples.shape[0]
    if k < 2:
        raise ValueError(
            f"{k} sample of each clip; uncertainty wants at least 2. Score a"
            " deterministic system by its absolute error, metrics.frame.mae"
        )
    return k
