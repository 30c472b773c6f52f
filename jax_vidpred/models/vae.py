"""Frame VAE: images to a grid of latents and back.

Any height and width divisible by the stride. The default net keeps most of its work on
the latent grid and ends in a sub-pixel convolution, so no convolution runs at full
resolution: that is what makes it fast, and its encoder cheap enough to encode every
clip anew while the temporal model trains.
"""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jax_vidpred.models.layers.compute import apply, compute_dtype
from jax_vidpred.models.layers.conv import Conv, ConvTranspose, ResidualBlock
from jax_vidpred.ops.activation import silu
from jax_vidpred.ops.image import depth_to_space

LOGVAR_RANGE = (-12.0, 4.0)


class Gaussian(flax.struct.PyTreeNode):
    """Diagonal normal distribution."""

    mean: Float[Array, "b h w c"]
    logvar: Float[Array, "b h w c"]

    def sample(self, keys: PRNGKeyArray) -> Float[Array, "b h w c"]:
        """mean + exp(logvar / 2) eps (Kingma & Welling 2014, section 2.4).

        Args:
          keys: [b], one for each image.
        """
        shape, dtype = self.mean.shape[1:], self.mean.dtype
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
        return self.mean + jnp.exp(self.logvar / 2) * noise


class VAE(nn.Module):
    """Encoder and decoder.

    Attributes:
      preset: "residual" (default) or "reference" (the three-layer net of the PyTorch
        reference: stride 8, 167,171 parameters at 32 latent channels).
      latent_channels: channels of the latent.
      stride: pixels per latent cell, a power of two of at least 2; "reference" is 8.
      features: width of the residual net on the latent grid.
      num_blocks: residual blocks per resolution in the decoder; the encoder has as many
        on the latent grid.
      dtype: "float32", or "bfloat16" for all but the last convolution of encoder and
        decoder; parameters, posterior and images are float32 in either case.
      remat: whether the gradient computes the inside of residual blocks again instead
        of keeping it: less memory, more time. A CPU only takes the time: there XLA
        drops the barriers before it orders the operations.
    """

    preset: str = "residual"
    latent_channels: int = 8
    stride: int = 4
    features: int = 64
    num_blocks: int = 2
    dtype: str = "float32"
    remat: bool = False

    def setup(self):
        dtype = compute_dtype(self.dtype)
        if self.preset == "residual":
            levels = round(math.log2(self.stride))
            if self.stride != 2**levels or levels < 1:
                raise ValueError(
                    f"stride={self.stride} is not a power of two of at least 2"
                )
            # Half the width at each doubling of the resolution.
            widths = [
                max(self.features >> level, 16) for level in reversed(range(levels))
            ]
            self.encoder = ResidualEncoder(
                tuple(widths),
                self.num_blocks,
                2 * self.latent_channels,
                dtype,
                self.remat,
            )
            self.decoder = ResidualDecoder(
                tuple(widths[::-1]), self.num_blocks, dtype, self.remat
            )
        elif self.preset == "reference":
            if self.stride != 8:
                raise ValueError(
                    f"preset 'reference' has stride 8, stride={self.stride} was given"
                )
            self.encoder = _ReferenceEncoder(2 * self.latent_channels, dtype)
            self.decoder = _ReferenceDecoder(dtype)
        else:
            raise ValueError(
                f"VAE preset {self.preset!r} is unknown; use residual or reference"
            )

    def encode(self, image: Float[Array, "b h w 3"]) -> Gaussian:
        """Posterior of images in [0, 1]; its grid is h / stride x w / stride.

        Raises:
          ValueError: height or width is not divisible by the stride.
        """
        h, w = image.shape[1:3]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"frames of {h}x{w} do not divide by the VAE's stride {self.stride};"
                f" use {h - h % self.stride}x{w - w % self.stride}"
            )
        mean, logvar = jnp.split(self.encoder(image), 2, -1)
        if self.preset == "residual":
            logvar = jnp.clip(logvar, *LOGVAR_RANGE)
        return Gaussian(mean, logvar)

    def decode(self, latent: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Images; in [0, 1] for "reference", unclipped about it for "residual"."""
        return self.decoder(latent)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Reconstruction from the mean of the posterior (touches every parameter)."""
        return self.decode(self.encode(image).mean)


class ResidualEncoder(nn.Module):
    widths: tuple[int, ...]  # from full resolution to the latent grid
    num_blocks: int
    out: int
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, x):
        for level, width in enumerate(self.widths):
            x = silu(x) if level else x
            # 4x4 strided kernels overlap evenly: no checkerboard under sub-cell motion.
            x = Conv(width, kernel=4, stride=2, dtype=self.dtype)(x)
        for _ in range(self.num_blocks):
            block = ResidualBlock(self.widths[-1], dtype=self.dtype)
            x = apply(block, x, remat=self.remat)
        return Conv(self.out)(silu(x))


class ResidualDecoder(nn.Module):
    widths: tuple[int, ...]  # from the latent grid to half resolution
    num_blocks: int
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, z):
        x = Conv(self.widths[0], dtype=self.dtype)(z)
        for level, width in enumerate(self.widths):
            if level:
                x = depth_to_space(Conv(4 * width, dtype=self.dtype)(silu(x)), 2)
            for _ in range(self.num_blocks):
                block = ResidualBlock(width, dtype=self.dtype)
                x = apply(block, x, remat=self.remat)
        return depth_to_space(Conv(12)(silu(x)), 2) + 0.5


class _ReferenceEncoder(nn.Module):
    out: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        for width in (32, 64):
            x = Conv(width, kernel=4, stride=2, dtype=self.dtype)(x)
            x = nn.leaky_relu(x, 0.2)
        return Conv(self.out, kernel=4, stride=2)(x)


class _ReferenceDecoder(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z):
        for width in (64, 32):
            z = nn.relu(ConvTranspose(width, dtype=self.dtype)(z))
        return nn.sigmoid(ConvTranspose(3)(z))
