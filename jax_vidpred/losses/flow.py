"""Flow supervision: end-point error."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.ops.flow import endpoint_distance


def endpoint_error(
    prediction: Float[Array, "b k h w 2"],
    target: Float[Array, "b k h w 2"],
    weight: Float[Array, "b k h w 1"],
) -> Float[Array, "b k"]:
    """Weighted mean distance in pixels of the grid, with a finite gradient at zero.

    Args:
      weight: 0 where the target is unknown; a step without any weight gives 0.
    """
    distance = endpoint_distance(prediction, target)[..., None] * weight
    total = jnp.sum(weight, (2, 3, 4))
    return jnp.sum(distance, (2, 3, 4)) / jnp.maximum(total, 1e-6)
