"""Counting of arithmetic."""

import jax
import jax.numpy as jnp
import pytest

from jax_vidpred.ops.conv import conv2d, conv_transpose2d
from jax_vidpred.train import flop

IMAGES = jnp.ones((2, 12, 10, 3))
KERNEL = jnp.ones((4, 4, 3, 5))


def test_matrix_product():
    product = flop.count_flop(jnp.matmul, jnp.ones((2, 7, 3)), jnp.ones((3, 5)))
    assert product == 2 * 2 * 7 * 3 * 5


def test_loop_counts_every_turn_and_branch_the_longest():
    matrix = jnp.ones((4, 4))

    def turns(x):
        return jax.lax.scan(lambda x, _: (x @ matrix, None), x, length=9)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ matrix @ matrix, jnp.sin, x)

    one = 2 * 4**3
    assert flop.count_flop(turns, matrix) == 9 * one
    assert flop.count_flop(branch, matrix) == 2 * one
    # Nobody reads it: XLA drops it too.
    assert flop.count_flop(lambda x: (x @ matrix, x + 1)[1], matrix) == 0


def forward(x, k):
    return conv2d(x, k, 2)


def gradient(x, k):
    return jax.grad(lambda x, k: (conv2d(x, k, 2) ** 2).sum(), (0, 1))(x, k)


def gradient_of_transposed(x, k):
    return jax.grad(lambda x, k: (conv_transpose2d(x, k) ** 2).sum(), (0, 1))(x, k)


@pytest.mark.parametrize("function", [forward, gradient, gradient_of_transposed])
def test_convolutions_agree_with_the_compiler(function):
    counted = flop.count_flop(function, IMAGES, KERNEL)
    analysis = jax.jit(function).lower(IMAGES, KERNEL).compile().cost_analysis()
    # The compiler counts the elementwise work too, here about a hundredth.
    assert counted == pytest.approx(analysis["flops"], rel=0.03)


def test_convolution_by_hand():
    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # 6 x 5 outputs; of their 4 x 4 taps, those in the border of 1 are no work.
    taps = (4 * 6 - 2) * (4 * 5 - 2)
    assert flop.count_flop(convolve, IMAGES, KERNEL) == 2 * 2 * taps * 3 * 5
