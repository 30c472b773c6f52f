"""Convolution layers on top of `ops.conv`: names and shapes as in Flax Linen."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.ops import conv as conv_ops
from jax_vidpred.ops.activation import silu

Initializer = nn.initializers.Initializer


class Conv(nn.Module):
    """2-D convolution; stride 1 keeps the size, stride s divides it by s.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: step in both directions.
      kernel_init: initialiser of the kernel; zeros make a head that starts silent.
      bias: initial value of the bias; None for a convolution without.
      padding: border on each side; None for the sizes that are said above.
      dtype: computation type; parameters stay float32.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias: float | None = 0.0
    padding: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        border = None if self.padding is None else ((self.padding,) * 2,) * 2
        y = conv_ops.conv2d(x, kernel, self.stride, border)
        if self.bias is None:
            return y
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        return _biased(y, bias)


class ConvTranspose(nn.Module):
    """2-D transposed convolution that multiplies the size by `stride`.

    Attributes:
      features: output channels.
      kernel: side of the square kernel; kernel - stride must be even.
      stride: factor of enlargement.
      dtype: computation type; parameters stay float32.
    """

    features: int
    kernel: int = 4
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        padding = (self.kernel - self.stride) // 2
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return _biased(conv_ops.conv_transpose2d(x, kernel, self.stride, padding), bias)


def _biased(y, bias):
    # In float32, whatever y is: the bias's gradient is a sum over all places, and a sum
    # of thousands in bfloat16 stands still once it is 256 times what is added.
    return (y.astype(bias.dtype) + jnp.broadcast_to(bias, y.shape)).astype(y.dtype)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))): no normalisation, the second kernel starts at zero.

    A block that starts as the identity trains stably without normalisation (Zhang et
    al. 2019, Fixup), and normalisation is what costs time on a CPU.

    Attributes:
      features: channels between the convolutions.
      dtype: computation type; parameters stay float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = Conv(self.features, dtype=self.dtype)(silu(x))
        zeros = nn.initializers.zeros
        y = Conv(x.shape[-1], kernel_init=zeros, dtype=self.dtype)(silu(y))
        return x + y
