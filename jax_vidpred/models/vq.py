"""Frame autoencoder with a vector-quantised latent: encoder, codebook, decoder."""

import math

import flax.linen as nn
from jaxtyping import Array, Float, Int

from jax_vidpred.models import river_vq, taming
from jax_vidpred.models.layers.compute import compute_dtype
from jax_vidpred.models.vae import ResidualDecoder, ResidualEncoder
from jax_vidpred.ops import quantize

_F8 = dict(latent_channels=4, num_codes=16384, stride=8, features=128, num_blocks=2)
# What attributes are where they are left out; with these, published weights load.
PRESETS = {
    "residual": dict(
        latent_channels=4, num_codes=1024, stride=4, features=64, num_blocks=1
    ),
    "river": dict(
        latent_channels=4, num_codes=8192, stride=8, features=32, num_blocks=1
    ),
    "f8": _F8,
    "f8_small": _F8,
    "f16": _F8 | dict(latent_channels=8, stride=16),
}


class VQ(nn.Module):
    """Images to a grid of codes and back.

    Attributes that are None become those of the preset, and can be read from the module
    before it is bound.

    Attributes:
      preset: "residual", the small net of `models.vae`; "river", RIVER's own net for
        CLEVRER; or "f8", "f8_small" or "f16", VQGANs of latent diffusion.
      latent_channels: numbers in a code.
      num_codes: codes in the codebook.
      stride: pixels per latent cell, a power of two of at least 2 in "residual"; the
        others have their own.
      features: width of the net on the latent grid in "residual", at full resolution in
        the others, where it is multiplied by up to 8 and 4.
      num_blocks: residual blocks per resolution; the others have their own.
      dtype, remat: as of `models.vae.VAE`; the codebook is always float32.

    Raises:
      ValueError: there is no such preset, or an attribute that it does not have.
    """

    preset: str = "residual"
    latent_channels: int | None = None
    num_codes: int | None = None
    stride: int | None = None
    features: int | None = None
    num_blocks: int | None = None
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        if self.preset not in PRESETS:
            *names, last = PRESETS
            raise ValueError(
                f"VQ preset {self.preset!r} is unknown; use {', '.join(names)} or"
                f" {last}"
            )
        for name, value in PRESETS[self.preset].items():
            given = getattr(self, name)
            fixed = self.preset != "residual" and name in ("stride", "num_blocks")
            if fixed and given not in (None, value):
                raise ValueError(
                    f"VQ preset {self.preset!r} has {name}={value}, {given} was given;"
                    " leave it out"
                )
            if given is None:
                setattr(self, name, value)
        super().__post_init__()

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Where the kernel of the decoder's last convolution is in the parameters."""
        names = {
            "residual": f"Conv_{round(math.log2(self.stride))}",
            "river": "out_conv",
        }
        return "decoder", names.get(self.preset, "conv_out"), "kernel"

    def setup(self):
        dtype = compute_dtype(self.dtype)
        if self.preset == "residual":
            levels = round(math.log2(self.stride))
            if self.stride != 2**levels or levels < 1:
                raise ValueError(
                    f"stride={self.stride} is not a power of two of at least 2"
                )
            widths = [max(self.features >> level, 16) for level in range(levels)]
            self.encoder = ResidualEncoder(
                tuple(widths[::-1]),
                self.num_blocks,
                self.latent_channels,
                dtype,
                self.remat,
            )
            self.decoder = ResidualDecoder(
                tuple(widths), self.num_blocks, dtype, self.remat
            )
        elif self.preset == "river":
            self.encoder = river_vq.Encoder(
                self.features, self.latent_channels, dtype, self.remat
            )
            self.decoder = river_vq.Decoder(self.features, dtype, self.remat)
        else:
            options = (
                taming.LEVELS[self.preset],
                self.features,
                self.num_blocks,
                self.latent_channels,
                dtype,
                self.remat,
            )
            self.encoder = taming.Encoder(*options)
            self.decoder = taming.Decoder(*options)
        self.codebook = self.param(
            "codebook",
            nn.initializers.normal(1.0),
            (self.num_codes, self.latent_channels),
        )

    def encode(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Latents of images in [0, 1], not quantised.

        Raises:
          ValueError: height or width is not divisible by the stride.
        """
        h, w = image.shape[1:3]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"frames of {h}x{w} do not divide by the stride {self.stride}; use"
                f" {h - h % self.stride}x{w - w % self.stride}"
            )
        # The published nets see and give images in [-1, 1].
        return self.encoder(image if self.preset == "residual" else 2 * image - 1)

    def quantize(
        self, latent: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Int[Array, "b h w"]]:
        """The nearest codes, as `ops.quantize.quantize` gives them."""
        return quantize.quantize(latent, self.codebook)

    def decode(self, code: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Images of codes, unclipped about [0, 1]; of "river" they are in it."""
        image = self.decoder(code)
        return image if self.preset == "residual" else (image + 1) / 2

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Reconstruction (touches every parameter)."""
        return self.decode(self.quantize(self.encode(image))[0])
