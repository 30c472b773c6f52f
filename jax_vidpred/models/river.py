"""RIVER's vector field: how a latent flows from noise to the next frame.

A transformer over the places of the latent grid with long skips (Bao et al. 2023,
U-ViT), which sees the noisy latent, the frame before it (the reference) and one earlier
frame (the condition) with its distance in time (Davtyan et al. 2023). Its defaults are
the published sizes for CLEVRER at 128x128, and the published weights load.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jax_vidpred.models.layers.attention import Dense, TransformerBlock, norm
from jax_vidpred.models.layers.compute import compute_dtype
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.ops.activation import gelu
from jax_vidpred.ops.image import depth_to_space, space_to_depth

TIME_SCALE = 200.0
POSITIONS = 512  # that the tables know in each direction


class VectorField(nn.Module):
    """Velocity of a latent on its way from noise to the next frame.

    Attributes:
      latent_channels: of the latent.
      features: width of the tokens.
      num_heads: of the attention.
      depth: blocks before, and after, the middle; each of the later ones sees what came
        out of its partner before (the last one what came out of the first).
      mid_depth: blocks in the middle.
      patch: side of the square of latent cells that make one token.
      dropout: rate in the blocks while training.
      last_norm: before the last convolution, "layer", or "frozen" for what a batch norm
        with fixed statistics comes to: a scale and an offset of each feature. It is for
        imported weights; training with one leaves it at that.
      dtype: "float32", or "bfloat16" for all but norms, softmax, embeddings and the
        last convolution; parameters and the result are float32 in either case.
      remat: whether the gradient computes the inside of blocks again instead of keeping
        it: less memory, more time.
    """

    latent_channels: int
    features: int = 768
    num_heads: int = 8
    depth: int = 4
    mid_depth: int = 5
    patch: int = 1
    dropout: float = 0.05
    last_norm: str = "layer"
    dtype: str = "float32"
    remat: bool = False

    def setup(self):
        dtype = compute_dtype(self.dtype)
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock

        def blocks(count):
            options = dict(dropout=self.dropout, dtype=dtype)
            return [block(self.num_heads, **options) for _ in range(count)]

        def dense(features):
            return Dense(features, dtype=dtype)

        self.embed = dense(self.features)
        table = (POSITIONS, self.features // 2)
        self.column_table = self.param("column_table", _centred_uniform, table)
        self.row_table = self.param("row_table", _centred_uniform, table)
        self.distance_hidden = nn.Dense(256)
        self.distance_out = nn.Dense(self.features)
        self.in_blocks = blocks(self.depth)
        self.mid_blocks = blocks(self.mid_depth)
        self.skips = [dense(self.features) for _ in range(self.depth)]
        self.out_blocks = blocks(self.depth)
        self.out_hidden = dense(self.features)
        if self.last_norm not in LAST_NORMS:
            raise ValueError(
                f"last_norm={self.last_norm!r} is unknown; use layer or frozen"
            )
        self.out_norm = LAST_NORMS[self.last_norm]()
        self.out_conv = Conv(
            self.latent_channels * self.patch**2, kernel_init=nn.initializers.zeros
        )

    def __call__(
        self,
        latent: Float[Array, "b h w c"],
        reference: Float[Array, "b h w c"],
        condition: Float[Array, "b h w c"],
        distance: Int[Array, "b"],
        time: Float[Array, "b"],
        keys: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w c"]:
        """d latent / d time.

        Args:
          latent: on the way, noise at time 0 and the next frame at time 1.
          reference: of the frame before the next one.
          condition: of an earlier frame.
          distance: frames from the condition to the reference, at least 1.
          time: in [0, 1].
          keys: [b], of the dropout; None while nothing is trained.

        Raises:
          ValueError: a grid that the patch does not divide.
        """
        height, width = latent.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"a latent grid of {height}x{width} does not divide into patches of"
                f" {self.patch}x{self.patch}"
            )
        seen = jnp.concatenate([latent, reference, condition], -1)
        patches = space_to_depth(seen, self.patch) if self.patch > 1 else seen
        x = self._tokens(patches, distance, time)
        split = None if keys is None else jax.vmap(self._keys_of_blocks)(keys)
        number = iter(range(2 * self.depth + self.mid_depth))

        def run(block, x):
            at = next(number)
            return block(x, None if split is None else split[:, at])

        outputs = []
        for block in self.in_blocks:
            x = run(block, x)
            outputs.append(x)
        for block in self.mid_blocks:
            x = run(block, x)
        for skip, block in zip(self.skips, self.out_blocks, strict=True):
            both = jnp.concatenate([outputs.pop(), x], -1)
            x = run(block, skip(both).astype(x.dtype))
        x = gelu(self.out_hidden(x[:, 1:]))
        x = self.out_norm(x).reshape(*patches.shape[:3], -1)
        velocity = self.out_conv(x.astype(jnp.float32))
        return depth_to_space(velocity, self.patch) if self.patch > 1 else velocity

    def _tokens(self, patches, distance, time):
        """A token that tells the time, then one for each place, row by row."""
        b, height, width, _ = patches.shape
        half = self.features // 2
        column = jnp.broadcast_to(self.column_table[:width], (height, width, half))
        row = jnp.broadcast_to(self.row_table[:height, None], (height, width, half))
        place = jnp.concatenate([column, row], -1).reshape(1, height * width, -1)
        log = jnp.log(distance.astype(jnp.float32))[:, None]
        far = self.distance_out(nn.relu(self.distance_hidden(log)))[:, None]
        x = self.embed(patches.reshape(b, height * width, -1)).astype(jnp.float32)
        x = x + jnp.broadcast_to(place, x.shape) + jnp.broadcast_to(far, x.shape)
        return jnp.concatenate([time_token(time, self.features)[:, None], x], 1)

    def _keys_of_blocks(self, key):
        return jax.random.split(key, 2 * self.depth + self.mid_depth)


class FrozenBatchNorm(nn.Module):
    """A batch norm (Ioffe and Szegedy 2015) whose statistics are part of its scale."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        return x.astype(jnp.float32) * scale[None, None] + bias[None, None]


LAST_NORMS = {"layer": norm, "frozen": FrozenBatchNorm}


def time_token(time: Float[Array, "b"], features: int) -> Float[Array, "b d"]:
    """cos and sin of 200 t at `features` / 2 frequencies from 1 down to 1 / 10000."""
    half = features // 2
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
    angle = TIME_SCALE * jnp.einsum("b,d->bd", time, frequency)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def _centred_uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
