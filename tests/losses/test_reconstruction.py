"""Distances per example, and means over the steps that count."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.losses.reconstruction import (
    balanced_l1,
    l1,
    masked_l1,
    mean_over_steps,
)


def test_l1_hand_value():
    a = jnp.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    np.testing.assert_allclose(l1(a, jnp.ones_like(a)), [1.5, 2.5])


def test_steps_that_do_not_count_change_nothing_and_get_no_gradient():
    a = jnp.arange(12.0).reshape(2, 3, 2)
    steps = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    # Example 0 counts 0..3, mean 1.5; example 1 counts nothing.
    np.testing.assert_allclose(masked_l1(a, 0 * a, steps), [1.5, 0.0])
    gradient = jax.grad(lambda a: masked_l1(a, 0 * a - 1, steps).sum())(a)
    np.testing.assert_array_equal(gradient[0, 2], [0, 0])
    assert np.all(gradient[0, :2] == 0.25) and not np.any(gradient[1])


def test_all_steps_give_the_plain_mean():
    a = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(masked_l1(a, 0 * a, jnp.ones((2, 3))), l1(a, 0 * a))
    values = jnp.array([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(mean_over_steps(values, jnp.ones((1, 3))), [3.0])


def test_changed_and_unchanged_cells_weigh_the_same():
    target = jnp.zeros((1, 2, 2, 2, 3))
    changed = jnp.zeros((1, 2, 2, 2), bool).at[0, :, 0, 0].set(True)  # one cell of four
    wrong = target.at[0, 0, 0, 0].set(4.0).at[0, 1, 1, 1].set(3.0)
    steps = jnp.ones((1, 2))
    # Changed: 4 in one of two cells; unchanged: 3 in one of six.
    error = balanced_l1(wrong, target, changed, steps)
    np.testing.assert_allclose(error, [0.5 * (4 / 2 + 3 / 6)], rtol=1e-6)
    first = balanced_l1(wrong, target, changed, jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(first, [0.5 * 4.0], rtol=1e-6)
    none = balanced_l1(wrong, target, changed & False, steps)
    np.testing.assert_allclose(none, [0.5 * (4 + 3) / 8], rtol=1e-6)
