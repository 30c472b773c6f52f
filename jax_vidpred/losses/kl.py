"""Kullback-Leibler divergence of a diagonal normal from the standard normal."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_divergence(
    mean: Float[Array, "b *dims"], logvar: Float[Array, "b *dims"]
) -> Float[Array, "b"]:
    """KL(N(mean, exp(logvar)) | N(0, 1)) in nats per latent element, averaged.

    Kingma & Welling 2014, appendix B: (mean^2 + var - 1 - logvar) / 2.
    """
    terms = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar)
    return jnp.mean(terms, axis=range(1, terms.ndim))
