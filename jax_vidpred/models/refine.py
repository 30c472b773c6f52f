"""RIVER's refinement network: two frames in, the second refined on the first.

A residual channel attention network (Zhang et al. 2018, RCAN) without its enlarging
end. Its defaults are the sizes that RIVER (Davtyan et al. 2023) trains for BAIR.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_vidpred.models.layers.compute import apply, compute_dtype
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.ops.image import depth_to_space, space_to_depth


class Refiner(nn.Module):
    """What a decoded frame looked like before it was encoded.

    Attributes:
      features: channels between the convolutions.
      num_groups: residual groups.
      blocks_per_group: channel attention blocks of each.
      reduction: features / reduction channels decide about attention.
      patch: side of the square of pixels that becomes the channels of one place; 2 does
        a quarter of the work. RIVER has 1.
      residual: True: the result is the second frame and a change, which is zero at the
        start, so that an untrained net does no harm. False: as RIVER has it, the net
        makes the frame.
      dtype: "float32", or "bfloat16" for all but the last convolution; parameters, sums
        over blocks and the result are float32 in either case.
      remat: whether the gradient computes the inside of blocks again instead of keeping
        it: less memory, more time.
    """

    features: int = 64
    num_groups: int = 3
    blocks_per_group: int = 3
    reduction: int = 8
    patch: int = 1
    residual: bool = True
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self, previous: Float[Array, "b h w 3"], frame: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """The refined frame, about [0, 1], not clipped.

        Args:
          previous: the frame before, in [0, 1].
          frame: to be refined, in [0, 1].

        Raises:
          ValueError: frames that the patch does not divide, or features that cannot be
            reduced.
        """
        height, width = frame.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"frames of {height}x{width} do not divide into patches of"
                f" {self.patch}x{self.patch}"
            )
        if self.features % self.reduction:
            raise ValueError(
                f"features={self.features} do not divide by reduction={self.reduction}"
            )
        dtype, conv = compute_dtype(self.dtype), self._conv
        both = 2 * jnp.concatenate([previous, frame], -1) - 1
        x = conv("head", dtype)(space_to_depth(both, self.patch)).astype(jnp.float32)
        y = x
        for number in range(self.num_groups):
            group = y
            for inner in range(self.blocks_per_group):
                block = _Block(
                    self.features,
                    self.reduction,
                    dtype,
                    name=f"group_{number}_block_{inner}",
                )
                y = apply(block, y, remat=self.remat)
            y = group + conv(f"group_{number}_last", dtype)(y)
        x = x + conv("last", dtype)(y)
        zeros, usual = nn.initializers.zeros, nn.initializers.lecun_normal()
        pixels = Conv(
            3 * self.patch**2,
            kernel_init=zeros if self.residual else usual,
            name="tail",
        )(x)
        made = depth_to_space(pixels, self.patch) / 2  # [-1, 1] is twice as wide
        return made + (frame if self.residual else 0.5)

    def _conv(self, name: str, dtype: DTypeLike) -> Conv:
        return Conv(self.features, dtype=dtype, name=name)


class _Block(nn.Module):
    """x + attention * conv(relu(conv(x))), a number of attention for each channel.

    Zhang et al. 2018, sections 3.3 and 3.4. The result is float32.
    """

    features: int
    reduction: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x):
        y = nn.relu(Conv(self.features, dtype=self.dtype, name="conv_0")(x))
        y = Conv(self.features, dtype=self.dtype, name="conv_1")(y)
        mean = y.astype(jnp.float32).mean((1, 2))
        squeezed = nn.Dense(self.features // self.reduction, name="squeeze")(mean)
        attention = nn.sigmoid(
            nn.Dense(self.features, name="excite")(nn.relu(squeezed))
        )
        return x + y * jnp.broadcast_to(attention[:, None, None], y.shape)
