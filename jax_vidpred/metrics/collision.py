"""Collisions as events: peaks of a probability, matched one to one with the truth.

A peak is the highest probability within +-`radius` of itself. Each true event may
answer for one peak and each peak for one event, if they lie within a tolerance in time.
Several events at one moment are several: a peak can only find one of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_MAX_THRESHOLDS = 500  # that a sweep tries
Times = Float[np.ndarray, "_"] | Int[np.ndarray, "_"]


class Clip(NamedTuple):
    """One clip: when it collides, and when how surely it is said to.

    Attributes:
      peaks: times of the peaks, any unit.
      scores: their probabilities.
      truth: times of the true collisions, in the same unit.
    """

    peaks: Times
    scores: Float[np.ndarray, "_"]
    truth: Times


class Counts(NamedTuple):
    """Events over any number of clips; a ratio of nothing to nothing is NaN."""

    matched: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        return self.matched / self.predicted if self.predicted else float("nan")

    @property
    def recall(self) -> float:
        return self.matched / self.true if self.true else float("nan")

    @property
    def f1(self) -> float:
        """2 matched / (predicted + true): 0 where all is missed, or nothing there."""
        total = self.predicted + self.true
        return 2 * self.matched / total if total else float("nan")


def find_peaks(
    probability: Float[np.ndarray, "k"], radius: int | float
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Peaks, the highest first suppressing all others within `radius` (NMS).

    A threshold may be applied afterwards: it removes the peaks below it and no others.

    Args:
      probability: of each time step.
      radius: in steps; two peaks are further apart than this.

    Returns:
      steps in order of time, and the probability at each.
    """
    probability = np.asarray(probability, np.float64)
    free = np.isfinite(probability)
    steps = np.arange(len(probability))
    # Where a sigmoid saturates, the middle of the plateau is the peak.
    near = np.maximum(1 - np.abs(steps[:, None] - steps) / (radius + 1), 0)
    surroundings = near @ np.where(free, probability, 0)
    peaks = []
    for step in np.lexsort((-surroundings, -probability)):
        if free[step]:
            peaks.append(step)
            free[np.abs(steps - step) <= radius] = False
    chosen = np.sort(np.array(peaks, np.int64))
    # The shoulder of a taller peak, just out of its reach, is no peak of its own.
    padded = np.pad(probability, 1, constant_values=-np.inf)
    highest = np.maximum(padded[chosen], padded[chosen + 2])
    chosen = chosen[probability[chosen] >= highest]
    return chosen, probability[chosen]


def clip_events(
    probability: Float[np.ndarray, "k"],
    counts: Float[np.ndarray, "k"],
    stride: int,
    radius: int | float,
) -> Clip:
    """A clip as events; times in raw frames from its first frame.

    Truth and prediction are known to a step of `stride` frames, so both are put in the
    middle of those.

    Args:
      probability: of a collision in each step.
      counts: true collisions in each step.
      stride: raw frames of a step.
      radius: of a peak, raw frames.
    """
    steps, scores = find_peaks(probability, radius / stride)
    truth = np.repeat(np.arange(len(counts)), np.rint(counts).astype(int))
    middle = (stride - 1) / 2
    return Clip(steps * stride + middle, scores, truth * stride + middle)


def count_matches(predicted: Times, truth: Times, tolerance: int | float) -> int:
    """Size of the largest one-to-one matching with |difference| <= tolerance.

    With one tolerance for all, matching in order of time is the largest there is.
    """
    predicted, truth = sorted(predicted), sorted(truth)
    matched = i = j = 0
    while i < len(predicted) and j < len(truth):
        if abs(predicted[i] - truth[j]) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif predicted[i] < truth[j]:
            i += 1
        else:
            j += 1
    return matched


def count_events(
    clips: Sequence[Clip], *, threshold: float, tolerance: int | float
) -> Counts:
    """Counts of all clips together; peaks from `threshold` on are predictions."""
    matched = predicted = true = 0
    for clip in clips:
        said = np.asarray(clip.peaks)[np.asarray(clip.scores) >= threshold]
        matched += count_matches(said, clip.truth, tolerance)
        predicted += len(said)
        true += len(clip.truth)
    return Counts(matched, predicted, true)


def best_threshold(clips: Sequence[Clip], *, tolerance: int | float) -> float:
    """The threshold with the highest F1, NaN where there is no peak or no event.

    Choose it on other clips than those that are scored with it.
    """
    thresholds = _thresholds(clips)
    if not len(thresholds) or not any(len(clip.truth) for clip in clips):
        return float("nan")
    scores = [
        count_events(clips, threshold=t, tolerance=tolerance).f1 for t in thresholds
    ]
    return float(thresholds[int(np.argmax(scores))])


def average_precision(clips: Sequence[Clip], *, tolerance: int | float) -> float:
    """Mean precision over recall, sum of (R_n - R_n-1) P_n as the threshold falls.

    Needs no threshold. NaN where there is no event.
    """
    if not any(len(clip.truth) for clip in clips):
        return float("nan")
    total = recall = 0.0
    for threshold in _thresholds(clips):
        counts = count_events(clips, threshold=threshold, tolerance=tolerance)
        total += (counts.recall - recall) * counts.precision
        recall = counts.recall
    return total


def part_scores(
    clips: Sequence[Clip],
    chosen_on: Sequence[Clip],
    *,
    begins: Mapping[str, int | float],
    tolerance: int | float,
) -> dict[str, dict[str, float]]:
    """F1, precision, recall and average precision of parts of clips.

    Args:
      clips: that are scored.
      chosen_on: others, on which each part's threshold is chosen.
      begins: name of a part -> time from which on events count.
      tolerance: as in `count_matches`.

    Returns:
      name of a part -> scores; NaN where no threshold could be chosen.
    """
    result = {}
    for part, begin in begins.items():
        here, others = ([_after(c, begin) for c in some] for some in (clips, chosen_on))
        threshold = best_threshold(others, tolerance=tolerance)
        counts = count_events(here, threshold=threshold, tolerance=tolerance)
        is_known = np.isfinite(threshold)
        result[part] = {
            "f1": counts.f1 if is_known else float("nan"),
            "precision": counts.precision if is_known else float("nan"),
            "recall": counts.recall if is_known else float("nan"),
            **counts._asdict(),
            "threshold": threshold,
            "average_precision": average_precision(here, tolerance=tolerance),
        }
    return result


def _after(clip: Clip, begin: int | float) -> Clip:
    peaks, scores, truth = (np.asarray(values) for values in clip)
    return Clip(peaks[peaks >= begin], scores[peaks >= begin], truth[truth >= begin])


def _thresholds(clips: Sequence[Clip]) -> Float[np.ndarray, "m"]:
    """Every score that occurs, falling; where they are many, 500 spread over them."""
    scores = [np.asarray(clip.scores, np.float64) for clip in clips]
    found = np.unique(np.concatenate([*scores, []]))[::-1]
    if len(found) > _MAX_THRESHOLDS:
        chosen = np.linspace(0, len(found) - 1, _MAX_THRESHOLDS).astype(int)
        found = found[chosen]
    return found
