"""Weighing several loss terms: fixed factors or learned uncertainties."""

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_SCALE_RANGE = (-4.0, 4.0)


def weighted_sum(
    terms: dict[str, Float[Array, ""]], weights: dict[str, float]
) -> Float[Array, ""]:
    """Sum of weight * term.

    Raises:
      ValueError: a term without a weight or the other way round.
    """
    if set(terms) != set(weights):
        raise ValueError(
            f"losses {sorted(terms)} and weights {sorted(weights)} name different terms"
        )
    return sum(weights[name] * terms[name] for name in sorted(terms))


def uncertainty_sum(
    terms: dict[str, Float[Array, ""]],
    weights: dict[str, float],
    log_scales: dict[str, Float[Array, ""]],
) -> Float[Array, ""]:
    """Sum of weight * (exp(-s) term + s): the Laplace form of uncertainty weighting.

    Kendall, Gal & Cipolla 2018, section 3.2, with the Laplace likelihood that belongs
    to L1 distances. `s` is clamped, since a term that can reach zero would otherwise
    drive the sum to minus infinity.
    """
    total = 0.0
    for name in sorted(terms):
        s = jnp.clip(log_scales[name], *LOG_SCALE_RANGE)
        total = total + weights[name] * (jnp.exp(-s) * terms[name] + s)
    return total
