"""Convolutions with few channels, which take forms of their own on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import conv


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), "f")


def assert_as_plain(x, kernel, stride, padding):
    """Output and both gradients are those of XLA's own convolution."""
    out = conv._conv(x, kernel, stride, padding)
    weight = draw(*out.shape)

    def value_and_gradients(function):
        def loss(x, kernel):
            return jnp.sum(function(x, kernel, stride, padding) * weight)

        return (
            function(x, kernel, stride, padding),
            *jax.jit(jax.grad(loss, (0, 1)))(x, kernel),
        )

    wanted, given = map(value_and_gradients, (conv._conv, conv.conv2d))
    for a, b in zip(given, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    "kernel, stride, padding",
    [(4, 2, ((1, 1), (1, 1))), (4, 4, ((0, 0), (2, 2))), (2, 2, ((0, 1), (1, 1)))],
)
def test_images(channels, kernel, stride, padding):
    x = draw(2, 11, 12, channels)
    weights = draw(kernel, kernel, channels, 8)
    assert_as_plain(x, weights, stride, padding)


@pytest.mark.parametrize(
    "kernel, stride, columns", [(3, 2, 12), (4, 2, 11), (4, 1, 12)]
)
def test_images_of_odd_sizes_and_kernels(kernel, stride, columns):
    x, weights = draw(2, 8, columns, 3), draw(kernel, kernel, 3, 8)
    padding = ((1, 1), (1, 1))
    assert_as_plain(x, weights, stride, padding)


@pytest.mark.parametrize("features", [1, 2, 12])
@pytest.mark.parametrize(
    "kernel, padding",
    [(3, ((1, 1), (1, 1))), (1, ((0, 0), (0, 0))), (3, ((0, 2), (2, 1)))],
)
def test_heads(features, kernel, padding):
    x, weights = draw(3, 7, 6, 20), draw(kernel, kernel, 20, features)
    assert_as_plain(x, weights, 1, padding)
