"""FVD: its value, interval and extrapolation on known normals, and its input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.i3d import I3D
from jax_vidpred.metrics import fvd as metric
from jax_vidpred.ops.frechet import frechet_distance

VARIANCES = np.linspace(0.3, 2, 8)
TRUE = frechet_distance(
    np.zeros(8), np.diag(VARIANCES), np.full(8, 0.2), np.diag(1.5 * VARIANCES)
)


def pair(n, seed=0, correlation=0.8):
    """Features of clips and of their predictions; the distance of both is TRUE."""
    rng = np.random.default_rng(seed)
    first, noise = rng.standard_normal((2, n, 8))
    second = correlation * first + np.sqrt(1 - correlation**2) * noise
    scale = np.sqrt(VARIANCES)
    return first * scale, second * scale * np.sqrt(1.5) + 0.2


def test_of_many_clips_is_the_distance_of_the_distributions():
    assert metric.fvd(*pair(100_000)) == pytest.approx(TRUE, rel=0.02)


def test_by_hand():
    # One feature of means 1 and 4, and variances 1 and 9: (4 - 1)^2 + (3 - 1)^2.
    real = np.array([[0.0], [1.0], [2.0]])
    generated = np.array([[1.0], [4.0], [7.0]])
    assert metric.fvd(real, generated) == pytest.approx(13)


def test_order_of_clips_and_of_sets_does_not_matter():
    real, generated = pair(50)
    value = metric.fvd(real, generated)
    assert metric.fvd(real[::-1], generated) == pytest.approx(value)
    assert metric.fvd(generated, real) == pytest.approx(value)
    assert metric.fvd(real, real) == pytest.approx(0, abs=1e-10)


def test_worse_videos_and_fewer_clips_score_higher():
    real, generated = pair(400)
    value = metric.fvd(real, generated)
    assert metric.fvd(real, generated + 0.3) > value
    few = [metric.fvd(*pair(20, seed)) for seed in range(10)]
    assert np.mean(few) > 1.2 * value


def test_the_extrapolation_takes_the_bias_of_few_clips_away():
    results = [(metric.fvd(*p), metric.fvd_extrapolated(*p)) for p in SETS]
    plain, extrapolated = np.mean(results, 0)
    assert plain > 1.1 * TRUE
    assert extrapolated == pytest.approx(TRUE, rel=0.05)


def test_the_interval_has_the_width_of_new_clips():
    scatter = np.std([metric.fvd(*p) for p in SETS])
    intervals = [metric.fvd_interval(*p, num_samples=60) for p in SETS[:10]]
    width = np.mean([high - low for low, high in intervals]) / (2 * 1.96)
    assert scatter < 1.2 * width < 2 * scatter
    # It lies around the value, not above it as the draws do.
    middles = [
        np.mean(i) - metric.fvd(*p) for i, p in zip(intervals, SETS[:10], strict=True)
    ]
    assert abs(np.mean(middles)) < 0.3 * width


def test_a_clip_is_drawn_with_its_prediction():
    real, _ = pair(50)
    interval = metric.fvd_interval(real, real, num_samples=5)
    np.testing.assert_allclose(interval, (0, 0), atol=1e-10)


SETS = [pair(120, seed) for seed in range(60)]


def test_the_name_carries_what_the_value_depends_on():
    assert metric.metric_key("i3d", 16, 2048) == "fvd_i3d_16f_n2048"


def test_too_few_clips_and_unlike_sets_are_refused():
    real, generated = pair(20)
    with pytest.raises(ValueError, match="FVD of 8 clips with 8 features.*at least 9"):
        metric.fvd(real, generated[:8])
    assert metric.fvd(real, generated[:9]) > 0
    with pytest.raises(ValueError, match="17 clips and 8 features.*at least 18"):
        metric.fvd_extrapolated(real[:17], generated[:17])
    assert np.isfinite(metric.fvd_extrapolated(real[:18], generated[:18]))
    with pytest.raises(ValueError, match="8 and 5 features"):
        metric.fvd(real, generated[:, :5])
    with pytest.raises(ValueError, match=r"\(20, 8\) and \(12, 8\).*the same clips"):
        metric.fvd_interval(real, generated[:12])
    with pytest.raises(ValueError, match="not finite"):
        metric.fvd(real, np.where(generated > 1, np.nan, generated))


def test_windows_follow_each_other_and_leave_out_the_rest():
    video = jnp.arange(2 * 7).reshape(2, 7, 1, 1, 1) * jnp.ones((1, 1, 2, 3, 3))
    clips = metric.windows(video, 3)
    assert clips.shape == (4, 3, 2, 3, 3)
    np.testing.assert_array_equal(
        clips[:, :, 0, 0, 0], [[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]]
    )
    with pytest.raises(ValueError, match="videos of 7 frames; a clip wants 16"):
        metric.windows(video, 16)


def first_resizing(image, size):
    """TensorFlow 1's resize_bilinear(align_corners=False), pixel by pixel."""
    h, w, _ = image.shape
    result = np.empty((size, size, 3))
    for i in range(size):
        for j in range(size):
            y, x = i * h / size, j * w / size
            top, left = int(y), int(x)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            down, across = y - top, x - left
            upper = image[top, left] * (1 - across) + image[top, right] * across
            lower = image[below, left] * (1 - across) + image[below, right] * across
            result[i, j] = upper * (1 - down) + lower * down
    return result


def test_input_is_that_of_the_first_implementation():
    rng = np.random.default_rng(0)
    for shape in [(64, 48), (300, 224)]:
        video = rng.random((1, 1, *shape, 3), dtype=np.float32)
        computed = np.asarray(metric.tf_input(jnp.asarray(video)))[0, 0]
        expected = 2 * first_resizing(video[0, 0], 224) - 1
        np.testing.assert_allclose(computed, expected, atol=2e-6)
    # 7 pixels of the result lie on 2 of the picture, the corners on each other.
    video = rng.random((1, 1, 64, 64, 3), dtype=np.float32)
    computed = np.asarray(metric.tf_input(jnp.asarray(video)))
    np.testing.assert_allclose(
        computed[:, :, ::7, ::7], 2 * video[:, :, ::2, ::2] - 1, atol=1e-6
    )


def test_input_is_clamped():
    values = metric.tf_input(jnp.array([-1.0, 2.0]).reshape(1, 2, 1, 1, 1) + JUST_RGB)
    np.testing.assert_array_equal(values[0, :, 0, 0], [[-1] * 3, [1] * 3])


JUST_RGB = jnp.zeros((1, 1, 4, 4, 3))


def test_input_fits_the_network():
    def features(video):
        clips = metric.tf_input(metric.windows(video, 16))
        variables = I3D().init(jax.random.key(0), clips)
        return I3D().apply(variables, clips)

    video = jax.ShapeDtypeStruct((2, 42, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(features, video).shape == (4, 400)
