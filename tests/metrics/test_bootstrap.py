"""Bootstrap intervals: against theory, scipy, and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from jax_vidpred.metrics import bootstrap
from jax_vidpred.metrics.collision import Counts


def test_interval_of_a_mean_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap.interval(values, num_samples=4000)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_agrees_with_scipy_on_skewed_values():
    values = np.random.default_rng(1).exponential(size=60)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    computed = bootstrap.interval(values, num_samples=20_000, seed=1)
    np.testing.assert_allclose(computed, expected, atol=0.01)


def test_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        low, high = bootstrap.interval(rng.normal(size=50), level=0.8, num_samples=300)
        hits += low <= 0 <= high
    assert 0.72 < hits / 300 < 0.88


def test_by_hand_two_clips():
    # Of two clips the mean is 0, 1/2 or 1, with probability 1/4, 1/2, 1/4.
    assert bootstrap.interval(np.array([0.0, 1.0])) == (0, 1)
    assert bootstrap.interval(np.array([0.0, 1.0]), level=0.4) == (0.5, 0.5)


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    values = np.random.default_rng(3).random(40)
    first = bootstrap.interval(values)
    assert bootstrap.interval(values) == first
    assert bootstrap.interval(values, seed=1) != first
    monkeypatch.setattr(bootstrap, "_BLOCK", 7 * 40)
    assert bootstrap.interval(values) == pytest.approx(first, abs=1e-12)


def test_pairing_removes_what_the_clips_have_in_common():
    rng = np.random.default_rng(4)
    hard = rng.normal(30, 5, 100)
    first = hard + 0.3 + 0.1 * rng.standard_normal(100)
    difference, low, high = bootstrap.paired_difference(first, hard)
    assert difference == pytest.approx((first - hard).mean())
    assert 0.2 < low < difference < high < 0.4
    # Without the pairs the difference drowns.
    _, low, high = bootstrap.paired_difference(rng.permutation(first), hard)
    assert low < 0 < high


def test_a_difference_turns_its_sign_with_the_order():
    first, second = np.random.default_rng(5).random((2, 30))
    there = bootstrap.paired_difference(first, second)
    back = bootstrap.paired_difference(second, first)
    np.testing.assert_allclose(
        there, (-back.difference, -back.high, -back.low), atol=1e-12
    )
    same = bootstrap.paired_difference(first, first)
    assert same == (0, 0, 0)


def test_clips_without_a_value_are_left_out_of_both():
    first = np.array([1.0, np.nan, 3.0, 4.0, 9.0])
    second = np.array([0.0, 5.0, 1.0, np.nan, 2.0])
    kept = [0, 2, 4]
    assert bootstrap.paired_difference(first, second) == bootstrap.paired_difference(
        first[kept], second[kept]
    )
    assert bootstrap.interval(first) == bootstrap.interval(first[[0, 2, 3, 4]])


def test_ratio_of_sums_pools_the_counts():
    rng = np.random.default_rng(6)
    true = rng.integers(0, 4, 80)
    predicted = rng.integers(0, 4, 80)
    counts = np.stack([np.minimum(true, predicted), predicted, true], -1)
    other = np.stack([0 * true, predicted, true], -1)
    expected = Counts(*counts.sum(0)).f1
    assert bootstrap.f1(counts.mean(0)) == pytest.approx(expected)
    low, high = bootstrap.interval(counts, statistic=bootstrap.f1)
    assert low < expected < high
    assert high - low < 0.25
    worse = bootstrap.paired_difference(other, counts, statistic=bootstrap.f1)
    assert worse.difference == pytest.approx(-expected)
    assert (worse.low, worse.high) == pytest.approx((-high, -low))


def test_draws_without_an_event_say_nothing():
    counts = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]])
    assert bootstrap.interval(counts, statistic=bootstrap.f1) == (1, 1)
    nothing = bootstrap.interval(0 * counts, statistic=bootstrap.f1)
    assert np.isnan(nothing).all()


@pytest.mark.parametrize("values", [[], [2.0], [2.0, np.nan]])
def test_fewer_than_two_clips_have_no_interval(values):
    values = np.array(values)
    assert np.isnan(bootstrap.interval(values)).all()
    difference, low, high = bootstrap.paired_difference(values, values - 1)
    assert np.isnan([low, high]).all()
    assert difference == 1 if len(values) else math.isnan(difference)


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="level=95, wanted a share"):
        bootstrap.interval(np.ones(3), level=95)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        bootstrap.paired_difference(np.ones(3), np.ones(4))


def test_clips_of_one_video_are_drawn_together():
    """Four copies of each clip say no more than one of them."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 25))
    alone = bootstrap.paired_difference(first, second)
    fourfold = [np.repeat(values, 4) for values in (first, second)]
    groups = np.repeat(np.arange(25), 4)
    together = bootstrap.paired_difference(*fourfold, groups=groups)
    np.testing.assert_allclose(together, alone, rtol=1e-9)
    careless = bootstrap.paired_difference(*fourfold)
    assert careless.high - careless.low < 0.7 * (together.high - together.low)
    # Videos of unlike numbers of clips: each clip counts once in the mean.
    uneven = bootstrap.paired_difference(
        np.array([1.0, 1.0, 4.0]), np.zeros(3), groups=[7, 7, 9]
    )
    assert (uneven.difference, uneven.low, uneven.high) == (2.0, 1.0, 4.0)
