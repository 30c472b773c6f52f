"""The VQGANs of latent diffusion, in which their published weights load.

Nets of Esser et al. 2021 in two sizes of Rombach et al. 2022, f8 and f16, and in one of
RIVER's (Davtyan et al. 2023). Images are in [-1, 1], those of the decoder about it.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.models.layers.attention import attend
from jax_vidpred.models.layers.compute import apply
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.layers.norm import GroupNorm
from jax_vidpred.ops.activation import silu


class Levels(NamedTuple):
    """Resolutions of a net, the highest (level 0) first; each has half of the former.

    Attributes:
      widths: channels at each, in widths of the net.
      attention: the level with attention. The authors name a resolution instead, which
        holds for one size of images: 32 of 256 (f8), 16 of 64 (f8_small), 16 of 256.
    """

    widths: tuple[int, ...]
    attention: int


LEVELS = {
    "f8": Levels((1, 2, 2, 4), 3),
    "f8_small": Levels((1, 2, 2, 4), 2),
    "f16": Levels((1, 1, 2, 2, 4), 4),
}


class Encoder(nn.Module):
    """Images to latents, which are not quantised.

    Attributes:
      levels: one of `LEVELS`.
      features: width of the net; published: 128.
      num_blocks: residual blocks per level; published: 2.
      latent_channels: of the latent.
      dtype: computation type of all but norms, attention and the last convolutions.
      remat: as of `models.vae.VAE`.
    """

    levels: Levels
    features: int
    num_blocks: int
    latent_channels: int
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        x = Conv(self.features, dtype=self.dtype, name="conv_in")(image)
        last = len(self.levels.widths) - 1
        for level, factor in enumerate(self.levels.widths):
            width = factor * self.features
            for index in range(self.num_blocks):
                block = Residual(width, self.dtype, name=f"down_{level}_block_{index}")
                x = apply(block, x, remat=self.remat)
                if level == self.levels.attention:
                    x = Attention(self.dtype, name=f"down_{level}_attn_{index}")(x)
            if level < last:
                # Pads on the right and below only, as the authors' nets do.
                shrink = Conv(
                    width, stride=2, dtype=self.dtype, name=f"down_{level}_downsample"
                )
                x = shrink(x)
        x = _middle(x, self.dtype, self.remat)
        x = silu(norm(x, "norm_out"))
        x = Conv(self.latent_channels, name="conv_out")(x)
        return Conv(self.latent_channels, kernel=1, name="quant_conv")(x)


class Decoder(nn.Module):
    """Codes to images, unclipped. Attributes are as of `Encoder`; one block more."""

    levels: Levels
    features: int
    num_blocks: int
    latent_channels: int
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        z = Conv(self.latent_channels, kernel=1, name="post_quant_conv")(code)
        width = self.levels.widths[-1] * self.features
        x = Conv(width, dtype=self.dtype, name="conv_in")(z)
        x = _middle(x, self.dtype, self.remat)
        for level, factor in reversed([*enumerate(self.levels.widths)]):
            width = factor * self.features
            for index in range(self.num_blocks + 1):
                block = Residual(width, self.dtype, name=f"up_{level}_block_{index}")
                x = apply(block, x, remat=self.remat)
                if level == self.levels.attention:
                    x = Attention(self.dtype, name=f"up_{level}_attn_{index}")(x)
            if level:
                grow = Conv(width, dtype=self.dtype, name=f"up_{level}_upsample")
                x = grow(doubled(x))
        x = silu(norm(x, "norm_out"))
        return Conv(3, name="conv_out")(x)


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), x projected where the width changes.

    Attributes:
      features: channels of the result.
      dtype: computation type; parameters and norms stay float32.
    """

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        y = silu(norm(x, "norm1"))
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        y = silu(norm(y, "norm2"))
        y = Conv(self.features, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel=1, dtype=self.dtype, name="shortcut")(x)
        return x + y


class Attention(nn.Module):
    """x + attention(norm(x)) of all places of the grid, with one head.

    Attributes:
      dtype: type of the result. The attention is computed in float32: fused kernels,
        which would be faster in bfloat16, do not take heads of this width.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = norm(x, "norm").astype(jnp.float32)
        query, key, value = (
            Conv(c, kernel=1, name=name)(y).reshape(b, h * w, 1, c) for name in "qkv"
        )
        y = attend(query, key, value).reshape(x.shape)
        return x + Conv(c, kernel=1, name="proj_out")(y).astype(self.dtype)


def norm(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
    """Group norm with the authors' 32 groups, or fewer where 32 do not divide."""
    return GroupNorm(math.gcd(x.shape[-1], 32), epsilon=1e-6, name=name)(x)


def doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Twice as high and wide: each place becomes four of the same."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def _middle(x, dtype, remat):
    width = x.shape[-1]
    x = apply(Residual(width, dtype, name="mid_block_1"), x, remat=remat)
    x = Attention(dtype, name="mid_attn_1")(x)
    return apply(Residual(width, dtype, name="mid_block_2"), x, remat=remat)
