"""Runge-Kutta solvers: one step by hand, orders, numbering of evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import solvers

ORDERS = {"euler": 1, "heun": 2, "rk4": 4, "rk4_38": 4}


def slope(y, t):
    """Any smooth y' that depends on both, in numpy or jax."""
    return y * y * 0.5 - t * y + 0.3


def test_a_step_of_rk4_is_the_classical_one_stated_independently():
    y, t, h = np.array([0.7, -0.2]), 0.25, 0.5
    first = slope(y, t)
    second = slope(y + h / 2 * first, t + h / 2)
    third = slope(y + h / 2 * second, t + h / 2)
    fourth = slope(y + h * third, t + h)
    expected = y + h / 6 * (first + 2 * second + 2 * third + fourth)
    np.testing.assert_allclose(_one_step("rk4", y, t, h), expected, rtol=1e-6)


def test_a_step_of_the_three_eighths_rule_stated_independently():
    y, t, h = np.array([0.7, -0.2]), 0.25, 0.5
    first = slope(y, t)
    second = slope(y + h * first / 3, t + h / 3)
    third = slope(y + h * (second - first / 3), t + 2 * h / 3)
    fourth = slope(y + h * (first - second + third), t + h)
    expected = y + h / 8 * (first + 3 * second + 3 * third + fourth)
    np.testing.assert_allclose(_one_step("rk4_38", y, t, h), expected, rtol=1e-6)


def _one_step(method, y, t, h):
    times = jnp.array([t, t + h])
    return solvers.integrate(
        lambda y, t, number: slope(y, t), jnp.float32(y), times, method=method
    )


@pytest.mark.parametrize("method", ORDERS)
def test_half_the_step_has_the_error_of_the_method_s_order(method):
    def error(num_steps):
        with jax.enable_x64(True):
            times = jnp.asarray(np.linspace(0, 2, num_steps + 1))
            y = solvers.integrate(
                lambda y, t, number: -y * jnp.cos(t),
                jnp.ones((), jnp.float64),
                times,
                method=method,
            )
            return abs(float(y) - np.exp(-np.sin(2.0)))

    order = np.log2(error(16) / error(32))
    assert abs(order - ORDERS[method]) < 0.25


@pytest.mark.parametrize("method", ORDERS)
def test_every_evaluation_has_its_number(method):
    count = 3 * len(solvers.tableau(method).nodes)
    # The velocity writes a 1 where its number is.
    total = solvers.integrate(
        lambda y, t, number: jnp.zeros(count).at[number].set(1.0),
        jnp.zeros(count),
        solvers.even_times(0.0, 1.0, 3),
        method=method,
    )
    weights = np.array(solvers.tableau(method).weights) / 3
    np.testing.assert_allclose(total, np.tile(weights, 3), rtol=1e-6)


def test_time_may_run_backwards():
    y = solvers.integrate(
        lambda y, t, number: y,
        jnp.ones(()),
        solvers.even_times(1.0, 0.0, 8),
        method="rk4",
    )
    np.testing.assert_allclose(y, np.exp(-1), rtol=1e-5)


def test_bad_arguments_say_what_is_wanted():
    with pytest.raises(ValueError, match="dopri5.*euler"):
        solvers.tableau("dopri5")
    with pytest.raises(ValueError, match="at least one step"):
        solvers.even_times(0.0, 1.0, 0)
