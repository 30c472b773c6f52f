"""PSNR and SSIM against torchmetrics."""

import numpy as np
import pytest

from jax_vidpred.metrics import frame


@pytest.fixture(scope="module")
def image_metrics():
    """torchmetrics.functional.image, where torchvision lacks compiled operators too."""
    torch = pytest.importorskip("torch", reason="compares with torchmetrics")
    torch.set_num_threads(1)
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        try:
            library.define(name + signature)
        except RuntimeError:  # an operator of a complete torchvision
            continue
    functional = pytest.importorskip("torchmetrics.functional.image")
    yield functional
    del library


def frames(noise):
    """Prediction and target [n, h, w, c], and the same as torch has them."""
    import torch

    rng = np.random.default_rng(0)
    target = rng.random((3, 24, 33, 3), dtype=np.float32)
    change = noise * rng.standard_normal(target.shape).astype(np.float32)
    prediction = np.clip(target + change, 0, 1)
    pair = prediction, target
    return pair, [torch.from_numpy(np.moveaxis(x, -1, 1).copy()) for x in pair]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_ssim_is_that_of_torchmetrics(image_metrics, noise):
    ours, theirs = frames(noise)
    expected = image_metrics.structural_similarity_index_measure(
        *theirs, data_range=1.0, reduction="none"
    )
    computed = frame.ssim(*(x[None] for x in ours), preset="torchmetrics")
    np.testing.assert_allclose(computed[0], expected, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_psnr_is_that_of_torchmetrics(image_metrics, noise):
    ours, theirs = frames(noise)
    expected = image_metrics.peak_signal_noise_ratio(
        *theirs, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )
    computed = frame.psnr(*(x[None] for x in ours))
    np.testing.assert_allclose(computed[0], expected, rtol=1e-5)
    whole = image_metrics.peak_signal_noise_ratio(*theirs, data_range=1.0)
    video = frame.psnr_video(*(x[None] for x in ours))
    np.testing.assert_allclose(video, [whole], rtol=1e-5)
