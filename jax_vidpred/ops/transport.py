"""Straight paths from noise to data, and the velocity along them (flow matching)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def on_path(
    noise: Float[Array, "b *dims"],
    data: Float[Array, "b *dims"],
    time: Float[Array, "b"],
    *,
    sigma: float,
) -> Float[Array, "b *dims"]:
    """(1 - (1 - sigma) t) noise + t data: noise at t = 0, data at t = 1.

    Lipman et al. 2023, eq. 22. With `sigma` > 0 that much noise is left at t = 1.

    Args:
      noise: standard normal.
      data: of unit variance.
      time: in [0, 1], one of each example.
      sigma: RIVER has 1e-7.
    """
    time = _as_wide(time, data)
    return (1 - (1 - sigma) * time) * noise + time * data


def path_velocity(
    noise: Float[Array, "b *dims"], data: Float[Array, "b *dims"], *, sigma: float
) -> Float[Array, "b *dims"]:
    """d on_path / dt = data - (1 - sigma) noise, whatever the time.

    It is what Lipman et al. 2023, eq. 21, becomes on the path, without its division by
    a number that goes to sigma at t = 1.
    """
    return data - (1 - sigma) * noise


def _as_wide(time, data):
    return jnp.broadcast_to(
        time.reshape(-1, *[1] * (data.ndim - 1)).astype(data.dtype), data.shape
    )
