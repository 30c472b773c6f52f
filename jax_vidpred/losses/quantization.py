"""What keeps latents near their codes, and codes near their latents."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def commitment(
    latent: Float[Array, "b *dims"], code: Float[Array, "b *dims"]
) -> Float[Array, "b"]:
    """Mean squared distance of latents to their codes, which are constants.

    van den Oord et al. 2017, eq. 3, third term (without its factor beta).
    """
    return _mean_square(latent - jax.lax.stop_gradient(code))


def codebook(
    latent: Float[Array, "b *dims"], code: Float[Array, "b *dims"]
) -> Float[Array, "b"]:
    """Mean squared distance of codes to their latents, which are constants.

    van den Oord et al. 2017, eq. 3, second term. Not needed where codes follow a moving
    average.
    """
    return _mean_square(code - jax.lax.stop_gradient(latent))


def _mean_square(difference):
    return jnp.mean(jnp.square(difference), axis=range(1, difference.ndim))
