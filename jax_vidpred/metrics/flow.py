"""How far two flow fields of the same frames agree."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

QUANTILES = (0.5, 0.9, 0.99)


def endpoint_errors(
    first: Float[Array, "*b h w 2"], second: Float[Array, "*b h w 2"]
) -> Float[Array, "*b h w"]:
    """Euclidean distance |first - second| at each place, in the units of the fields."""
    return jnp.linalg.norm(first - second, axis=-1)


def error_summary(
    errors: Float[Array, "..."], chosen: Bool[Array, "..."]
) -> dict[str, Float[Array, ""]]:
    """`mean` and the QUANTILES (`q50`, `q90`, `q99`) of the errors that are chosen.

    NaN where none is chosen. Quantiles interpolate linearly (NumPy's default).
    """
    kept = jnp.where(chosen, errors, jnp.nan)
    summary = {"mean": jnp.nanmean(kept)}
    for quantile in QUANTILES:
        summary[f"q{100 * quantile:.0f}"] = jnp.nanquantile(kept, quantile)
    return summary


def hidden_scores(
    truth: Float[Array, "..."], estimate: Float[Array, "..."]
) -> dict[str, Float[Array, ""]]:
    """`precision`, `recall` and `f1` of the area that is hidden.

    A cell is hidden by its share 1 - visibility; what two shares have in common is the
    smaller one (fuzzy sets; of 0 and 1 it is the usual F1). Hardly a whole cell is
    ever hidden between two frames, so a threshold would measure nothing. NaN where
    nothing is hidden.

    Args:
      truth, estimate: visibility in [0, 1].
    """
    true, found = 1 - truth, 1 - estimate
    hits = jnp.sum(jnp.minimum(true, found))
    return {
        "precision": hits / jnp.sum(found),
        "recall": hits / jnp.sum(true),
        "f1": 2 * hits / (jnp.sum(true) + jnp.sum(found)),
    }
