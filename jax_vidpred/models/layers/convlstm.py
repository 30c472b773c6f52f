"""Convolutional LSTM (Shi et al. 2015, eq. 3, without peephole connections)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.models.layers.conv import Conv

Carry = tuple[Float[Array, "b h w d"], Float[Array, "b h w d"]]


class ConvLSTMCell(nn.Module):
    """One step: gates i, f, g, o from one convolution over (x, hidden).

    Attributes:
      features: channels of hidden and cell state.
      forget_bias: added to the forget gate, so that memory lasts from the start.
      dtype: computation type of the convolution; gates and state stay float32.
    """

    features: int
    forget_bias: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, carry: Carry, x: Float[Array, "b h w c"]
    ) -> tuple[Carry, Float[Array, "b h w d"]]:
        cell, hidden = carry
        both = jnp.concatenate([x.astype(hidden.dtype), hidden], -1)
        gates = Conv(4 * self.features, dtype=self.dtype, name="gates")(both)
        i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, -1)
        cell = nn.sigmoid(f + self.forget_bias) * cell + nn.sigmoid(i) * jnp.tanh(g)
        hidden = nn.sigmoid(o) * jnp.tanh(cell)
        return (cell, hidden), hidden

    def initial(self, batch: int, height: int, width: int) -> Carry:
        """Zero state."""
        zeros = jnp.zeros((batch, height, width, self.features))
        return zeros, zeros
