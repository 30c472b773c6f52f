"""The Frechet distance against scipy's matrix root and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from jax_vidpred.ops.frechet import frechet_distance, moments


def covariance(rng, d):
    root = rng.standard_normal((d, d))
    return root @ root.T / d


def test_agrees_with_the_matrix_root_of_scipy():
    rng = np.random.default_rng(0)
    first, second = covariance(rng, 20), covariance(rng, 20)
    means = rng.standard_normal((2, 20))
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.sum((means[0] - means[1]) ** 2)
    expected += np.trace(first + second - 2 * root)
    computed = frechet_distance(means[0], first, means[1], second)
    assert computed == pytest.approx(expected, rel=1e-10)


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(1)
    axes, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    first, second = rng.uniform(0, 2, (2, 6))
    first[0] = second[1] = second[2] = 0  # singular, which is no special case
    zero = np.zeros(6)
    computed = frechet_distance(
        zero, (axes * first) @ axes.T, zero, (axes * second) @ axes.T
    )
    expected = np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    assert computed == pytest.approx(expected, rel=1e-6)


def test_one_dimension_by_hand():
    # (1 - 3)^2 + (2 - 5)^2
    one = np.ones((1, 1))
    computed = frechet_distance(np.ones(1), 4 * one, 3 * np.ones(1), 25 * one)
    assert computed == pytest.approx(13)


def test_equal_sets_have_none_and_a_shift_is_squared():
    rng = np.random.default_rng(2)
    samples = rng.standard_normal((50, 8))
    shift = rng.standard_normal(8)
    itself = frechet_distance(*moments(samples), *moments(samples[::-1]))
    assert 0 <= itself < 1e-12
    moved = frechet_distance(*moments(samples), *moments(samples + shift))
    assert moved == pytest.approx(np.sum(shift**2))


def test_turning_both_and_swapping_them_changes_nothing():
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 30, 5)) * [[[1.0]], [[2.0]]]
    axes, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    plain = frechet_distance(*moments(first), *moments(second))
    turned = frechet_distance(*moments(first @ axes), *moments(second @ axes))
    swapped = frechet_distance(*moments(second), *moments(first))
    assert turned == pytest.approx(plain)
    assert swapped == pytest.approx(plain)


def test_moments_are_those_of_numpy():
    samples = np.random.default_rng(4).standard_normal((9, 3)).astype(np.float32)
    mean, computed = moments(samples)
    assert computed.dtype == np.float64
    np.testing.assert_allclose(computed, np.cov(samples.astype(float), rowvar=False))
    np.testing.assert_allclose(mean, samples.astype(float).mean(0))


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="2 samples or more, not 1"):
        moments(np.zeros((1, 3)))
