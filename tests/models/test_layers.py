"""Layers: sizes, starting points, one step of the recurrent cell by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.layers.conv import Conv, ConvTranspose, ResidualBlock
from jax_vidpred.models.layers.convlstm import ConvLSTMCell

KEY = jax.random.key(0, impl="rbg")  # initialisers compile five times faster


@pytest.mark.parametrize(
    "layer, size, expected",
    [
        (Conv(5), (6, 7), (6, 7)),
        (Conv(5, kernel=4, stride=2), (6, 8), (3, 4)),
        (ConvTranspose(5), (3, 4), (6, 8)),
        (ConvTranspose(5, kernel=5, stride=3), (3, 4), (9, 12)),
    ],
)
def test_sizes(layer, size, expected):
    out = jax.eval_shape(layer.init_with_output, KEY, _zeros(size))[0]
    assert out.shape == (2, *expected, 5)


def _zeros(size):
    return jnp.zeros((2, *size, 3))


def test_bias_is_what_a_silent_head_says():
    head = Conv(2, kernel_init=jax.nn.initializers.zeros, bias=1.5)
    x = jax.random.normal(KEY, (1, 4, 4, 3))
    y, variables = head.init_with_output(KEY, x)
    np.testing.assert_array_equal(y, np.full((1, 4, 4, 2), 1.5))
    assert variables["params"]["kernel"].shape == (3, 3, 3, 2)


def test_residual_block_starts_as_the_identity_and_learns():
    block, x = ResidualBlock(8), jax.random.normal(KEY, (1, 4, 4, 3))
    y, variables = block.init_with_output(KEY, x)
    np.testing.assert_array_equal(y, x)
    gradient = jax.grad(lambda v: jnp.sum(block.apply(v, x) ** 2))(variables)
    assert np.any(gradient["params"]["Conv_1"]["kernel"])


def test_computation_type_leaves_parameters_in_float32():
    block, x = ResidualBlock(4, dtype=jnp.bfloat16), jnp.ones((1, 4, 4, 4))
    y, variables = block.init_with_output(KEY, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_convlstm_step_by_hand():
    cell, (b, h, w, d) = ConvLSTMCell(2, forget_bias=1.0), (1, 3, 4, 2)
    rng = np.random.default_rng(0)
    x, c, hidden = (jnp.float32(rng.normal(size=(b, h, w, n))) for n in (3, d, d))
    variables = cell.init(KEY, (c, hidden), x)
    bias = jnp.float32(rng.normal(size=8))
    kernel = jnp.float32(rng.normal(size=(3, 3, 5, 8)))
    gates = {"kernel": kernel, "bias": bias}
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "gates": jax.tree.map(jnp.shape, gates)
    }
    (new_c, new_hidden), out = cell.apply({"params": {"gates": gates}}, (c, hidden), x)
    both = np.pad(np.concatenate([x, hidden], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    pre = np.asarray(bias) + sum(
        both[:, i : i + h, j : j + w] @ np.asarray(kernel[i, j])
        for i, j in np.ndindex(3, 3)
    )
    i, f, g, o = np.split(pre, 4, -1)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    wanted = sigmoid(f + 1) * np.asarray(c) + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(new_c, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        new_hidden, sigmoid(o) * np.tanh(wanted), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(out, new_hidden)
