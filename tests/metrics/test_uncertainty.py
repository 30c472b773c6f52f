"""Scores of samples against closed forms and brute force, calibration by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_vidpred.metrics import uncertainty

CRPS = jax.jit(uncertainty.crps)


def draws(k, shape=(1, 2, 64, 64, 3), mean=0.5, deviation=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return (mean + deviation * rng.standard_normal((k, *shape))).astype(np.float32)


# CRPS.


@pytest.mark.parametrize("k", [2, 3, 8])
def test_crps_agrees_with_brute_force(k):
    samples = draws(k, (2, 3, 4, 5, 3))
    truth = draws(1, (2, 3, 4, 5, 3), seed=1)[0]
    error = np.abs(samples - truth).mean(0)
    pairs = itertools.combinations(range(k), 2)
    apart = sum(np.abs(samples[i] - samples[j]) for i, j in pairs)
    expected = (error - apart / (k * (k - 1))).mean((2, 3, 4))
    np.testing.assert_allclose(CRPS(samples, truth), expected, atol=1e-6)


@pytest.mark.parametrize("k", [2, 10])
def test_crps_of_normal_samples_is_the_closed_form(k):
    # Gneiting & Raftery 2007, section 4.2; and the same for any number of samples.
    x, deviation = 0.62, 0.1
    z = (x - 0.5) / deviation
    normal = scipy.stats.norm
    expected = deviation * (
        z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / math.sqrt(math.pi)
    )
    truth = np.full((1, 2, 64, 64, 3), x, np.float32)
    computed = np.mean(CRPS(draws(k), truth))
    assert computed == pytest.approx(expected, abs=0.0015)


def test_crps_by_hand():
    # Samples 0.2, 0.4, 0.9 and truth 0.5: (0.3 + 0.1 + 0.4) / 3 - (0.2 + 0.7 + 0.5) / 6
    samples = jnp.array([0.2, 0.9, 0.4]).reshape(3, 1, 1, 1, 1, 1)
    computed = CRPS(samples, jnp.full((1, 1, 1, 1, 1), 0.5))
    np.testing.assert_allclose(computed, [[0.8 / 3 - 1.4 / 6]], rtol=1e-5)


def test_crps_is_the_absolute_error_where_all_samples_agree():
    truth = draws(1)[0]
    same = np.repeat(draws(1, seed=1), 5, 0)
    expected = np.abs(same[0] - truth).mean((2, 3, 4))
    np.testing.assert_allclose(CRPS(same, truth), expected, rtol=1e-5)


def test_crps_prefers_the_true_distribution():
    truth = draws(1, seed=9)[0]
    right = CRPS(draws(6), truth).mean()
    assert right < CRPS(draws(6, deviation=0.02), truth).mean()  # too sure
    assert right < CRPS(draws(6, deviation=0.2), truth).mean()  # too unsure
    assert right < CRPS(draws(6, mean=0.6), truth).mean()  # off
    shuffled = CRPS(draws(6)[::-1], truth).mean()
    np.testing.assert_allclose(shuffled, right, rtol=1e-5)


# Spread and skill.


@pytest.mark.parametrize("k", [2, 8])
def test_spread_is_the_error_if_the_truth_is_one_of_the_draws(k):
    truth = draws(1, seed=9)[0]
    assert uncertainty.spread_skill(draws(k), truth).ratio == pytest.approx(1, abs=0.02)
    too_sure = uncertainty.spread_skill(draws(k, deviation=0.05), truth)
    assert too_sure.ratio < 0.85
    assert uncertainty.spread_skill(draws(k, deviation=0.2), truth).ratio > 1.2


def test_spread_and_error_by_hand():
    samples = jnp.array([0.4, 0.6]).reshape(2, 1, 1, 1, 1, 1) * jnp.ones(
        (1, 2, 1, 3, 3, 3)
    )
    truth = jnp.full((2, 1, 3, 3, 3), 0.8)
    result = uncertainty.spread_skill(samples, truth)
    # Variance 0.02, times 3 / 2; the mean 0.5 is off by 0.3.
    np.testing.assert_allclose(result.spread, math.sqrt(0.03) * np.ones((2, 1)), 1e-4)
    np.testing.assert_allclose(result.error, 0.3 * np.ones((2, 1)), 1e-4)
    assert result.ratio == pytest.approx(math.sqrt(0.03) / 0.3, rel=1e-4)


def test_squares_are_averaged_before_the_ratio():
    result = uncertainty.SpreadSkill(np.array([[3.0, 4.0]]), np.array([[5.0, 0.0]]))
    assert result.ratio == pytest.approx(1)
    none = uncertainty.SpreadSkill(np.zeros((1, 2)), np.zeros((1, 2)))
    assert math.isnan(none.ratio)


def test_one_sample_says_nothing_about_uncertainty():
    for metric in (uncertainty.crps, uncertainty.spread_skill):
        with pytest.raises(
            ValueError, match="1 sample of each clip; uncertainty wants"
        ):
            metric(draws(1), draws(1)[0])


# Any score of K samples.


def test_best_and_mean_leave_out_what_is_not_defined():
    scores = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [2.0, 7.0, np.nan]])
    best = uncertainty.best_of_samples(scores, better="higher")
    np.testing.assert_array_equal(best, [3, 7, np.nan])
    best = uncertainty.best_of_samples(scores[::-1], better="lower")
    np.testing.assert_array_equal(best, [1, 5, np.nan])
    np.testing.assert_array_equal(uncertainty.mean_of_samples(scores), [2, 6, np.nan])
    with pytest.raises(ValueError, match="better='larger', wanted 'higher' or 'lower'"):
        uncertainty.best_of_samples(scores, better="larger")


# Calibration.


def test_reliability_by_hand():
    probability = np.array([[0.0, 0.1, 0.3], [0.35, 1.0, 0.95]])
    outcome = np.array([[False, True, False], [True, True, False]])
    curve = uncertainty.reliability(probability, outcome, num_bins=4)
    np.testing.assert_array_equal(curve.count, [2, 2, 0, 2])
    np.testing.assert_allclose(curve.confidence, [0.05, 0.325, np.nan, 0.975])
    np.testing.assert_allclose(curve.frequency, [0.5, 0.5, np.nan, 0.5])
    assert curve.ece == pytest.approx((0.45 + 0.175 + 0.475) / 3)
    order = [5, 0, 3, 1, 4, 2]
    again = uncertainty.reliability(
        probability.ravel()[order], outcome.ravel()[order], num_bins=4
    )
    assert again.ece == pytest.approx(curve.ece)


def test_edges_belong_to_the_upper_bin():
    edges = np.arange(11) / 10
    curve = uncertainty.reliability(edges, edges > 0.5)
    np.testing.assert_array_equal(curve.count, [1] * 9 + [2])


def test_ece_of_true_probabilities_is_small_and_overconfidence_costs():
    rng = np.random.default_rng(0)
    probability = rng.random(40_000)
    outcome = rng.random(40_000) < probability
    assert uncertainty.reliability(probability, outcome).ece < 0.01
    sure = np.clip(0.5 + 2 * (probability - 0.5), 0, 1)
    assert uncertainty.reliability(sure, outcome).ece > 0.1
    # The base rate is calibrated, and useless.
    rate = np.full(40_000, outcome.mean())
    assert uncertainty.reliability(rate, outcome).ece < 1e-9


def test_what_is_no_probability_is_refused():
    assert math.isnan(uncertainty.reliability(np.zeros(0), np.zeros(0, bool)).ece)
    for wrong in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="NaN or not in"):
            uncertainty.reliability(np.array([wrong]), np.array([True]))
    with pytest.raises(ValueError, match=r"\(3,\) and outcomes \(2,\)"):
        uncertainty.reliability(np.zeros(3), np.zeros(2, bool))
