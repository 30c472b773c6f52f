"""Activations: values and gradients are those of JAX's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.ops.activation import silu


def test_silu_and_its_gradient():
    x = jnp.array([-90.0, -4.0, -1e-3, 0.0, 0.7, 5.0, 90.0])
    np.testing.assert_allclose(silu(x), nn.silu(x), atol=1e-6)
    slope = jax.vmap(jax.grad(silu))(x)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(nn.silu))(x), atol=1e-6)
    np.testing.assert_allclose(slope[jnp.array([0, 3, 6])], [0, 0.5, 1], atol=1e-6)


def test_only_the_input_is_kept_for_the_gradient():
    x = jnp.ones((3, 5))
    kept = jax.tree.leaves(jax.vjp(silu, x)[1])
    assert [leaf.shape for leaf in kept] == [x.shape]
