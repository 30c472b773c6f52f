"""Commitment and codebook loss: values by hand, and who is moved."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.losses import quantization

LATENT = jnp.array([[[1.0, 2.0]], [[0.0, 0.0]]])
CODE = jnp.array([[[0.0, 4.0]], [[0.0, 1.0]]])


def test_both_are_mean_squares_of_each_example():
    for loss in (quantization.commitment, quantization.codebook):
        np.testing.assert_allclose(loss(LATENT, CODE), [(1 + 4) / 2, 1 / 2])


def test_commitment_moves_latents_and_the_codebook_loss_codes():
    for loss, moved in ((quantization.commitment, 0), (quantization.codebook, 1)):
        gradients = jax.grad(lambda z, e, loss=loss: loss(z, e).sum(), (0, 1))(
            LATENT, CODE
        )
        towards = (CODE - LATENT) if moved == 0 else (LATENT - CODE)
        np.testing.assert_allclose(gradients[moved], -towards)
        np.testing.assert_array_equal(gradients[1 - moved], np.zeros_like(LATENT))
