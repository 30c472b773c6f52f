"""Convolutions: fast gradients equal those of the plain XLA operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_vidpred.ops.conv import conv2d, conv_transpose2d

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT
    )


def plain_transpose(x, kernel, stride, padding):
    size = kernel.shape[0] - 1 - padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((size, size), (size, size)),
        lhs_dilation=(stride, stride),
        dimension_numbers=LAYOUT,
    )


def value_and_gradients(function, x, kernel):
    """Value, and the gradients of a loss that weighs every output differently."""

    def loss(x, kernel):
        y = function(x, kernel)
        return jnp.sum(jnp.sin(y + jnp.arange(y.size).reshape(y.shape))), y

    both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, y), gradients = both(x, kernel)
    return y, *gradients


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "kernel, stride, padding, size",
    [
        ((3, 3), 1, ((1, 1), (1, 1)), (6, 5)),
        ((4, 4), 2, ((1, 1), (1, 1)), (8, 6)),
        ((3, 3), 2, ((1, 1), (0, 2)), (7, 5)),  # a remainder below and on the right
        ((1, 1), 1, ((0, 0), (0, 0)), (4, 3)),
        ((1, 1), 2, ((0, 0), (0, 0)), (5, 4)),
        ((5, 2), 3, ((2, 2), (0, 1)), (9, 8)),
        ((4, 4), 2, ((1, 1), (1, 1)), (7, 9)),  # half a block left over
        ((2, 4), 2, ((0, 1), (2, 2)), (11, 12)),
        ((4, 4), 4, ((0, 0), (2, 2)), (11, 12)),
        ((3, 3), 1, ((3, 3), (4, 4)), (4, 4)),  # more padding than the kernel reaches
    ],
)
def test_conv_equals_plain(kernel, stride, padding, size):
    x, k = normal(0, 2, *size, 3), normal(1, *kernel, 3, 4)
    expected = value_and_gradients(lambda x, k: plain(x, k, stride, padding), x, k)
    actual = value_and_gradients(lambda x, k: conv2d(x, k, stride, padding), x, k)
    assert_same(actual, expected)


@pytest.mark.parametrize(
    "kernel, stride, padding, size",
    [(4, 2, 1, (4, 3)), (3, 1, 1, (5, 4)), (2, 2, 0, (3, 4)), (5, 3, 1, (3, 3))],
)
def test_conv_transpose_equals_plain(kernel, stride, padding, size):
    x, k = normal(0, 2, *size, 3), normal(1, kernel, kernel, 3, 4)
    expected = value_and_gradients(
        lambda x, k: plain_transpose(x, k, stride, padding), x, k
    )
    actual = value_and_gradients(
        lambda x, k: conv_transpose2d(x, k, stride, padding), x, k
    )
    assert_same(actual, expected)
    sides = [(side - 1) * stride - 2 * padding + kernel for side in size]
    assert actual[0].shape == (2, *sides, 4)


def test_conv_transpose_is_the_adjoint_of_conv():
    x, y = normal(0, 1, 8, 8, 3), normal(1, 1, 4, 4, 5)
    kernel = normal(2, 4, 4, 3, 5)
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    forth = jnp.vdot(conv2d(x, kernel, 2), y)
    back = jnp.vdot(x, conv_transpose2d(y, mirrored, 2, 1))
    np.testing.assert_allclose(forth, back, rtol=1e-4)


def test_same_gradients_under_scan_and_vmap():
    x = normal(0, 3, 2, 6, 6, 3)
    down, up = normal(1, 4, 4, 3, 4), normal(2, 4, 4, 4, 3)

    def loss(kernels, x, forth, back):
        def step(carry, frame):
            y = jnp.tanh(forth(frame + carry, kernels[0]))
            return back(y, kernels[1]), jnp.sum(y)

        last, sums = lax.scan(step, jnp.zeros_like(x[0]), x)
        return jnp.sum(last**2) + jnp.sum(jnp.cos(sums))

    def gradients(forth, back):
        many = jax.tree.map(lambda k: jnp.stack([k, 2 * k]), (0.1 * down, 0.1 * up))
        return jax.jit(jax.vmap(lambda k: jax.grad(loss)(k, x, forth, back)))(many)

    pads = ((1, 1), (1, 1))
    expected = gradients(
        lambda x, k: plain(x, k, 2, pads), lambda x, k: plain_transpose(x, k, 2, 1)
    )
    actual = gradients(lambda x, k: conv2d(x, k, 2), conv_transpose2d)
    assert_same(actual, expected)


@pytest.mark.parametrize(
    "kernel, stride, size", [(3, 1, 7), (5, 1, 4), (4, 2, 8), (5, 2, 6), (1, 2, 4)]
)
def test_default_padding_is_that_of_same_sizes(kernel, stride, size):
    x, k = normal(0, 1, size, size, 2), normal(1, kernel, kernel, 2, 3)
    y = conv2d(x, k, stride)
    assert y.shape == (1, size // stride, size // stride, 3)
    np.testing.assert_allclose(y, plain(x, k, stride, "SAME"), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 8, 12, 17])
@pytest.mark.parametrize("features", [2, 20])
def test_weight_gradient_sums_over_every_image(batch, features):
    x, k = normal(0, batch, 5, 4, 18), normal(1, 3, 3, 18, features)
    pads = ((0, 2), (2, 1))
    expected = value_and_gradients(lambda x, k: plain(x, k, 1, pads), x, k)
    actual = value_and_gradients(lambda x, k: conv2d(x, k, 1, pads), x, k)
    assert_same(actual, expected)


@pytest.mark.parametrize("batch", [18, 24, 32, 34, 48])
def test_weight_gradient_in_groups_for_several_devices(batch, monkeypatch):
    """The groups are another order of the same sum, whatever divides the batch."""
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, 5, 6, 3))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 16))
    weights = jax.random.normal(keys[2], (batch, 5, 6, 16))

    def gradient(function):
        return jax.grad(lambda k: jnp.sum(function(x, k) * weights))(kernel)

    plain = gradient(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    np.testing.assert_allclose(gradient(conv2d), plain, rtol=1e-4, atol=1e-4)
