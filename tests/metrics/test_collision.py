"""Events: peaks, one-to-one matching and ratios against cases done by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jax_vidpred.metrics.collision import (
    Clip,
    Counts,
    after,
    average_precision,
    best_threshold,
    clip_counts,
    clip_events,
    count_events,
    count_matches,
    find_peaks,
    matched_differences,
    pair_events,
    part_scores,
    timing_error,
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


def _random_clip(rng, objects=3):
    """Up to seven events of few pairs within few frames: many may match many."""

    def events(number):
        pairs = [rng.permutation(objects)[:2] for _ in range(number)]
        return rng.integers(0, 25, number), np.reshape(pairs, (-1, 2)).astype(int)

    (peaks, pairs), (truth, true_pairs) = (events(rng.integers(0, 8)) for _ in range(2))
    return Clip(peaks, rng.uniform(size=len(peaks)), truth, pairs, true_pairs)


def test_typed_counts_are_those_of_the_hungarian_matching():
    rng = np.random.default_rng(2)
    differ = 0
    for _ in range(80):
        clip = _random_clip(rng)
        near = np.abs(np.subtract.outer(clip.peaks, clip.truth)) <= 4
        ours, true = (
            [frozenset(pair) for pair in pairs.tolist()]
            for pairs in (clip.pairs, clip.true_pairs)
        )
        same = np.array([[a == b for b in true] for a in ours], bool)
        for typed, allowed in ((False, near), (True, near & same.reshape(near.shape))):
            rows, columns = linear_sum_assignment(allowed, maximize=True)
            counts = count_events([clip], threshold=0, tolerance=4, typed=typed)
            assert counts.matched == allowed[rows, columns].sum()
            differ += counts.matched * (-1) ** typed
    assert differ > 0  # the pairs do matter here


def test_the_wrong_pair_is_no_match():
    clip = Clip(np.array([10]), np.array([0.9]), np.array([11]), [[2, 0]], [[0, 2]])
    assert count_events([clip], threshold=0.5, typed=True) == (1, 1, 1)
    wrong = clip._replace(pairs=[[1, 2]])
    assert count_events([wrong], threshold=0.5, typed=False) == (1, 1, 1)
    assert count_events([wrong], threshold=0.5, typed=True) == (0, 1, 1)
    assert average_precision([wrong], typed=True) == 0
    with pytest.raises(ValueError, match="1 events have 0 pairs"):
        count_events([clip._replace(pairs=())], threshold=0.5, typed=True)


def test_names_of_objects_do_not_matter():
    rng = np.random.default_rng(3)
    clips = [_random_clip(rng) for _ in range(10)]
    names = np.array([2, 0, 1])
    renamed = [
        clip._replace(pairs=names[clip.pairs], true_pairs=names[clip.true_pairs])
        for clip in clips
    ]
    for function in (best_threshold, average_precision):
        result = function(clips, typed=True)
        assert result == function(renamed, typed=True)
        assert 0 < result < 1


def test_the_sweep_counts_as_one_threshold_at_a_time_does():
    rng = np.random.default_rng(4)
    clips = [_random_clip(rng) for _ in range(12)]
    # Equal scores in several clips fall in one step.
    clips = [clip._replace(scores=np.round(clip.scores, 1)) for clip in clips]
    for typed in (False, True):
        thresholds = np.unique(np.concatenate([clip.scores for clip in clips]))[::-1]
        all_counts = [
            count_events(clips, threshold=t, tolerance=4, typed=typed)
            for t in thresholds
        ]
        recall = np.array([0] + [counts.recall for counts in all_counts])
        precision = [counts.precision for counts in all_counts]
        area = average_precision(clips, tolerance=4, typed=typed)
        assert area == pytest.approx(np.diff(recall) @ precision)
        best = thresholds[np.argmax([counts.f1 for counts in all_counts])]
        assert best_threshold(clips, tolerance=4, typed=typed) == best


def test_differences_of_the_closest_of_the_largest_matchings():
    # The nearest two alone would leave 12 and 3 without a match.
    differences = matched_differences(np.array([8, 12]), np.array([9, 3]), 5)
    assert sorted(differences) == [3, 5]
    assert matched_differences(np.array([8, 12]), np.array([9]), 5).tolist() == [-1]
    assert len(matched_differences(np.array([]), np.array([9]), 5)) == 0
    rng = np.random.default_rng(5)
    for _ in range(60):
        predicted, truth = (rng.integers(0, 25, rng.integers(1, 5)) for _ in range(2))
        few, many = sorted((predicted, truth), key=len)
        best = min(
            (-len(near), sum(near))
            for chosen in itertools.permutations(many, len(few))
            for near in [
                [abs(a - b) for a, b in zip(few, chosen, strict=True) if abs(a - b) < 5]
            ]
        )
        found = np.abs(matched_differences(predicted, truth, 4))
        assert (-len(found), found.sum()) == best
        assert len(found) == count_matches(predicted, truth, 4)


def test_timing_error():
    assert timing_error(CLIPS, threshold=0.5) == pytest.approx((2 + 1) / 2)
    assert timing_error(CLIPS, threshold=0.55) == 2
    late = [clip._replace(peaks=clip.peaks + 3) for clip in CLIPS]
    assert timing_error(late, threshold=0.5) == pytest.approx((1 + 2) / 2)
    assert math.isnan(timing_error(CLIPS, threshold=1.0))


def test_counts_of_each_clip_add_up():
    rows = clip_counts(CLIPS, threshold=0.0)
    assert rows.tolist() == [[1, 2, 1], [1, 2, 2]]
    assert tuple(rows.sum(0)) == count_events(CLIPS, threshold=0.0)
    assert clip_counts([], threshold=0.0).shape == (0, 3)


def test_pairs_in_raw_frames_and_after_the_context():
    touches = np.zeros((8, 4, 4), bool)
    for step, i, j in ((1, 0, 1), (6, 2, 3), (6, 0, 3)):
        touches[step, i, j] = touches[step, j, i] = True
    clip = pair_events(
        np.array([2, 6, 7]),
        np.array([[0, 1], [2, 3], [0, 2]]),
        np.array([5.0, 4.0, 3.0]),
        touches,
        stride=2,
    )
    assert clip.truth.tolist() == [2.5, 12.5, 12.5]
    assert clip.true_pairs.tolist() == [[0, 1], [0, 3], [2, 3]]
    assert count_events([clip], threshold=3.5, typed=True) == (2, 2, 3)
    assert count_events([clip], threshold=0, tolerance=1, typed=True) == (1, 3, 3)
    later = after(clip, 10)
    assert count_events([later], threshold=0, typed=True) == (1, 2, 2)
    parts = part_scores([clip], [clip], begins={"horizon": 10}, typed=True)["horizon"]
    assert parts["threshold"] == 4.0
    assert (parts["f1"], parts["timing_error"]) == (pytest.approx(2 / 3), 0)
    recalls = [parts["by_tolerance"][t]["recall"] for t in ("0", "2", "5", "10")]
    assert recalls == [0.5] * 4
