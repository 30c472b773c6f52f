"""Baselines: exact where the world fulfils what they assume."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.metrics.frame import psnr
from jax_vidpred.systems import baselines

SIZE, CELL, FLOOR = 32, 4, 0.5


def square_video(corner, velocity, num_frames, side=9):
    """[1, t, h, w, 3]: a coloured square that moves by whole pixels; its flow [t, ...].

    The flow of a cell is that of what covers most of it, as in the data set.
    """
    video = np.full((1, num_frames, SIZE, SIZE, 3), FLOOR, np.float32)
    texture = np.random.default_rng(0).uniform(size=(side, side, 3))
    cells = SIZE // CELL
    flow = np.zeros((num_frames, cells, cells, 2), np.float32)
    for t in range(num_frames):
        x, y = (int(c + t * v) for c, v in zip(corner, velocity, strict=True))
        video[0, t, y : y + side, x : x + side] = texture
        covered = np.zeros((SIZE, SIZE))
        covered[y : y + side, x : x + side] = 1
        share = covered.reshape(cells, CELL, cells, CELL).mean((1, 3))
        flow[t, share > 0.5] = -np.array(velocity) / CELL
    return video, flow


def test_copy_last_repeats_the_last_frame():
    context = np.random.default_rng(0).uniform(size=(2, 3, 4, 5, 3)).astype("f4")
    copied = baselines.copy_last(jnp.asarray(context), 4)
    assert copied.shape == (2, 4, 4, 5, 3)
    for t in range(4):
        np.testing.assert_array_equal(copied[:, t], context[:, -1])


@pytest.mark.parametrize("corner", [(4, 8), (5, 10), (6, 9)])
def test_a_moving_square_moves_on_whole(corner):
    """Wherever its rim lies within the cells of the grid."""
    video, flow = square_video(corner, (2, 1), num_frames=9)
    video[:, :4] = FLOOR  # so that most of the context shows what is behind
    context, future = video[:, :6], video[:, 6:9]
    predicted = baselines.constant_velocity(
        jnp.asarray(context), jnp.asarray(flow[None, 5]), 3
    )
    reached = np.asarray(psnr(predicted, jnp.asarray(future)))[0]
    copied = np.asarray(psnr(baselines.copy_last(context, 3), jnp.asarray(future)))[0]
    # The interior of the square, two pixels from the rim, is exact.
    x, y = corner[0] + 2 * 8, corner[1] + 8
    inside = np.s_[2, y + 2 : y + 7, x + 2 : x + 7]
    np.testing.assert_allclose(predicted[0][inside], future[0][inside], atol=1e-5)
    assert (reached > copied + 6).all()
    assert (reached > 28).all()


def test_without_motion_nothing_changes():
    context = np.random.default_rng(0).uniform(size=(1, 3, 8, 8, 3)).astype("f4")
    flow = jnp.zeros((1, 2, 2, 2))
    predicted = baselines.constant_velocity(jnp.asarray(context), flow, 2)
    np.testing.assert_allclose(predicted, baselines.copy_last(context, 2), atol=1e-6)


def test_what_leaves_the_picture_leaves_the_floor_behind():
    video, flow = square_video((20, 8), (1, 0), num_frames=3)
    context = np.full((1, 7, SIZE, SIZE, 3), FLOOR, np.float32)
    context[:, -1] = video[:, -1]
    predicted = baselines.constant_velocity(
        jnp.asarray(context), jnp.asarray(flow[None, -1] * 20), 1
    )
    np.testing.assert_allclose(predicted, FLOOR, atol=1e-5)
