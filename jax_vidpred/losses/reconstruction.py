"""Distances of images or latents, one number per example."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def l1(
    prediction: Float[Array, "b *dims"], target: Float[Array, "b *dims"]
) -> Float[Array, "b"]:
    """Mean absolute difference over everything but the batch."""
    return jnp.mean(jnp.abs(prediction - target), axis=range(1, prediction.ndim))


def mse(
    prediction: Float[Array, "b *dims"], target: Float[Array, "b *dims"]
) -> Float[Array, "b"]:
    """Mean squared difference over everything but the batch."""
    return jnp.mean(jnp.square(prediction - target), axis=range(1, prediction.ndim))


def masked_l1(
    prediction: Float[Array, "b k *dims"],
    target: Float[Array, "b k *dims"],
    steps: Float[Array, "b k"],
) -> Float[Array, "b"]:
    """`l1` over the time steps where `steps` is 1; 0 where an example has none."""
    distance = jnp.abs(prediction - target)
    return mean_over_steps(jnp.mean(distance, range(2, distance.ndim)), steps)


def mean_over_steps(
    values: Float[Array, "b k"], steps: Float[Array, "b k"]
) -> Float[Array, "b"]:
    """Mean of the steps with weight; 0 where there is none."""
    return jnp.sum(values * steps, 1) / jnp.maximum(jnp.sum(steps, 1), 1e-6)


def balanced_l1(
    prediction: Float[Array, "b k h w c"],
    target: Float[Array, "b k h w c"],
    changed: Bool[Array, "b k h w"],
    steps: Float[Array, "b k"],
) -> Float[Array, "b"]:
    """Mean of the L1 distances over changed and over unchanged cells.

    Few cells of a scene change; in a plain mean they would hardly count, though they
    are what prediction is about.
    """
    distance = jnp.mean(jnp.abs(prediction - target), -1)
    counts = steps[:, :, None, None]

    def mean(weight):
        total = jnp.maximum(jnp.sum(weight, (1, 2, 3)), 1e-6)
        return jnp.sum(distance * weight, (1, 2, 3)) / total

    return 0.5 * (mean(counts * changed) + mean(counts * ~changed))
