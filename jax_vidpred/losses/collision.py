"""Collision supervision: rare events, known to about one frame."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def widen(collision: Float[Array, "b k"], tolerance: int) -> Float[Array, "b k"]:
    """1 where a collision lies within `tolerance` steps, else 0.

    The annotated frame and the jump of the velocity differ by up to one frame.
    """
    wide = collision > 0
    for shift in range(1, tolerance + 1):
        later = jnp.pad(collision, ((0, 0), (shift, 0)))[:, :-shift] > 0
        earlier = jnp.pad(collision, ((0, 0), (0, shift)))[:, shift:] > 0
        wide = wide | later | earlier
    return wide.astype(jnp.float32)


def focal_loss(
    logit: Float[Array, "b k"],
    label: Float[Array, "b k"],
    *,
    alpha: float,
    gamma: float,
) -> Float[Array, "b k"]:
    """-alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, eq. 5).

    Args:
      alpha: weight of the positives; above 0.5 it favours the rare collisions.
      gamma: how strongly easy steps are discounted.
    """
    return optax.sigmoid_focal_loss(logit, label, alpha=alpha, gamma=gamma)
