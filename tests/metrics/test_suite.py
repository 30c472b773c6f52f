"""All that needs no weights, in one call: what perfect and frozen videos score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.metrics import suite

SIZE, STEPS = 24, 7


def moving_ball():
    """A soft disc that crosses the picture: [1, STEPS + 1, h, w, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    frames = [
        0.4 + 0.5 * np.exp(-((x - 5 - 2 * t) ** 2 + (y - 12) ** 2) / 18)
        for t in range(STEPS + 1)
    ]
    return jnp.asarray(np.stack(frames)[None, ..., None].repeat(3, -1), jnp.float32)


@pytest.fixture(scope="module")
def score():
    video = moving_ball()
    truth, last = video[:, 1:], video[:, 0]
    steps = jax.jit(suite.true_steps)(truth, last)
    scored = jax.jit(suite.frame_scores)
    return lambda prediction: jax.device_get(scored(prediction, truth, last, steps))


def test_the_truth_is_perfect(score):
    told = score(moving_ball()[:, 1:])
    assert (told["psnr"] == 100).all() and told["capped_frames"] == STEPS
    assert told["tof"].max() < 1e-6 and told["tl1_x100"].max() < 1e-6
    assert told["motion_ratio"] == told["acceleration_ratio"] == 1
    np.testing.assert_allclose(told["ssim"], 1, atol=1e-5)
    assert told["smoothness"] > 0.98


def test_a_frozen_video_wins_what_does_not_look_at_motion(score):
    frozen = jnp.repeat(moving_ball()[:, :1], STEPS, 1)
    told = score(frozen)
    assert told["smoothness"] == told["flickering"] == 1
    assert told["acceleration_ratio"] < 0.2
    assert told["motion_ratio"] < 0.05  # and this is why it stands beside them
    assert (np.diff(told["psnr"][0]) < 0).all()


def test_moving_pixels_are_pooled_over_the_frames_of_a_clip(score):
    video = np.asarray(moving_ball())
    prediction = np.clip(
        video[:, 1:] + np.linspace(0, 0.1, STEPS)[:, None, None, None], 0, 1
    )
    error = prediction - video[:, 1:]
    moving = (np.abs(video[:, 1:] - video[:, :1]) > 0.03).any(-1)
    told = score(jnp.asarray(prediction, jnp.float32))
    np.testing.assert_allclose(
        told["mae_moving"], np.abs(error[moving]).mean(), rtol=1e-4
    )
    mse = (error[moving] ** 2).mean()
    np.testing.assert_allclose(told["mse_moving"], mse, rtol=1e-4)
    np.testing.assert_allclose(told["psnr_moving"], -10 * np.log10(mse), rtol=1e-4)


def test_one_frame_is_scored_as_far_as_it_can_be():
    video = moving_ball()[:, :2]
    shapes = jax.eval_shape(
        lambda v: suite.frame_scores(
            v[:, 1:], v[:, 1:], v[:, 0], suite.true_steps(v[:, 1:], v[:, 0])
        ),
        video,
    )
    assert shapes["tof"].shape == (1, 1) and "smoothness" not in shapes


@pytest.mark.slow
def test_without_motion_there_is_no_ratio():
    still = jnp.full((1, 3, SIZE, SIZE, 3), 0.5)
    steps = suite.true_steps(still, still[:, 0])
    told = suite.frame_scores(still, still, still[:, 0], steps)
    assert np.isnan(told["motion_ratio"][0]) and np.isnan(told["psnr_moving"][0])
