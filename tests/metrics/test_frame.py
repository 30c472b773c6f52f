"""Frame metrics against scikit-image and against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jax_vidpred.metrics import frame


def video_pair(noise=0.1, shape=(2, 3, 20, 27, 3)):
    rng = np.random.default_rng(0)
    target = rng.random(shape, dtype=np.float32)
    prediction = target + noise * rng.standard_normal(shape).astype(np.float32)
    return np.clip(prediction, 0, 1), target


def per_frame(function, prediction, target):
    return np.array(
        [
            [function(x, y) for x, y in zip(*pair, strict=True)]
            for pair in zip(prediction, target, strict=True)
        ]
    )


def test_psnr_agrees_with_scikit_image():
    prediction, target = video_pair()
    expected = per_frame(
        lambda x, y: peak_signal_noise_ratio(y, x, data_range=1), prediction, target
    )
    np.testing.assert_allclose(frame.psnr(prediction, target), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        (
            "wang",
            {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
        ),
        ("skimage", {}),
    ],
)
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_ssim_agrees_with_scikit_image(preset, options, noise):
    prediction, target = video_pair(noise)
    expected = per_frame(
        lambda x, y: structural_similarity(
            x, y, data_range=1, channel_axis=-1, **options
        ),
        prediction,
        target,
    )
    computed = jax.jit(frame.ssim, static_argnames="preset")(
        prediction, target, preset=preset
    )
    np.testing.assert_allclose(computed, expected, atol=2e-6)


def test_ssim_of_flat_frames_is_the_luminance_term():
    prediction = jnp.full((1, 1, 16, 16, 3), 0.25)
    target = jnp.full((1, 1, 16, 16, 3), 0.5)
    expected = (2 * 0.25 * 0.5 + 1e-4) / (0.25**2 + 0.5**2 + 1e-4)
    np.testing.assert_allclose(frame.ssim(prediction, target), expected, rtol=1e-3)


def test_values_by_hand():
    target = jnp.full((1, 2, 4, 4, 3), 0.5)
    prediction = target + jnp.array([0.1, -0.01]).reshape(1, 2, 1, 1, 1)
    np.testing.assert_allclose(frame.mae(prediction, target), [[0.1, 0.01]], rtol=1e-4)
    np.testing.assert_allclose(frame.mse(prediction, target), [[1e-2, 1e-4]], rtol=1e-4)
    np.testing.assert_allclose(frame.psnr(prediction, target), [[20, 40]], rtol=1e-4)


def test_identical_frames_reach_the_cap_and_predictions_are_clamped():
    target = jnp.ones((1, 1, 4, 4, 3))
    assert frame.psnr(target + 3.0, target).item() == pytest.approx(frame.PSNR_MAX)
    assert frame.mse(target + 3.0, target).item() == 0
    assert frame.mae(target + 3.0, target).item() == 0


def test_mask_selects_the_pixels_that_count():
    prediction, target = video_pair(shape=(1, 2, 6, 8, 3))
    mask = np.zeros((1, 2, 6, 8, 1), bool)
    mask[:, 0, 2:5, 3:4] = True
    expected = np.mean((prediction - target)[0, 0, 2:5, 3:4] ** 2)
    computed = frame.mse(prediction, target, mask)
    np.testing.assert_allclose(computed[0, 0], expected, rtol=1e-5)
    assert np.isnan(computed[0, 1])
    assert np.isnan(frame.psnr(prediction, target, mask)[0, 1])
    whole = np.ones_like(mask)
    np.testing.assert_allclose(
        frame.psnr(prediction, target, whole),
        frame.psnr(prediction, target),
        rtol=1e-5,
    )


def test_moving_pixels_are_where_an_object_was_and_where_it_is():
    video = np.full((1, 3, 8, 8, 3), 0.5, np.float32)
    for t, x in enumerate((1, 4, 4)):  # goes from 1 to 4 and stays there
        video[0, t, 2:4, x : x + 2, 0] = 0.9
    mask = frame.moving_pixels(video[:, 1:], video[:, 0])
    assert mask.shape == (1, 2, 8, 8, 1)
    expected = np.zeros((8, 8), bool)
    expected[2:4, 1:3] = expected[2:4, 4:6] = True
    for t in range(2):
        np.testing.assert_array_equal(mask[0, t, ..., 0], expected)
    copied = np.repeat(video[:, :1], 2, 1)
    moving = frame.mse(copied, video[:, 1:], mask)
    np.testing.assert_allclose(moving, 0.4**2 / 3, rtol=1e-5)


def test_one_example_does_not_touch_another():
    prediction, target = video_pair()
    for metric in (frame.psnr, frame.ssim, frame.mae):
        alone = metric(prediction[1:], target[1:])
        np.testing.assert_allclose(alone[0], metric(prediction, target)[1], rtol=1e-5)


def test_unusable_arguments_are_refused():
    frames = jnp.zeros((1, 1, 10, 32, 3))
    with pytest.raises(ValueError, match="preset='box', expected one of"):
        frame.ssim(frames, frames, preset="box")
    with pytest.raises(ValueError, match="frames of 10x32, expected at least 11x11"):
        frame.ssim(frames, frames)
