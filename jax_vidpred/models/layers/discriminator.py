"""A discriminator of image patches."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.layers.norm import GroupNorm

_MAX_WIDENING = 8
_MAX_GROUPS = 32
# With a border of 1, stride 1 makes images smaller by 1.
_PATCHES = dict(kernel=4, padding=1, kernel_init=nn.initializers.normal(0.02))


class PatchDiscriminator(nn.Module):
    """How real each patch of an image looks (Isola et al. 2017, appendix 6.1.2).

    4x4 convolutions, LeakyReLU 0.2 and weights from N(0, 0.02^2): `num_layers` of
    stride 2 with 1, 2, 4, 8, 8, ... times `features` channels, then two of stride 1. A
    logit sees 70x70 pixels at 3 layers, 34x34 at 2, 16x16 at 1.

    VQGAN (Esser et al. 2021) has batch norm between them, here it is group norm: an
    image's logits are then its own, and neither the number of devices nor the parts
    that a batch is worked on in change the result. With batch norm, real and fake
    images in batches of their own can also be told apart by their batch alone.

    Attributes:
      features: channels of the first convolution.
      num_layers: convolutions of stride 2.
      dtype: computation type of all but norms and the last convolution; parameters stay
        float32.
    """

    features: int = 64
    num_layers: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 1"]:
        """Logits, h / 2^num_layers - 2 of them along the height.

        Args:
          images: in [0, 1] or about it.

        Raises:
          ValueError: the images are too small for a single logit.
        """
        h, w = images.shape[1:3]
        least = 3 * 2**self.num_layers
        if min(h, w) < least:
            raise ValueError(
                f"images of {h}x{w} are too small for a PatchDiscriminator of"
                f" {self.num_layers} layers, which needs {least}x{least};"
                " use fewer layers"
            )
        x = 2 * images - 1
        for layer in range(self.num_layers + 1):
            width = self.features * min(2**layer, _MAX_WIDENING)
            stride = 2 if layer < self.num_layers else 1
            first = layer == 0
            # A norm has a bias of its own.
            bias = 0.0 if first else None
            x = Conv(width, stride=stride, bias=bias, dtype=self.dtype, **_PATCHES)(x)
            if not first:
                x = GroupNorm(math.gcd(width, _MAX_GROUPS))(x)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, **_PATCHES)(x)
