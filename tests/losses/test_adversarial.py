"""Hinge losses by hand, and the weight that balances two gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.losses.adversarial import (
    adaptive_weight,
    discriminator_hinge,
    generator_hinge,
)

REAL = jnp.array([[3.0, 0.5], [-1.0, 1.0]])
FAKE = jnp.array([[-2.0, 1.0], [0.0, -0.5]])


def test_hinge_by_hand():
    # Example 0: real misses 0, 0.5; fake 0, 2. Example 1: real 2, 0; fake 1, 0.5.
    expected = [0.5 * (0.25 + 1.0), 0.5 * (1.0 + 0.75)]
    np.testing.assert_allclose(discriminator_hinge(REAL, FAKE), expected)
    np.testing.assert_allclose(generator_hinge(FAKE), [0.5, 0.25])
    patches = FAKE.reshape(2, 1, 2, 1)
    np.testing.assert_allclose(generator_hinge(patches), [0.5, 0.25])


def test_patches_beyond_the_margin_get_no_gradient():
    real, fake = jax.grad(lambda *x: discriminator_hinge(*x).sum(), (0, 1))(REAL, FAKE)
    np.testing.assert_allclose(real[0], [0, -0.25])
    np.testing.assert_allclose(fake[0], [0, 0.25])


def test_weight_makes_the_gradients_equally_long():
    wanted = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    found = jnp.array([[0.0, 2.0], [0.0, 0.0]])
    assert float(adaptive_weight(wanted, found)) == pytest.approx(5 / 2.0001)
    assert float(adaptive_weight(wanted, 0 * found)) == 1e4
    assert float(adaptive_weight(wanted, 0 * found, maximum=9.0)) == 9
    assert float(adaptive_weight(wanted, found, epsilon=0.5)) == 2


def test_weight_is_a_constant():
    gradient = jax.grad(lambda x: adaptive_weight(x, x**2) * x[0])(jnp.full(4, 3.0))
    # Norms 6 and 18; only the factor x[0] is differentiated.
    np.testing.assert_allclose(gradient, [6 / 18.0001, 0, 0, 0], rtol=1e-6)
