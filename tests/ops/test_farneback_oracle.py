"""Farneback's flow against OpenCV's, with all levels of its pyramid and odd sizes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.farneback import farneback

PARAMETERS = (0.5, 3, 15, 3, 5, 1.2, 0)


def video(height, width, frames=3):
    """Blurred noise below, a disc of other noise that moves over it; 8-bit levels."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.normal(size=(2, height, width)))
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    spectrum *= np.exp(-200 * (rows[:, None] ** 2 + columns**2))
    floor, disc = np.fft.irfft2(spectrum, (height, width))
    y, x = np.mgrid[:height, :width]
    result = []
    for k in range(frames):
        centre_y, centre_x = height // 2 - k, width // 3 + 4 * k
        inside = np.hypot(y - centre_y, x - centre_x) < min(height, width) / 4
        result.append(np.where(inside, np.roll(disc, (-k, 4 * k), (0, 1)), floor))
    result = np.stack(result)
    return np.rint(128 + 30 * result / result.std()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "height, width",
    [
        (64, 64),
        (128, 128),
        (75, 101),
        (30, 40),
        (20, 24),
        pytest.param(260, 300, marks=pytest.mark.slow),
    ],
)
def test_flow_is_that_of_opencv(height, width):
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    frames = video(height, width)
    expected = np.stack(
        [
            cv2.calcOpticalFlowFarneback(first, second, None, *PARAMETERS)
            for first, second in zip(frames[:-1], frames[1:], strict=True)
        ]
    )
    if height > 20:
        assert np.linalg.norm(expected, axis=-1).max() > 3
    computed = farneback(jnp.asarray(frames[None], jnp.float32))[0]
    # At the border rounding decides what lies inside; OpenCV's own flow of its input
    # times 1 + 1e-6 differs there by 0.08 pixels, in as many places.
    errors = np.linalg.norm(computed - expected, axis=-1)
    assert errors.mean() < 5e-4 and errors.max() < 0.1
    assert np.median(errors) < 1e-5 and errors[:, 16:-16, 16:-16].max(initial=0) < 1e-3
