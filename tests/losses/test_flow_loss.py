"""End-point error: distance, weights, gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.losses.flow import (
    balanced_endpoint_error,
    endpoint_error,
    is_moving,
)


def fields():
    """Example 0 is wrong by 5 pixels in one of eight cells, example 1 nowhere."""
    target = jnp.zeros((2, 2, 2, 2, 2))
    return target.at[0, 0, 0, 0].set(jnp.array([3.0, 4.0])), target


def test_weighted_mean_distance():
    prediction, target = fields()
    every = jnp.ones((2, 2, 2, 2, 1))
    row = jnp.zeros_like(every).at[:, 0, 0].set(1.0)
    for weight, mean in ((every, 5 / 8), (row, 5 / 2), (0 * every, 0.0)):
        error = endpoint_error(prediction, target, weight)
        np.testing.assert_allclose(error, [mean, 0], atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_gradient_is_finite_at_the_target_and_without_weight(share):
    prediction, target = fields()
    weight = jnp.full((2, 2, 2, 2, 1), share)
    gradient = jax.grad(lambda p: endpoint_error(p, target, weight).sum())(prediction)
    expected = np.zeros_like(gradient)
    expected[0, 0, 0, 0] = share * np.array([0.6, 0.8]) / 8
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_moving_and_still_cells_weigh_the_same():
    _, still = fields()
    target = still.at[:, :, 0, 0, 0].set(2.0)  # one of four cells moves
    assert int(is_moving(target).sum()) == 4
    steps = jnp.ones((2, 2))
    missed = balanced_endpoint_error(still, target, steps)
    np.testing.assert_allclose(missed, [1.0, 1.0], atol=1e-3)
    wrong_where_still = target.at[:, :, 1:, :, 1].set(2.0)  # two of three still cells
    error = balanced_endpoint_error(wrong_where_still, target, steps)
    np.testing.assert_allclose(error, [2 / 3, 2 / 3], atol=1e-3)


def test_steps_that_do_not_count_are_left_out():
    prediction, target = fields()  # wrong in step 0 only
    error = balanced_endpoint_error(prediction, target, jnp.array([[0.0, 1.0]] * 2))
    np.testing.assert_allclose(error, [0, 0], atol=1e-6)
