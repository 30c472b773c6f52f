"""Flow supervision: end-point error."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_vidpred.ops.flow import endpoint_distance

MOVING = 0.05


def endpoint_error(
    prediction: Float[Array, "b k h w 2"],
    target: Float[Array, "b k h w 2"],
    weight: Float[Array, "b k h w 1"],
) -> Float[Array, "b"]:
    """Weighted mean distance in pixels of the grid, with a finite gradient at zero.

    Args:
      weight: 0 where a cell does not count; an example without any weight gives 0.
    """
    distance = endpoint_distance(prediction, target)[..., None] * weight
    total = jnp.sum(weight, (1, 2, 3, 4))
    return jnp.sum(distance, (1, 2, 3, 4)) / jnp.maximum(total, 1e-6)


def balanced_endpoint_error(
    prediction: Float[Array, "b k h w 2"],
    target: Float[Array, "b k h w 2"],
    steps: Float[Array, "b k"],
) -> Float[Array, "b"]:
    """Mean of the end-point errors of moving and of still cells.

    Hardly a cell in twenty moves. In a plain mean the still ones decide, and since the
    distance is robust, zero flow everywhere is where training would stay.
    """
    counts = steps[:, :, None, None, None]
    moving = is_moving(target)
    return 0.5 * (
        endpoint_error(prediction, target, counts * moving)
        + endpoint_error(prediction, target, counts * ~moving)
    )


def is_moving(flow: Float[Array, "b k h w 2"]) -> Bool[Array, "b k h w 1"]:
    """Cells whose flow is longer than `MOVING` pixels of the grid."""
    return jnp.linalg.norm(flow, axis=-1, keepdims=True) > MOVING
