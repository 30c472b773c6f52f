"""What a result stands for: enough to tell whether two may be compared."""

import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_vidpred.evaluation.perceptual import FVD_FRAMES
from jax_vidpred.evaluation.settings import Settings
from jax_vidpred.metrics import collision, protocol

RESIZE = "area"  # how frames came to their size: the mean of what a pixel covers


def manifest(
    settings: Settings,
    *,
    split: str,
    clips: protocol.Clips,
    frames_sha256: str,
    annotations_sha256: str,
    networks: Mapping[str, str],
    workdir: str,
    parameters: str,
) -> dict[str, dict[str, Any]]:
    """What must agree between results that are compared, and what is this one's own.

    Args:
      settings: of the evaluation.
      split: which videos.
      clips: that were scored.
      frames_sha256, annotations_sha256: of their true frames, as they were scored on,
        and of what is known of them besides.
      networks: metric -> fingerprint of the network that it uses.
      workdir, parameters: of the system: its place, and fingerprint of what it learned.
    """
    comparable = {
        key: getattr(settings, key)
        for key in ("protocol", "height", "width", "stride", "num_context")
    }
    return {
        "comparable": {
            **comparable,
            "num_future": settings.num_future,
            "split": split,
            "resize": RESIZE,
            "clips_sha256": protocol.clips_hash(clips),
            "frames_sha256": frames_sha256,
            "annotations_sha256": annotations_sha256,
            "metrics": {**variants(settings), **networks},
        },
        "own": {
            "workdir": workdir,
            "parameters": parameters,
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "version": importlib.metadata.version("jax_vidpred"),
            "sources_sha256": sources_hash(),
        },
    }


def variants(settings: Settings) -> dict[str, str]:
    """Which of several definitions in use each metric has."""
    return {
        "psnr": "mean over frames, capped at 100 dB",
        "ssim": settings.ssim,
        "crps": f"{settings.num_samples} samples",
        "spread_variance": f"{settings.num_samples} samples",
        "iou_tracked": "appearance tracker 1",
        "physics": "tracks of silhouettes, hidden parts allowed for",
        "tof": "Farneback (.5, 3, 15, 3, 5, 1.2), whole frames, from the last context",
        "collision_f1": f"+-{collision.TOLERANCE} raw frames, after the context",
        "fvd": f"tf preprocessing, windows of {FVD_FRAMES} frames, the last ones",
    }


@functools.cache
def sources_hash() -> str:
    """SHA-256 of the package's own source files, which a version number does not tell.

    Sixteen digits; names and contents in order of the names.
    """
    root = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
