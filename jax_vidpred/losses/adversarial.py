"""Hinge losses of a generator and a discriminator, and how much the generator's counts.

Logits are those of patches (Isola et al. 2017): high where a discriminator takes a
patch for real. Every patch of an image counts the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def discriminator_hinge(
    real: Float[Array, "b *patches"], fake: Float[Array, "b *patches"]
) -> Float[Array, "b"]:
    """(max(0, 1 - real) + max(0, 1 + fake)) / 2, averaged over patches.

    Lim & Ye 2017, eq. 12, with the factor 1/2 of Esser et al. 2021.
    """
    return 0.5 * (_mean(jax.nn.relu(1 - real)) + _mean(jax.nn.relu(1 + fake)))


def generator_hinge(fake: Float[Array, "b *patches"]) -> Float[Array, "b"]:
    """-fake, averaged over patches (Lim & Ye 2017, eq. 13)."""
    return -_mean(fake)


def adaptive_weight(
    reconstruction_gradient: Float[Array, "*dims"],
    adversarial_gradient: Float[Array, "*dims"],
    *,
    maximum: float = 1e4,
    epsilon: float = 1e-4,
) -> Float[Array, ""]:
    """Weight that makes the adversarial gradient as long as that of the reconstruction.

    min(|reconstruction| / (|adversarial| + epsilon), maximum), a constant to gradients
    (Esser et al. 2021, eq. 7; epsilon and maximum as in their code).

    Args:
      reconstruction_gradient: of the reconstruction loss, with respect to the kernel of
        the generator's last layer.
      adversarial_gradient: of the generator's adversarial loss, the same way.
    """
    wanted = jnp.linalg.norm(reconstruction_gradient.ravel())
    found = jnp.linalg.norm(adversarial_gradient.ravel())
    return jax.lax.stop_gradient(jnp.minimum(wanted / (found + epsilon), maximum))


def _mean(values):
    return jnp.mean(values, axis=range(1, values.ndim))
