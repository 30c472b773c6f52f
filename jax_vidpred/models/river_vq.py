"""RIVER's own frame autoencoder, for CLEVRER, in which its published weights load.

Davtyan et al. 2023. Eight pixels a code; images are in [-1, 1].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.models.layers.attention import SelfAttention
from jax_vidpred.models.layers.compute import apply
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.taming import doubled, norm
from jax_vidpred.ops.activation import silu
from jax_vidpred.ops.conv import conv2d

_LEVELS = 3
_SLOPE = 0.2  # of the leaky rectifiers below zero


class Encoder(nn.Module):
    """Images to latents, which are not quantised.

    Attributes:
      features: channels at full resolution, twice as many at each half; published: 32.
      latent_channels: of the latent; published: 4.
      dtype: computation type of all but norms, attention and the last convolution.
      remat: as of `models.vae.VAE`.
    """

    features: int
    latent_channels: int
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        x = Conv(self.features, dtype=self.dtype, name="conv_in")(image)
        for level in range(_LEVELS):
            width = self.features << (level + 1)
            block = Residual(width, self.dtype, shrink=True, name=f"down_{level}")
            x = apply(block, x, remat=self.remat)
        x = _middle(x, self.dtype, self.remat)
        return Conv(self.latent_channels, name="out_conv")(silu(norm(x, "out_norm")))


class Decoder(nn.Module):
    """Codes to images. Attributes are as of `Encoder`."""

    features: int
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        width = self.features << _LEVELS
        x = Conv(width, dtype=self.dtype, name="conv_in")(code)
        x = _middle(x, self.dtype, self.remat)
        for level in range(_LEVELS):
            block = Residual(width >> (level + 1), self.dtype, name=f"block_{level}")
            x = apply(block, x, remat=self.remat)
            x = apply(Grow(self.dtype, name=f"up_{level}"), x, remat=self.remat)
        x = Conv(3, name="out_conv")(silu(norm(x, "out_norm")))
        return jnp.tanh(x)


class Residual(nn.Module):
    """act(x + norm(conv(act(norm(conv(x)))))), x projected where its shape changes.

    Attributes:
      features: channels of the result.
      dtype: computation type; parameters and norms stay float32.
      shrink: to half of the size, by the mean of 2x2 places.
    """

    features: int
    dtype: DTypeLike
    shrink: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        if self.shrink:
            y = HalvedConv(self.features, self.dtype, name="conv1")(x)
            # The authors shrink x after its projection: the same, for four times the
            # work.
            x = _halved(x)
        else:
            y = Conv(self.features, bias=None, dtype=self.dtype, name="conv1")(x)
        y = nn.leaky_relu(norm(y, "norm1"), _SLOPE)
        y = Conv(self.features, bias=None, dtype=self.dtype, name="conv2")(y)
        y = norm(y, "norm2")
        if self.shrink or x.shape[-1] != self.features:
            project = Conv(
                self.features, kernel=1, bias=None, dtype=self.dtype, name="shortcut"
            )
            x = norm(project(x), "shortcut_norm")
        return nn.leaky_relu(x + y, _SLOPE)


class HalvedConv(nn.Module):
    """Mean over squares of 2x2 places of a 3x3 convolution without bias.

    As one 4x4 convolution of stride 2, which multiplies less than half as often.

    Attributes:
      features: output channels.
      dtype: computation type; parameters stay float32.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        shifts = ((0, 1), (1, 0))
        kernel = sum(
            jnp.pad(kernel, (rows, columns, (0, 0), (0, 0)))
            for rows in shifts
            for columns in shifts
        )
        kernel = (kernel / 4).astype(self.dtype)
        return conv2d(x.astype(self.dtype), kernel, 2, ((1, 1), (1, 1)))


class Grow(nn.Module):
    """act(norm(conv(x))) of x at twice its size.

    Attributes:
      dtype: computation type; parameters and norms stay float32.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        conv = Conv(x.shape[-1], bias=None, dtype=self.dtype, name="conv")
        return nn.leaky_relu(FrozenNorm(name="norm")(conv(doubled(x))), _SLOPE)


class FrozenNorm(nn.Module):
    """Batch norm after training: its mean and variance are constants.

    In [b, h, w, c], out the same type, computed in float32 (Ioffe & Szegedy 2015,
    algorithm 2). Where there are no published statistics they are 0 and 1.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        zeros, ones, shape = nn.initializers.zeros, nn.initializers.ones, x.shape[-1:]
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, variance = jax.lax.stop_gradient(
            (self.param("mean", zeros, shape), self.param("variance", ones, shape))
        )
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        y = x.astype(jnp.float32) * jnp.broadcast_to(factor, x.shape)
        return (y + jnp.broadcast_to(bias - mean * factor, x.shape)).astype(x.dtype)


def _middle(x, dtype, remat):
    b, h, w, c = x.shape
    x = apply(Residual(c, dtype, name="pre_attn"), x, remat=remat)
    # In float32: fused kernels do not take a head of this width.
    tokens = norm(x, "attn_norm").astype(jnp.float32).reshape(b, h * w, c)
    y = SelfAttention(num_heads=1, name="attn")(tokens)
    x = x + y.reshape(x.shape).astype(dtype)
    return apply(Residual(c, dtype, name="post_attn"), x, remat=remat)


def _halved(x):
    """Mean of squares of 2x2 places."""
    b, h, w, c = x.shape
    mean = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4), dtype=jnp.float32)
    return mean.astype(x.dtype)
