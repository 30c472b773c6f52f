"""Events: peaks, one-to-one matching and ratios against cases done by hand."""

import itertools
import math

import numpy as np
import pytest

from jax_vidpred.metrics.collision import (
    Clip,
    Counts,
    average_precision,
    best_threshold,
    clip_events,
    count_events,
    count_matches,
    find_peaks,
    part_scores,
)


@pytest.mark.parametrize(
    ("probability", "radius", "steps"),
    [
        ([0.1, 0.9, 0.8, 0.2, 0.1, 0.3, 0.1], 1, [1, 5]),
        # Step 3 is out of reach of step 1, but only the shoulder of its hill.
        ([0.1, 0.9, 0.8, 0.7, 0.1, 0.3, 0.1], 1, [1, 5]),
        ([0.1, 0.9, 0.2, 0.6, 0.1], 1, [1, 3]),
        ([0.1, 0.9, 0.2, 0.6, 0.1], 2, [1]),
        # The higher one wins, also where it comes later; it frees what is beyond.
        ([0.5, 0.0, 0.6, 0.0, 0.4], 2, [2]),
        ([0.5, 0.0, 0.0, 0.6, 0.0, 0.0, 0.7], 2.5, [0, 3, 6]),
        ([0.0, 1.0, 1.0, 1.0, 0.0], 2, [2]),  # the middle of a plateau
        ([0.3], 1, [0]),
        ([], 1, []),
    ],
)
def test_peaks(probability, radius, steps):
    found, scores = find_peaks(np.array(probability), radius)
    assert found.tolist() == steps
    assert scores.tolist() == [probability[step] for step in steps]


def test_a_threshold_removes_the_low_peaks_and_no_others():
    rng = np.random.default_rng(0)
    for _ in range(20):
        probability = rng.uniform(size=40)
        steps, scores = find_peaks(probability, 3)
        low = np.where(probability < 0.8, 0.0, probability)
        again, others = find_peaks(low, 3)
        assert set(again[others >= 0.8]) >= set(steps[scores >= 0.8])
        assert (np.diff(steps) > 3).all()


@pytest.mark.parametrize(
    ("predicted", "truth", "tolerance", "matched"),
    [
        ([10], [15], 5, 1),
        ([10], [15.5], 5, 0),
        ([10, 11], [10], 5, 1),  # one event answers for one peak only
        ([10], [9, 11], 5, 1),
        ([0, 6], [5, 11], 5, 2),  # nearest first would give away a match
        ([5, 11], [0, 6], 5, 2),
        ([20, 3], [4, 50, 19], 2, 2),  # in any order
        ([], [1], 5, 0),
    ],
)
def test_matches(predicted, truth, tolerance, matched):
    predicted, truth = np.array(predicted), np.array(truth)
    assert count_matches(predicted, truth, tolerance) == matched


def test_the_matching_is_the_largest():
    rng = np.random.default_rng(1)
    for _ in range(60):
        predicted, truth = (rng.integers(0, 25, rng.integers(1, 5)) for _ in range(2))
        few, many = sorted((predicted, truth), key=len)
        best = max(
            sum(abs(a - b) <= 4 for a, b in zip(few, chosen, strict=True))
            for chosen in itertools.permutations(many, len(few))
        )
        assert count_matches(predicted, truth, 4) == best


def test_ratios():
    counts = Counts(matched=3, predicted=4, true=6)
    assert counts.precision == 0.75
    assert counts.recall == 0.5
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert Counts(0, 2, 0).f1 == 0
    assert math.isnan(Counts(0, 0, 0).f1)


CLIPS = [
    Clip(np.array([10.0, 40.0]), np.array([0.9, 0.3]), np.array([12.0])),
    Clip(np.array([20.0, 60.0]), np.array([0.6, 0.5]), np.array([61.0, 90.0])),
]


def test_counts_and_the_best_threshold():
    # By falling threshold: 0.9 hits, 0.6 misses, 0.5 hits, 0.3 misses.
    assert count_events(CLIPS, threshold=0.55, tolerance=5) == (1, 2, 3)
    assert count_events(CLIPS, threshold=0.0, tolerance=5) == (2, 4, 3)
    # F1 is 2/4, 2/5, 4/6, 4/7.
    assert best_threshold(CLIPS, tolerance=5) == 0.5
    assert math.isnan(
        best_threshold([CLIPS[0]._replace(truth=np.array([]))], tolerance=5)
    )
    assert math.isnan(best_threshold([], tolerance=5))


def test_average_precision():
    # Recall rises by a third at precision 1 and by a third at precision 2/3.
    assert average_precision(CLIPS, tolerance=5) == pytest.approx((1 + 2 / 3) / 3)
    assert math.isnan(average_precision([], tolerance=5))


def test_the_threshold_comes_from_other_clips():
    sure = [Clip(np.array([5.0]), np.array([0.8]), np.array([5.0]))]
    parts = part_scores(CLIPS, sure, begins={"all": 0, "late": 50}, tolerance=5)
    assert parts["all"]["threshold"] == 0.8
    assert (parts["all"]["matched"], parts["all"]["predicted"]) == (1, 1)
    assert parts["late"]["true"] == 2
    # No event of the other clips lies there: no threshold, no score.
    assert math.isnan(parts["late"]["f1"])


def test_a_clip_in_raw_frames():
    clip = clip_events(
        np.array([0.1, 0.7, 0.2, 0.1, 0.1, 0.9]),
        np.array([0, 0, 1, 0, 0, 2.0]),
        stride=2,
        radius=5,
    )
    # Step k stands for the raw frames 2k and 2k + 1.
    assert clip.peaks.tolist() == [2.5, 10.5]
    assert clip.truth.tolist() == [4.5, 10.5, 10.5]
    assert count_matches(clip.peaks, clip.truth, 5) == 2
