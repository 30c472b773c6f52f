"""Visibility: cross-entropy above its floor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.losses.occlusion import visibility_cross_entropy


def test_a_perfect_prediction_costs_nothing_and_any_other_something():
    visible = jnp.array([0.1, 0.5, 0.9, 0.3]).reshape(1, 1, 2, 2, 1)
    perfect = jnp.log(visible / (1 - visible))
    loss, gradient = jax.value_and_grad(
        lambda logit: visibility_cross_entropy(logit, visible).sum()
    )(perfect)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0 * visible, atol=1e-7)
    for change in (0.5, -0.5):
        assert visibility_cross_entropy(perfect + change, visible)[0, 0] > 0.01


def test_hard_targets_give_plain_cross_entropy():
    visible = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2, 1)
    logit = jnp.array([2.0, -1.0, 0.0, 30.0]).reshape(visible.shape)
    p = 1 / (1 + np.exp(-np.asarray(logit, np.float64)))
    expected = np.mean([*-np.log(p[0, 0, 0, :, 0]), np.log(2), 30.0])
    loss = visibility_cross_entropy(logit, visible)
    np.testing.assert_allclose(loss, [[expected]], rtol=1e-4)
