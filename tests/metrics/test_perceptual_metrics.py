"""LPIPS as a curve, tLPIPS, tL1 and tOF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.lpips import LPIPS, lpips_distance
from jax_vidpred.metrics import perceptual

motion = jax.jit(perceptual.motion)


def constant_frames(*levels):
    """[1, t, 4, 4, 3], one level each."""
    values = jnp.array(levels, jnp.float32).reshape(1, -1, 1, 1, 1)
    return jnp.broadcast_to(values, (1, len(levels), 4, 4, 3))


def moving_texture(speed, frames=3, size=48, seed=0):
    """[1, frames + 1, size, size, 3], the whole picture moving right by `speed`."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    video = []
    for k in range(frames + 1):
        at = x - speed * k
        waves = [0.37 * at + 0.11 * y, 0.29 * y - 0.13 * at, 0.21 * at + 0.43 * y]
        video.append(sum(np.sin(w + p) for w, p in zip(waves, phases, strict=True)))
    video = 0.5 + 0.15 * np.stack(video)[None, ..., None]
    return jnp.asarray(np.broadcast_to(video, (*video.shape[:-1], 3)))


def test_lpips_is_a_curve_of_the_injected_distance():
    rng = np.random.default_rng(0)
    prediction, target = jnp.asarray(rng.random((2, 2, 3, 4, 4, 3), np.float32))

    def distance(first, second):
        assert first.shape == (6, 4, 4, 3)
        return jnp.square(first - second).sum((1, 2, 3))

    scores = perceptual.lpips(prediction, target, distance)
    expected = np.square(prediction - target).sum((2, 3, 4))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_array_equal(perceptual.lpips(target, target, distance), 0)
    clamped = perceptual.lpips(target + 5, jnp.ones_like(target), distance)
    np.testing.assert_array_equal(clamped, 0)


def test_changes_start_at_the_last_frame_of_the_context():
    video, context = constant_frames(0.5, 0.5, 0.9), constant_frames(0.2)[:, 0]
    changes = perceptual.changes(video, context, perceptual.l1)
    np.testing.assert_allclose(changes, [[0.3, 0.0, 0.4]], atol=1e-6)
    blown = perceptual.changes(video.at[:, 2].set(7.0), context, perceptual.l1)
    np.testing.assert_allclose(blown, [[0.3, 0.0, 0.5]], atol=1e-6)


def test_change_error_by_hand():
    context = constant_frames(0.2)[:, 0]
    truth, prediction = (
        perceptual.changes(constant_frames(*levels), context, perceptual.l1)
        for levels in ((0.3, 0.4, 0.5), (0.2, 0.5, 0.4))
    )
    # Steps of truth 0.1, 0.1, 0.1; of the prediction 0, 0.3, 0.1 (down counts as up).
    error = perceptual.change_error_x100(prediction, truth)
    np.testing.assert_allclose(error, [[10, 20, 0]], atol=1e-4)
    np.testing.assert_array_equal(perceptual.change_error_x100(truth, truth), 0)


def test_flicker_costs_and_an_offset_does_not():
    video = moving_texture(1.0)
    context, truth = video[:, 0], video[:, 1:]

    def change_error(prediction, context=context):
        changes = perceptual.changes(prediction, context, perceptual.l1)
        true = perceptual.changes(truth, video[:, 0], perceptual.l1)
        return perceptual.change_error_x100(changes, true).mean()

    assert change_error(truth + 0.02, context + 0.02) < 1e-4
    flicker = jnp.array([0.1, -0.1, 0.1]).reshape(1, 3, 1, 1, 1)
    assert change_error(truth + flicker) > 5
    assert change_error(jnp.repeat(context[:, None], 3, 1)) > 1


@pytest.mark.slow
def test_lpips_of_the_package_fits_in():
    frames = jnp.asarray(np.random.default_rng(0).random((1, 3, 32, 32, 3), np.float32))
    params = LPIPS("alex").init(jax.random.key(0), frames[0], frames[0])["params"]
    distance = lpips_distance(params, "alex")
    scores = perceptual.lpips(frames[:, ::-1], frames, distance)
    assert scores.shape == (1, 3) and scores[0, 1] == 0 and scores[0, 0] > 0
    changes = perceptual.changes(frames[:, 1:], frames[:, 0], distance)
    np.testing.assert_allclose(
        changes[0, 0], distance(frames[0, :1], frames[0, 1:2])[0]
    )


def test_grey_levels_are_those_of_opencv():
    colours = jnp.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 77]]) / 255
    # cv2.cvtColor(..., cv2.COLOR_RGB2GRAY), by OpenCV 5.0.0
    np.testing.assert_array_equal(perceptual.grey_levels(colours), [76, 150, 29, 129])


def test_motion_error_by_hand():
    truth = jnp.zeros((1, 2, 2, 2, 2))
    prediction = truth.at[0, 1, 0, 0].set(jnp.array([3.0, 4.0]))
    error = perceptual.motion_error(prediction, truth)
    np.testing.assert_allclose(error, [[0, 5 / 4]])
    shift = jnp.full_like(truth, 2.0)
    np.testing.assert_allclose(
        perceptual.motion_error(prediction + shift, truth + shift), error, rtol=1e-6
    )


def test_motion_error_is_the_difference_of_speeds():
    video = moving_texture(1.0)
    true = motion(video[:, 1:], video[:, 0])
    assert true.shape == (1, 3, 48, 48, 2)
    inside = true[0, :, 16:-16, 16:-16]
    np.testing.assert_allclose(inside.mean((1, 2)), [[1, 0]] * 3, atol=0.02)

    def error(prediction):
        found = motion(prediction, video[:, 0])
        return float(perceptual.motion_error(found, true).mean())

    assert error(video[:, 1:]) == 0
    frozen = error(jnp.repeat(video[:, :1], 3, 1))
    assert frozen == pytest.approx(1.0, abs=0.1)
    faster, backwards = (error(moving_texture(s)[:, 1:]) for s in (1.5, -1.0))
    assert 0.4 < faster < 0.6 < frozen < backwards
    assert backwards == pytest.approx(2.0, abs=0.2)


def test_one_video_does_not_touch_another():
    videos = jnp.concatenate([moving_texture(1.0), moving_texture(-0.5, seed=1)])
    together = motion(videos[:, 1:], videos[:, 0])
    alone = motion(videos[1:, 1:], videos[1:, 0])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4)
