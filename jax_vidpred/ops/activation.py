"""Activations that keep little for the gradient."""

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x sigmoid(x) (Hendrycks & Gimpel 2016, section 4).

    Only x is kept for the gradient and the sigmoid computed again: in a roll-out, which
    keeps what it needs for every step, writing and reading it costs more.
    """
    return x * jax.nn.sigmoid(x)


def _forward(x):
    return silu(x), x


def _backward(x, dy):
    gate = jax.nn.sigmoid(x)
    return (dy * gate * (1 + x * (1 - gate)),)


silu.defvjp(_forward, _backward)
