"""Scores of frozen networks: of frames, of videos, and features of whole sets."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jax_vidpred.evaluation.networks import Networks
from jax_vidpred.metrics import consistency, fvd, perceptual
from jax_vidpred.ops.image import to_float
from jax_vidpred.report.table import TRUTH

FVD_FRAMES = 16  # that I3D sees at once: the clip's last ones, with context if need be

Rows = dict[str, dict[str, np.ndarray]]


def add_scores(
    scores: Rows,
    videos: Mapping[str, np.ndarray],
    video: np.ndarray,
    num_context: int,
    networks: Networks,
) -> Rows:
    """Adds what the networks say to the scores of each system.

    Of each frame `lpips_NET` and `tlpips_x100_NET`; of each clip `vbench_subject` and
    `vbench_background` (raw, with the last frame of the context as frame 0).

    Args:
      scores: system -> metric -> [b] or [b, t].
      videos: system -> predicted frames [b, t, h, w, 3].
      video: uint8 [b, num_context + t, h, w, 3], context and true future.
      num_context: frames of the context.
      networks: those that are there.

    Returns:
      system or TRUTH -> network of `networks.videos` -> features [b, k, d] of its k
      windows of FVD_FRAMES; empty where clips are shorter.
    """
    if not (networks.distances or networks.embeddings or networks.videos):
        return {}
    known = to_float(jnp.asarray(video))
    last, future = known[:, num_context - 1], known[:, num_context:]
    true_changes = {
        name: perceptual.changes(future, last, distance)
        for name, distance in networks.distances.items()
    }
    features: Rows = {}
    shown = {TRUTH: future, **videos} if networks.videos else videos
    for system, frames in shown.items():
        frames = jnp.asarray(frames)
        if networks.videos and known.shape[1] >= FVD_FRAMES:
            whole = jnp.concatenate([known[:, :num_context], frames], 1)
            # The last windows, and none of context alone.
            count = -(-frames.shape[1] // FVD_FRAMES)
            whole = whole[:, -min(count, whole.shape[1] // FVD_FRAMES) * FVD_FRAMES :]
            features[system] = {
                name: _of_windows(network, whole)
                for name, network in networks.videos.items()
            }
        if system == TRUTH:
            continue
        for name, distance in networks.distances.items():
            net = name.removeprefix("lpips_")
            own = perceptual.changes(frames, last, distance)
            scores[system][name] = perceptual.lpips(frames, future, distance)
            scores[system][f"tlpips_x100_{net}"] = perceptual.change_error_x100(
                own, true_changes[name]
            )
        seen = jnp.concatenate([last[:, None], jnp.clip(frames, 0, 1)], 1)
        for name, embed in networks.embeddings.items():
            vectors = embed(seen.reshape(-1, *seen.shape[2:]))
            vectors = vectors.reshape(*seen.shape[:2], -1)
            scores[system][name] = consistency.feature_consistency(vectors)
    return features


def _of_windows(network, video):
    """One clip at a time: I3D wants 224 x 224 pixels of every frame."""
    rows = [
        network(fvd.tf_input(fvd.windows(clip[None], FVD_FRAMES))) for clip in video
    ]
    return np.stack([np.asarray(row) for row in rows])
