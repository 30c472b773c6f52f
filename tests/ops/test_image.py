"""Value range, sub-pixel layout and averaging of images."""

import jax.numpy as jnp
import numpy as np

from jax_vidpred.ops.image import (
    area_mean,
    depth_to_space,
    space_to_depth,
    to_float,
    to_uint8,
)


def test_all_bytes_survive_the_way_to_float_and_back():
    every = jnp.arange(256, dtype=jnp.uint8)
    values = to_float(every)
    assert values.dtype == jnp.float32 and values[0] == 0 and values[-1] == 1
    np.testing.assert_array_equal(to_uint8(values), every)
    assert to_float(values) is values


def test_bytes_are_the_nearest_ones_within_the_range():
    values = jnp.array([-3.0, 0.5 / 255 + 1e-4, 0.4 / 255, 254.6 / 255, 2.0])
    np.testing.assert_array_equal(to_uint8(values), [0, 1, 0, 255, 255])


def test_depth_to_space_puts_channels_row_by_row_into_the_block():
    x = jnp.arange(2.0 * 3 * 8).reshape(1, 2, 3, 8)
    y = depth_to_space(x, 2)
    assert y.shape == (1, 4, 6, 2)
    for row, column in np.ndindex(2, 2):
        channels = slice(2 * (2 * row + column), 2 * (2 * row + column) + 2)
        np.testing.assert_array_equal(y[:, row::2, column::2], x[..., channels])


def test_space_to_depth_is_the_inverse_of_depth_to_space():
    x = jnp.arange(2.0 * 3 * 4 * 18).reshape(2, 3, 4, 18)
    y = depth_to_space(x, 3)
    np.testing.assert_array_equal(space_to_depth(y, 3), x)


def test_area_mean_of_whole_blocks():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    blocks = x.reshape(2, 2, 2, 2, 3, 3).mean((2, 4))
    np.testing.assert_allclose(area_mean(x, 2, 2), blocks, rtol=1e-6)
    np.testing.assert_allclose(area_mean(x, 4, 6), x, rtol=1e-6)


def test_area_mean_shares_pixels():
    # Three pixels on two: each takes one and a half.
    x = jnp.array([0.0, 3.0, 9.0]).reshape(1, 3, 1)
    np.testing.assert_allclose(area_mean(x, 1, 2).ravel(), [1.0, 7.0], rtol=1e-6)
    np.testing.assert_allclose(
        area_mean(x.reshape(3, 1, 1), 2, 1).ravel(), [1.0, 7.0], rtol=1e-6
    )
