"""Collisions as events: peaks of a probability, matched one to one with the truth.

A peak is the highest probability within +-`radius` of itself. Each true event may
answer for one peak and each peak for one event, if they lie within a tolerance in time.
Several events at one moment are several: a peak can only find one of them.

Where a detector also says who collides, events may be asked to be of the same pair of
objects ("typed"). Clips are pooled: events of all of them together make one ratio.

Source of the protocol: no score of collisions in predicted CLEVRER video was found in
print; CLEVRER's baseline (NS-DR, 2020) counts a pair as right within a bin of 5 frames,
which is why TOLERANCE is 5.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

TOLERANCE = 5  # raw frames, of the headline
TOLERANCES = (0, 2, 5, 10)
Times = Float[np.ndarray, "_"] | Int[np.ndarray, "_"]
Pairs = Int[np.ndarray, "_ 2"]


class Clip(NamedTuple):
    """One clip: when it collides, and when how surely it is said to.

    Attributes:
      peaks: times of the peaks, any unit.
      scores: their probabilities.
      truth: times of the true collisions, in the same unit.
      pairs: the two objects of each peak, in any order; empty where nobody says.
      true_pairs: those of the true collisions; empty where not known.
    """

    peaks: Times
    scores: Float[np.ndarray, "_"]
    truth: Times
    pairs: Pairs | tuple[()] = ()
    true_pairs: Pairs | tuple[()] = ()


class Counts(NamedTuple):
    """Events over any number of clips, and their ratios in [0, 1].

    A ratio of nothing to nothing is NaN.
    """

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
    # Only what no neighbour exceeds is a peak. A shoulder of another is none, and must
    # not suppress one either.
    padded = np.pad(np.where(free, probability, -np.inf), 1, constant_values=-np.inf)
    free &= (probability >= padded[:-2]) & (probability >= padded[2:])
    steps = np.arange(len(probability))
    # Where a sigmoid saturates, the middle of the plateau is the peak.
    near = np.maximum(1 - np.abs(steps[:, None] - steps) / (radius + 1), 0)
    surroundings = near @ np.where(np.isfinite(probability), probability, 0)
    peaks = []
    for step in np.lexsort((-surroundings, -probability)):
        if free[step]:
            peaks.append(step)
            free[np.abs(steps - step) <= radius] = False
    chosen = np.sort(np.array(peaks, np.int64))
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


def pair_events(
    steps: Int[np.ndarray, "m"],
    pairs: Int[np.ndarray, "m 2"],
    scores: Float[np.ndarray, "m"],
    true_pairs: Bool[np.ndarray, "k n n"],
    stride: int,
) -> Clip:
    """A clip as events that say who collides; times as in `clip_events`.

    Args:
      steps, pairs, scores: what a detector found; step k leads to frame k + 1.
      true_pairs: which objects touch for the first time in each step, symmetric.
      stride: raw frames of a step.
    """
    true = np.argwhere(np.triu(true_pairs, 1))
    middle = (stride - 1) / 2
    return Clip(
        peaks=np.asarray(steps) * stride + middle,
        scores=scores,
        truth=true[:, 0] * stride + middle,
        pairs=np.reshape(pairs, (-1, 2)),
        true_pairs=true[:, 1:],
    )


def after(clip: Clip, begin: int | float) -> Clip:
    """The events of a clip from a time on, as those after the last context frame."""
    said, true = (np.asarray(times) >= begin for times in (clip.peaks, clip.truth))
    peaks, scores, truth = (np.asarray(values) for values in clip[:3])
    # Who collides is left out where it is not known.
    pairs, true_pairs = (
        np.asarray(values)[kept] if len(values) else values
        for values, kept in ((clip.pairs, said), (clip.true_pairs, true))
    )
    return Clip(peaks[said], scores[said], truth[true], pairs, true_pairs)


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


def matched_differences(
    predicted: Times, truth: Times, tolerance: int | float
) -> Float[np.ndarray, "m"]:
    """predicted - true of the largest matching, of several the closest.

    Hungarian matching, with the least sum of |difference|; as many pairs as
    `count_matches` counts.
    """
    difference = np.subtract.outer(
        np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    )
    distance = np.abs(difference)
    allowed = distance <= tolerance
    # One match more is worth any sum of distances.
    bonus = (tolerance + 1) * (min(difference.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(allowed, distance - bonus, 0.0))
    return difference[rows, columns][allowed[rows, columns]]


def clip_counts(
    clips: Sequence[Clip],
    *,
    threshold: float,
    tolerance: int | float = TOLERANCE,
    typed: bool = False,
) -> Int[np.ndarray, "n 3"]:
    """(matched, predicted, true) of every clip, for intervals by resampling clips.

    F1 of any choice of clips is 2 matched / (predicted + true) of their sums.

    Args:
      threshold: peaks from it on are predictions.
      tolerance: in the unit of the clips' times.
      typed: whether only events of the same pair may match.

    Raises:
      ValueError: typed, but a clip does not say who collides.
    """
    rows = [_counts(clip, threshold, tolerance, typed) for clip in clips]
    return np.array(rows, np.int64).reshape(-1, 3)


def count_events(
    clips: Sequence[Clip],
    *,
    threshold: float,
    tolerance: int | float = TOLERANCE,
    typed: bool = False,
) -> Counts:
    """Counts of all clips together; arguments and errors are those of `clip_counts`."""
    counts = clip_counts(clips, threshold=threshold, tolerance=tolerance, typed=typed)
    return Counts(*counts.sum(0).tolist())


def timing_error(
    clips: Sequence[Clip],
    *,
    threshold: float,
    tolerance: int | float = TOLERANCE,
    typed: bool = False,
) -> float:
    """Mean |predicted - true| over all matched events, in the unit of the times.

    In 0 .. tolerance; the matching is that of `matched_differences`. NaN without a
    match. Only of events that are matched: read it beside the recall. Times known to a
    step of `stride` raw frames differ by whole strides.
    """
    differences = [
        matched_differences(said, truth, tolerance)
        for clip in clips
        for said, truth in _groups(clip, threshold, typed)
    ]
    found = np.abs(np.concatenate([*differences, []]))
    return float(found.mean()) if len(found) else float("nan")


def best_threshold(
    clips: Sequence[Clip], *, tolerance: int | float = TOLERANCE, typed: bool = False
) -> float:
    """The threshold with the highest F1; infinite where there is no peak.

    NaN where there is no event: then nothing can be chosen.

    Choose it on other clips than those that are scored with it.
    """
    thresholds, counts = _sweep(clips, tolerance, typed)
    if not any(len(clip.truth) for clip in clips):
        return float("nan")
    if not len(thresholds):
        return float("inf")
    return float(thresholds[int(np.argmax([c.f1 for c in counts]))])


def average_precision(
    clips: Sequence[Clip], *, tolerance: int | float = TOLERANCE, typed: bool = False
) -> float:
    """Mean precision over recall, sum of (R_n - R_n-1) P_n as the threshold falls.

    In [0, 1], needs no threshold. NaN where there is no event.
    """
    if not any(len(clip.truth) for clip in clips):
        return float("nan")
    total = recall = 0.0
    for counts in _sweep(clips, tolerance, typed)[1]:
        total += (counts.recall - recall) * counts.precision
        recall = counts.recall
    return total


def part_scores(
    clips: Sequence[Clip],
    chosen_on: Sequence[Clip],
    *,
    begins: Mapping[str, int | float],
    tolerance: int | float = TOLERANCE,
    typed: bool = False,
) -> dict[str, dict]:
    """F1, precision, recall, average precision and timing of parts of clips.

    Args:
      clips: that are scored.
      chosen_on: others, on which each part's threshold is chosen.
      begins: name of a part -> time from which on events count.
      tolerance: of the headline, for which the threshold is chosen.
      typed: whether only events of the same pair may match.

    Returns:
      name of a part -> scores; NaN where no threshold could be chosen.
      "by_tolerance" has F1, precision and recall of the same predictions for each of
      TOLERANCES.
    """
    result = {}
    for part, begin in begins.items():
        here, others = ([after(c, begin) for c in some] for some in (clips, chosen_on))
        threshold = best_threshold(others, tolerance=tolerance, typed=typed)
        options = {"threshold": threshold, "typed": typed}
        counts = count_events(here, tolerance=tolerance, **options)
        by_tolerance = {
            str(t): _ratios(count_events(here, tolerance=t, **options), threshold)
            for t in TOLERANCES
        }
        result[part] = {
            **_ratios(counts, threshold),
            **counts._asdict(),
            "threshold": threshold,
            "average_precision": average_precision(
                here, tolerance=tolerance, typed=typed
            ),
            "timing_error": timing_error(here, tolerance=tolerance, **options),
            "by_tolerance": by_tolerance,
        }
    return result


def _ratios(counts: Counts, threshold: float) -> dict[str, float]:
    ratios = {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    return ratios if not np.isnan(threshold) else dict.fromkeys(ratios, float("nan"))


def _counts(
    clip: Clip, threshold: float, tolerance: int | float, typed: bool
) -> tuple[int, int, int]:
    """Matched, predicted and true events of one clip."""
    matched = predicted = true = 0
    for said, truth in _groups(clip, threshold, typed):
        matched += count_matches(said, truth, tolerance)
        predicted += len(said)
        true += len(truth)
    return matched, predicted, true


def _groups(
    clip: Clip, threshold: float, typed: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted and true times that may be matched with each other.

    Typed, those of one pair: no match crosses pairs, so the largest matching of all is
    that of every pair.
    """
    is_said = np.asarray(clip.scores) >= threshold
    said, truth = np.asarray(clip.peaks)[is_said], np.asarray(clip.truth)
    if not typed:
        yield said, truth
        return
    for times, pairs, what in (
        (clip.peaks, clip.pairs, "pairs"),
        (clip.truth, clip.true_pairs, "true_pairs"),
    ):
        if len(times) != len(pairs):
            raise ValueError(
                f"{len(times)} events have {len(pairs)} {what}; typed scores want one"
                " for each: use typed=False for a detector that does not name them"
            )
    pairs = np.sort(np.reshape(clip.pairs, (-1, 2)), axis=1)[is_said]
    true_pairs = np.sort(np.reshape(clip.true_pairs, (-1, 2)), axis=1)
    for pair in np.unique(np.concatenate([pairs, true_pairs]), axis=0):
        yield said[(pairs == pair).all(1)], truth[(true_pairs == pair).all(1)]


def _sweep(
    clips: Sequence[Clip], tolerance: int | float, typed: bool
) -> tuple[Float[np.ndarray, "m"], list[Counts]]:
    """Every score that occurs, falling, and the counts with it as the threshold.

    Only the clips that have a peak of this score are counted anew.
    """
    rows = clip_counts(clips, threshold=np.inf, tolerance=tolerance, typed=typed)
    total, having = rows.sum(0), {}
    for index, clip in enumerate(clips):
        for score in np.unique(np.asarray(clip.scores, np.float64)):
            having.setdefault(float(score), []).append(index)
    thresholds, counts = sorted(having, reverse=True), []
    for threshold in thresholds:
        for index in having[threshold]:
            row = np.array(_counts(clips[index], threshold, tolerance, typed))
            total, rows[index] = total + row - rows[index], row
        counts.append(Counts(*total.tolist()))
    return np.array(thresholds), counts
