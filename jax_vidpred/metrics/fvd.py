"""Frechet video distance: how far apart two sets of videos lie, seen by a network.

FVD depends on the network, on the number of frames and on the number of clips (few
clips: larger); `metric_key` puts these into the name of the number. It depends on how
frames are resized, too: here as `tf_input` does. FVD is a property of two sets, one
clip has none. It judges single frames more than motion (Ge et al. 2024), so it never
stands alone.

With I3D of `features.i3d`, whose input `windows` and `tf_input` prepare:

    logits = jit(lambda video: I3D().apply({"params": params}, video))
    features = logits(tf_input(windows(videos, 16)))  # in batches
    fvd(features_of_truth, features_of_predictions)
"""

import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.metrics.bootstrap import Interval
from jax_vidpred.ops.frechet import frechet_distance, moments

INPUT_SIZE = 224  # pixels, of published I3D scores

Features = Float[np.ndarray, "n d"]


def fvd(features_real: Features, features_generated: Features) -> float:
    """Frechet distance between the features of true and of generated videos.

    |m_r - m_g|^2 + Tr(S_r + S_g - 2 (S_r S_g)^(1/2)), with means m and covariances S
    (divided by n - 1) over all clips; at least 0, lower is better. Float64 throughout.

    Args:
      features_real, features_generated: one row for each clip; 400 logits for I3D. The
        two sets may differ in size.

    Raises:
      ValueError: a set has no more clips than features (its covariance is singular, so
        the number would say more about that than about the videos), the sets have
        different features, or one of them is not finite.

    Source: Unterthiner et al. 2018.
    """
    real, generated = _checked(features_real), _checked(features_generated)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"{real.shape[1]} and {generated.shape[1]} features; FVD wants those of"
            " one network"
        )
    return _distance(real, generated)


def metric_key(network: str, num_frames: int, num_clips: int) -> str:
    """Name of a value of FVD, such as `fvd_i3d_16f_n2048`."""
    return f"fvd_{network}_{num_frames}f_n{num_clips}"


def fvd_interval(
    features_real: Features,
    features_generated: Features,
    *,
    num_samples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval around `fvd`: what another choice of clips would change.

    Drawing clips with replacement raises FVD once more by the bias that it has for few
    clips, so only the scatter of the draws is used: their quantiles, moved so that the
    mean of the draws lies on `fvd`. The interval is that of FVD for this number of
    clips, bias included; `fvd_extrapolated` takes the bias away. Where FVD is
    mostly bias (few clips) it is too wide, up to twice.

    Args:
      features_real, features_generated: row i of both belongs to clip i, the true and
        the predicted end of one beginning. They are drawn together.
      num_samples: draws; each costs as much as `fvd`.
      level: share of the draws that the interval holds.
      seed: of the draws.

    Raises:
      ValueError: as `fvd`, or the sets differ in size.
    """
    real, generated = _pairs(features_real, features_generated)
    n = len(real)
    rng = np.random.default_rng(seed)
    draws = [
        _distance(real[chosen], generated[chosen])
        for chosen in rng.integers(n, size=(num_samples, n))
    ]
    shift = _distance(real, generated) - np.mean(draws)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) + shift
    return Interval(max(float(low), 0.0), float(high))


def fvd_extrapolated(
    features_real: Features,
    features_generated: Features,
    *,
    num_sizes: int = 15,
    seed: int = 0,
) -> float:
    """FVD_inf: what FVD would be with infinitely many clips.

    FVD of n clips is FVD_inf + slope / n, nearly; the intercept of the line through
    FVD at `num_sizes` sizes, from half of the clips to all of them, evenly spaced in
    1 / n. The result may lie a little below 0, where the sets hardly differ.

    Args:
      features_real, features_generated: clip by clip, as in `fvd_interval`.
      num_sizes: points of the line.
      seed: decides which clips the smaller sets hold.

    Raises:
      ValueError: as `fvd`, or the sets differ in size, or half of the clips are no more
        than there are features.

    Source: Chong & Forsyth 2020 (for FID; there only the generated set shrinks).
    """
    real, generated = _pairs(features_real, features_generated)
    n, d = real.shape
    if n // 2 <= d:
        raise ValueError(
            f"{n} clips and {d} features: FVD_inf wants at least {2 * d + 2} clips, so"
            " that half of them still have a covariance"
        )
    rng = np.random.default_rng(seed)
    inverse = np.linspace(2 / n, 1 / n, num_sizes)
    sizes = np.rint(1 / inverse).astype(int)
    values = []
    for size in sizes:
        chosen = rng.permutation(n)[:size]
        values.append(_distance(real[chosen], generated[chosen]))
    _, intercept = np.polyfit(1 / sizes, values, 1)
    return float(intercept)


def windows(
    video: Float[Array, "b t h w c"], num_frames: int
) -> Float[Array, "n k h w c"]:
    """Cuts videos into clips of `num_frames` that follow each other, from the first on.

    Frames that are left over at the end of a video are not used. The clips of video 0
    come first.

    Raises:
      ValueError: the videos are shorter than a clip.
    """
    b, t, *frame = video.shape
    if t < num_frames:
        raise ValueError(f"videos of {t} frames; a clip wants {num_frames}")
    count = t // num_frames
    return video[:, : count * num_frames].reshape(b * count, num_frames, *frame)


def tf_input(
    video: Float[Array, "b t h w 3"],
) -> Float[Array, "b t 224 224 3"]:
    """Videos in [0, 1] (clamped) as the first implementation of FVD shows them to I3D.

    Squashed to 224 x 224 and put into [-1, 1]. TensorFlow's first bilinear resizing
    takes pixel i of the result from place i old / 224, not from the place under the
    pixel's centre, and does not filter: against other libraries the picture is shifted
    by (1 - old / 224) / 2 of its pixels. The variant's name is `tf`.

    Source: google-research/frechet_video_distance.
    """
    rows = jnp.asarray(_corner_weights(video.shape[2]), video.dtype)
    columns = jnp.asarray(_corner_weights(video.shape[3]), video.dtype)
    video = 2 * jnp.clip(video, 0, 1) - 1
    # Full precision: a TPU would round the pixels to eight bits of mantissa.
    precision = lax.Precision.HIGHEST
    video = jnp.einsum("yh,bthwc->btywc", rows, video, precision=precision)
    return jnp.einsum("xw,btywc->btyxc", columns, video, precision=precision)


def _corner_weights(old):
    """[INPUT_SIZE, old] what each pixel contributes; rows sum to 1."""
    place = np.arange(INPUT_SIZE) * (old / INPUT_SIZE)
    return np.maximum(0, 1 - np.abs(np.minimum(place, old - 1)[:, None] - range(old)))


def _checked(features):
    features = np.asarray(features, np.float64)
    n, d = features.shape
    if n <= d:
        raise ValueError(
            f"FVD of {n} clips with {d} features: the covariance is singular; it wants"
            f" more clips than features, at least {d + 1} (2048 are usual)"
        )
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite; look for NaN in the videos")
    return features


def _pairs(features_real, features_generated):
    if np.shape(features_real) != np.shape(features_generated):
        raise ValueError(
            f"features of shapes {np.shape(features_real)} and"
            f" {np.shape(features_generated)}; wanted those of the same clips"
        )
    return _checked(features_real), _checked(features_generated)


def _distance(real, generated):
    return frechet_distance(*moments(real), *moments(generated))
