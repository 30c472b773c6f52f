"""Max pooling against Flax, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.pool import max_pool

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "window, stride, padding",
    [
        ((3, 3), (2, 2), ((0, 0), (0, 1))),
        ((2, 2), (2, 2), ((0, 0), (0, 0))),
        ((1, 3, 2), (1, 2, 1), ((0, 0), (1, 1), (0, 1))),
    ],
)
def test_max_pool_and_its_gradient_are_those_of_flax(window, stride, padding):
    size = (2, *(6, 7, 8)[: len(window)], 3)
    x = jnp.asarray(RNG.normal(size=size), jnp.float32)

    def ours(x):
        return max_pool(x, window, stride, padding)

    def theirs(x):
        return nn.max_pool(x, window, stride, padding)

    np.testing.assert_array_equal(ours(x), theirs(x))
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


def test_ties_of_max_pool_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, (2,), (2,), ((0, 0),)).sum())
    np.testing.assert_array_equal(
        gradient(jnp.zeros((1, 2, 1))), 0.5 * np.ones((1, 2, 1))
    )
