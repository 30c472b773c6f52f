"""Latents of zero mean and unit variance, by statistics that a first stage keeps.

A system that trains an autoencoder holds `latent_mean` [c] and `latent_variance` [c]
among its parameters: moving averages over what it encodes. Later stages see latents on
that scale (Rombach et al. 2022, appendix G).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

STATISTICS_DECAY = 0.99


def initial(channels: int) -> dict[str, Array]:
    """Statistics that change nothing."""
    return {"latent_mean": jnp.zeros(channels), "latent_variance": jnp.ones(channels)}


def moments(
    latent: Float[Array, "*b c"],
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Mean and mean square of each channel; those of parts can be averaged."""
    latent = jax.lax.stop_gradient(latent.reshape(-1, latent.shape[-1]))
    return latent.mean(0), jnp.square(latent).mean(0)


def follow(
    old: Mapping[str, Any],
    moments: tuple[Float[Array, "c"], Float[Array, "c"]],
    step: Int[Array, ""],
) -> dict[str, Array]:
    """The statistics after step number `step` (1 = the first), given its moments."""
    mean, square = moments
    # Rounding may bring it below zero where a channel hardly varies.
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    # No bias from the start: the first step takes the moments as they are.
    decay = jnp.where(step == 1, 0.0, STATISTICS_DECAY)
    return {
        "latent_mean": decay * old["latent_mean"] + (1 - decay) * mean,
        "latent_variance": decay * old["latent_variance"] + (1 - decay) * variance,
    }


def scaled(params: Mapping[str, Any], latents: Float[Array, "*b c"]):
    """Latents as later stages see them."""
    centre, deviation = _broadcast(params, latents.shape)
    return (latents - centre) / deviation


def unscaled(params: Mapping[str, Any], latents: Float[Array, "*b c"]):
    """The inverse of `scaled`."""
    centre, deviation = _broadcast(params, latents.shape)
    return latents * deviation + centre


def _broadcast(params, shape):
    """Mean and standard deviation, broadcast to `shape`.

    Constants: were they trained (in the joint phase they are parameters), a large
    variance would make every distance between latents small.
    """
    mean, variance = (
        jax.lax.stop_gradient(jnp.broadcast_to(params[name], shape))
        for name in ("latent_mean", "latent_variance")
    )
    return mean, jnp.sqrt(variance + 1e-6)
