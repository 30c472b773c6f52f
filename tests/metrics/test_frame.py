"""Frame metrics against scikit-image and against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
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
            "wang-gauss",
            {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
        ),
        ("skimage-default", {}),
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


def ssim_without_padding(x, y):
    """As tf.image.ssim: 2-D window, luminance times contrast, channel by channel."""
    square = (np.arange(11) - 5.0) ** 2 / (2 * 1.5**2)
    window = np.exp(-square[:, None] - square)
    window /= window.sum()
    similarities = []
    for p, q in zip(
        *(np.moveaxis(z, -1, 0).astype(float) for z in (x, y)), strict=True
    ):
        m_p, m_q, m_pq, m_squares = (
            correlate2d(z, window, "valid") for z in (p, q, p * q, p * p + q * q)
        )
        luminance = (2 * m_p * m_q + 0.01**2) / (m_p**2 + m_q**2 + 0.01**2)
        contrast = (2 * m_pq - 2 * m_p * m_q + 0.03**2) / (
            m_squares - m_p**2 - m_q**2 + 0.03**2
        )
        similarities.append((luminance * contrast).mean())
    return np.mean(similarities)


def test_tf_valid_is_the_same_number_as_wang_gauss():
    prediction, target = video_pair()
    computed = frame.ssim(prediction, target, preset="tf-valid")
    expected = per_frame(ssim_without_padding, prediction, target)
    np.testing.assert_allclose(computed, expected, atol=2e-6)
    by_skimage = frame.ssim(prediction, target, preset="wang-gauss")
    np.testing.assert_array_equal(computed, by_skimage)


def test_preset_torchmetrics_counts_mirrored_borders():
    prediction, target = video_pair()
    padded = [
        np.pad(x, [(0, 0)] * 2 + [(5, 5)] * 2 + [(0, 0)], "reflect")
        for x in (prediction, target)
    ]
    computed = frame.ssim(prediction, target, preset="torchmetrics")
    np.testing.assert_allclose(computed, frame.ssim(*padded), atol=2e-6)
    # Damage at the very border: the other presets hardly see it.
    broken = target.copy()
    broken[:, :, :2] = 0.5
    whole, inside = (
        frame.ssim(broken, target, preset=p) for p in ("torchmetrics", "wang-gauss")
    )
    assert (whole < inside - 0.05).all()


@pytest.mark.parametrize("preset", frame.SSIM_PRESETS)
def test_ssim_is_symmetric_and_falls_with_noise(preset):
    prediction, target = video_pair(0.05)
    score = frame.ssim(prediction, target, preset=preset)
    swapped = frame.ssim(target, prediction, preset=preset)
    np.testing.assert_allclose(score, swapped, atol=1e-5)
    np.testing.assert_allclose(
        frame.ssim(target, target, preset=preset), 1.0, atol=1e-6
    )
    worse = frame.ssim(video_pair(0.3)[0], target, preset=preset)
    assert (worse < score - 0.1).all()


def test_ssim_of_some_pixels_is_the_mean_over_the_windows_around_them():
    prediction, target = video_pair(0.1)
    b, t, h, w, _ = target.shape
    whole = jnp.ones((b, t, h, w, 1), bool)
    np.testing.assert_allclose(
        frame.ssim(prediction, target, whole), frame.ssim(prediction, target), rtol=1e-5
    )
    # scikit-image gives the map; its border is cut off as the mean does it.
    expected, mask = [], np.random.default_rng(3).random((b, t, h, w, 1)) < 0.3
    mask[0, 0] = False
    mask[0, 0, 0, 0] = True  # a corner, where no window fits
    for x, y, m in zip(prediction[0], target[0], mask[0], strict=True):
        _, similarity = structural_similarity(
            np.asarray(x),
            np.asarray(y),
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        inner = (slice(5, -5), slice(5, -5))
        inside = m[inner][..., 0]
        expected.append(similarity[inner][inside].mean() if inside.any() else np.nan)
    computed = frame.ssim(prediction, target, jnp.asarray(mask))[0]
    np.testing.assert_allclose(computed, expected, atol=1e-5)
    assert np.isnan(computed[0]) and np.isfinite(computed[1])


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


def test_psnr_of_a_video_pools_before_the_logarithm():
    target = jnp.full((2, 2, 4, 4, 3), 0.5)
    errors = jnp.array([[0.1, 0.01], [0.1, 0.1]]).reshape(2, 2, 1, 1, 1)
    # -10 log10((1e-2 + 1e-4) / 2) = 22.967; the mean of the frames would be 30.
    np.testing.assert_allclose(
        frame.psnr_video(target + errors, target), [22.967, 20], rtol=1e-4
    )
    mask = np.zeros((2, 2, 4, 4, 1), bool)
    mask[0, 0, 0], mask[0, 1] = True, True  # 4 pixels and 16
    pooled = -10 * np.log10((4 * 1e-2 + 16 * 1e-4) / 20)
    computed = frame.psnr_video(target + errors, target, mask)
    np.testing.assert_allclose(computed[0], pooled, rtol=1e-4)
    assert np.isnan(computed[1])


def test_capped_frames_are_counted():
    target = jnp.full((2, 3, 4, 4, 3), 0.5)
    prediction = target.at[0, 1].add(0.1).at[1, :, 0, 0].add(1e-3)
    np.testing.assert_array_equal(frame.capped_frames(prediction, target), [2, 0])
    mask = jnp.ones((2, 3, 4, 4, 1), bool).at[:, 0].set(False).at[:, :, 0, 0].set(False)
    # A frame without a pixel has no PSNR, so no capped one either.
    counts = frame.capped_frames(prediction, target, mask)
    np.testing.assert_array_equal(counts, [1, 2])
    at_cap = frame.psnr(prediction, target) >= frame.PSNR_MAX - 1e-4
    np.testing.assert_array_equal(at_cap.sum(-1), [2, 0])


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
