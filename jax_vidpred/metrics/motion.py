"""How much moves, and how unevenly: what the scores of consistency do not see.

A video that stands still is perfectly consistent, smooth and free of flicker. The
ratios here say that it does not move as the truth does: 1 is right, 0 is frozen, above
1 is restless. They compare amounts, so motion of the wrong object counts as well.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def motion_energy(flow: Float[Array, "b t h w 2"]) -> Float[Array, "b"]:
    """mean |OF(y)| over steps and places: how far things move in a step.

    At least 0, in pixels of the flow's own grid. A frozen video has 0.

    Args:
      flow: of each step of a video, the (x, y) in pixels.
    """
    return jnp.linalg.norm(flow, axis=-1).mean((1, 2, 3))


def motion_energy_ratio(
    prediction: Float[Array, "b t h w 2"], truth: Float[Array, "b t h w 2"]
) -> Float[Array, "b"]:
    """mean |OF(y)| / mean |OF(x)| of each clip; 1 is right, 0 is frozen.

    At least 0. NaN for a clip in which the truth does not move at all.

    Args:
      prediction, truth: flow of the predicted and of the true video, from the same
        estimator and on the same grid: what an estimator takes for motion is then in
        both.

    Raises:
      ValueError: the shapes differ.

    Source: the weight-free counterpart of VBench's dynamic degree (Huang et al. 2024).
    """
    return _ratio(motion_energy, prediction, truth)


def acceleration_energy(video: Float[Array, "b t h w c"]) -> Float[Array, "b"]:
    """mean |y_t-1 - 2 y_t + y_t+1| over frames, pixels and channels; in [0, 2].

    Lower is more even: flicker, trembling and sudden changes raise it, but so does the
    edge of whatever moves, so it says something only beside the truth's. A sharp edge
    that moves on in jumps costs no more than one that moves evenly.

    Args:
      video: values are clamped to [0, 1].

    Raises:
      ValueError: fewer than three frames.

    Source: second difference in time; no published score.
    """
    if video.shape[1] < 3:
        raise ValueError(
            f"acceleration of {video.shape[1]} frames; it wants at least 3"
        )
    video = jnp.clip(video, 0.0, 1.0)
    change = video[:, 1:] - video[:, :-1]
    return jnp.abs(change[:, 1:] - change[:, :-1]).mean((1, 2, 3, 4))


def acceleration_ratio(
    prediction: Float[Array, "b t h w c"], truth: Float[Array, "b t h w c"]
) -> Float[Array, "b"]:
    """`acceleration_energy` of the prediction / that of the truth; 1 is right.

    At least 0; 0 is frozen, above 1 flickers or jerks. NaN for a clip in which nothing
    changes in truth.

    Raises:
      ValueError: the shapes differ, or fewer than three frames.
    """
    return _ratio(acceleration_energy, prediction, truth)


def _ratio(energy, prediction, truth):
    if prediction.shape != truth.shape:
        raise ValueError(
            f"shapes {prediction.shape} and {truth.shape}; wanted the same for"
            " prediction and truth"
        )
    there = energy(truth)
    return jnp.where(there > 0, energy(prediction) / there, jnp.nan)
