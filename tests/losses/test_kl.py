"""The divergence against its integral."""

import jax.numpy as jnp
import numpy as np

from jax_vidpred.losses.kl import kl_divergence


def test_zero_at_the_standard_normal():
    np.testing.assert_array_equal(
        kl_divergence(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))), [0, 0]
    )


def test_equals_the_integral():
    mean, logvar = 0.7, -1.2
    x = np.linspace(-12, 12, 200_001)
    log_q = -0.5 * ((x - mean) ** 2 / np.exp(logvar) + logvar)
    integral = np.trapezoid(np.exp(log_q) * (log_q + 0.5 * x**2), x) / np.sqrt(
        2 * np.pi
    )
    one = kl_divergence(jnp.full((1, 1), mean), jnp.full((1, 1), logvar))
    np.testing.assert_allclose(one, [integral], rtol=1e-5)


def test_is_a_mean_over_the_elements_of_each_example():
    mean = jnp.array([[[1.0, 3.0]], [[0.0, 2.0]]])
    # mean^2 / 2 for unit variance.
    np.testing.assert_allclose(kl_divergence(mean, 0 * mean), [2.5, 1.0])
