"""Collision labels and their loss against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.losses.collision import focal_loss, widen


@pytest.mark.parametrize(
    "tolerance, expected",
    [
        (0, [[0, 0, 1, 0, 0, 0, 1]]),
        (1, [[0, 1, 1, 1, 0, 1, 1]]),
        (2, [[1, 1, 1, 1, 1, 1, 1]]),
        (9, [[1, 1, 1, 1, 1, 1, 1]]),
    ],
)
def test_widen(tolerance, expected):
    counts = jnp.array([[0, 0, 1, 0, 0, 0, 2.0]])  # two collisions at once count once
    np.testing.assert_array_equal(widen(counts, tolerance), expected)
    np.testing.assert_array_equal(widen(0 * counts, tolerance), 0 * counts)


def test_focal_loss_equals_the_formula():
    rng = np.random.default_rng(0)
    logit, label = rng.normal(size=(3, 5)), rng.integers(0, 2, (3, 5))
    p = 1 / (1 + np.exp(-logit))
    p_true = np.where(label, p, 1 - p)
    alpha = np.where(label, 0.75, 0.25)
    expected = -alpha * (1 - p_true) ** 2 * np.log(p_true)
    loss = focal_loss(jnp.float32(logit), jnp.float32(label), alpha=0.75, gamma=2.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_alpha_favours_the_rare_positives():
    logit = jnp.zeros((1, 2))
    missed, false_alarm = focal_loss(
        logit, jnp.array([[1.0, 0.0]]), alpha=0.75, gamma=2.0
    )[0]
    assert float(missed / false_alarm) == pytest.approx(3)
