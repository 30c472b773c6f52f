"""Scores of a stochastic system's many futures of one context."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_vidpred.metrics import frame, uncertainty


def scores(
    draws: Sequence[np.ndarray], video: Float[Array, "b n h w 3"], num_context: int
) -> dict[str, np.ndarray]:
    """What K draws of a future are worth together.

    Of each clip [b] `psnr_best_of_K` and `psnr_mean_of_K`; of each frame [b, t] `crps`
    per pixel, and the variance of the draws beside the squared error of their mean: on
    average equal where uncertainty is as large as it should be.

    Args:
      draws: K times [b, t, h, w, 3].
      video: context and true future.
      num_context: frames of the context.
    """
    truth = jnp.asarray(video)[:, num_context:]
    samples = jnp.stack([jnp.asarray(draw) for draw in draws])
    psnr, crps, spread_skill = jax.device_get(_scores(samples, truth))
    best = uncertainty.best_of_samples(psnr, better="higher")
    return {
        f"psnr_best_of_{len(draws)}": best,
        f"psnr_mean_of_{len(draws)}": uncertainty.mean_of_samples(psnr),
        "crps": crps,
        "spread_variance": spread_skill.spread**2,
        "spread_error_squared": spread_skill.error**2,
    }


@jax.jit
def _scores(samples, truth):
    psnr = jnp.stack([frame.psnr(one, truth).mean(1) for one in samples])
    return (
        psnr,
        uncertainty.crps(samples, truth),
        uncertainty.spread_skill(samples, truth),
    )
