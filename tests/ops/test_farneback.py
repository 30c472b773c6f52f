"""Farneback's flow: known motions, invariances, numbers of OpenCV."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import farneback as ops

H, W = 64, 72
farneback = jax.jit(ops.farneback)
# (row, column): flow of `pair(2.2, -1.4)` there, by OpenCV 5.0.0.
OPENCV = {
    (0, 0): (2.14493, -1.06953),
    (2, 40): (2.17426, -1.36612),
    (63, 71): (1.80009, -1.10661),
    (31, 3): (2.19160, -1.38679),
    (30, 33): (2.20316, -1.40050),
}


def texture(shift_x=0.0, shift_y=0.0, height=H, width=W):
    """A smooth picture whose content lies (shift_x, shift_y) further right and down."""
    y, x = np.mgrid[:height, :width] - np.array([shift_y, shift_x]).reshape(2, 1, 1)
    waves = np.sin(0.37 * x + 0.11 * y) + np.sin(0.29 * y - 0.13 * x + 1)
    waves += 0.5 * np.sin(0.21 * x + 0.43 * y + 2)
    return (128 + 40 * waves).astype(np.float32)


def pair(*shift):
    return jnp.asarray(np.stack([texture(), texture(*shift)])[None])


@pytest.mark.parametrize(
    # The last one is too far for the full resolution alone.
    "shift",
    [(1.3, -0.7), (0.0, 2.5), (5.0, 3.0)],
)
def test_a_shift_is_found_as_forward_flow(shift):
    flow = np.asarray(farneback(pair(*shift)))[0, 0, 16:-16, 16:-16]
    np.testing.assert_allclose(flow.mean((0, 1)), shift, atol=5e-3)
    assert np.abs(flow - np.array(shift)).max() < 0.02


def test_two_objects_move_in_their_own_ways():
    first, second = texture(), texture()
    second[:, : W // 2] = texture(1.0, 0.0)[:, : W // 2]
    second[:, W // 2 :] = texture(0.0, -1.0)[:, W // 2 :]
    flow = farneback(jnp.stack([first, second])[None])[0, 0]
    np.testing.assert_allclose(flow[20:-20, 12:20].mean((0, 1)), [1, 0], atol=0.1)
    np.testing.assert_allclose(flow[20:-20, -20:-12].mean((0, 1)), [0, -1], atol=0.1)


def test_every_step_of_a_video_is_that_of_its_pair():
    video = np.stack([texture(k * k / 2, -k / 3) for k in range(3)])
    videos = jnp.asarray(np.stack([video, video[::-1]]))
    flow = farneback(videos)
    assert flow.shape == (2, 2, H, W, 2)
    for k in range(2):
        alone = farneback(videos[1:, k : k + 2])
        np.testing.assert_allclose(flow[1, k], alone[0, 0], atol=1e-4)


def test_brightness_does_not_matter_and_axes_are_alike():
    frames = pair(1.3, -0.7)
    flow = farneback(frames)
    np.testing.assert_allclose(farneback(frames + 20), flow, atol=1e-3)
    turned = farneback(frames.swapaxes(2, 3)).swapaxes(2, 3)[..., ::-1]
    np.testing.assert_allclose(turned, flow, atol=1e-3)


def test_what_does_not_change_does_not_flow():
    still = farneback(pair(0.0, 0.0))[0, 0]
    np.testing.assert_allclose(still[16:-16, 16:-16], 0, atol=1e-5)
    assert jnp.abs(still).max() < 0.1  # the last row and column count as outside
    flat = jnp.full((1, 2, H, W), 100.0)
    np.testing.assert_allclose(farneback(flat.at[:, 1].add(5)), 0, atol=1e-4)


def test_motion_of_faint_pictures_is_lost():
    # 255 levels squeezed into [0, 1]: the regulariser outweighs what is seen.
    found = jnp.abs(farneback(pair(1.0, 0.0)))[..., 0].mean()
    faint = jnp.abs(farneback(pair(1.0, 0.0) / 255))[..., 0].mean()
    assert faint < 0.5 * found


def test_corners_borders_and_inside_are_those_of_opencv():
    flow = farneback(pair(2.2, -1.4))[0, 0]
    for (y, x), expected in OPENCV.items():
        np.testing.assert_allclose(flow[y, x], expected, atol=1e-4)


def test_frames_that_are_all_border_are_refused():
    with pytest.raises(ValueError, match="frames of 64x9; .* 10 pixels a side"):
        ops.farneback(jnp.zeros((1, 2, 64, 9)))
