"""Weights of loss terms, fixed and learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.losses.balance import uncertainty_sum, weighted_sum

TERMS = {"a": jnp.float32(2.0), "b": jnp.float32(5.0)}


def test_weighted_sum_hand_value():
    assert float(weighted_sum(TERMS, {"a": 0.5, "b": 2.0})) == 11.0


def test_terms_and_weights_must_have_the_same_names():
    with pytest.raises(ValueError, match=r"\['a', 'b'\] and weights \['a', 'c'\]"):
        weighted_sum(TERMS, {"a": 1.0, "c": 1.0})


def test_uncertainty_hand_value_and_optimum():
    weights = {"a": 1.0, "b": 2.0}
    scales = {"a": jnp.log(2.0), "b": jnp.float32(0.0)}
    total = uncertainty_sum(TERMS, weights, scales)
    assert float(total) == pytest.approx((1 + np.log(2)) + 2 * 5)
    # d/ds (L e^-s + s) = 0 at s = log L: Laplace scale equals the mean distance.
    gradient = jax.grad(lambda s: uncertainty_sum(TERMS, weights, s))(
        {name: jnp.log(term) for name, term in TERMS.items()}
    )
    np.testing.assert_allclose([gradient["a"], gradient["b"]], [0, 0], atol=1e-6)


def test_a_term_that_reaches_zero_does_not_run_away():
    def total(s):
        return uncertainty_sum({"a": jnp.float32(0.0)}, {"a": 1.0}, {"a": s})

    assert float(total(jnp.float32(-100.0))) == -4.0
    assert float(jax.grad(total)(jnp.float32(-100.0))) == 0.0
    assert float(jax.grad(total)(jnp.float32(100.0))) == 0.0
