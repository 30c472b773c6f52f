"""Self-attention and pre-norm transformer blocks (Vaswani et al. 2017; Xiong 2020)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jax_vidpred.ops.activation import gelu


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b m heads d"],
    value: Float[Array, "b m heads d"],
) -> Float[Array, "b n heads d"]:
    """softmax(query key^T / sqrt d) value for each head; the softmax is in float32.

    Fused (flash attention) on a GPU in bfloat16 where cuDNN has the width of the heads,
    a multiple of 8 up to 128. Elsewhere heads are moved in front once:
    `jax.nn.dot_product_attention`, which leaves them where they are, takes 1.3 to 1.6
    times as long on a CPU, its gradient 1.5 to 2 times.
    """
    width = query.shape[-1]
    is_fused = query.dtype == jnp.bfloat16 and width % 8 == 0 and width <= 128
    if is_fused and jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    scaled = query.swapaxes(1, 2) * width**-0.5
    logits = scaled @ key.transpose(0, 2, 3, 1)
    weights = jax.nn.softmax(logits.astype(jnp.float32), -1).astype(value.dtype)
    return (weights @ value.swapaxes(1, 2)).swapaxes(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, all tokens seeing all.

    Attributes:
      num_heads: must divide the width.
      dtype: computation type; parameters stay float32.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        b, n, features = x.shape
        if features % self.num_heads:
            raise ValueError(
                f"{features} features cannot be shared by num_heads={self.num_heads};"
                " choose a divisor"
            )
        qkv = Dense(3 * features, dtype=self.dtype, name="qkv")(x)
        heads = qkv.reshape(b, n, 3, self.num_heads, -1)
        seen = attend(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        return Dense(features, dtype=self.dtype, name="out")(
            seen.reshape(b, n, features)
        )


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), with exact GELU.

    Attributes:
      num_heads: of the attention.
      expansion: width of the feed-forward net, in widths of the tokens.
      dropout: rate, after the attention, and twice in the feed-forward net. Attention
        weights are not dropped, so that the attention can be fused.
      dtype: computation type; parameters, norms and the sum stay float32.
    """

    num_heads: int
    expansion: int = 4
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], keys: PRNGKeyArray | None = None
    ) -> Float[Array, "b n d"]:
        """Args: tokens, and a key [b] for each example where something is dropped."""
        features = x.shape[-1]
        y = norm("norm_attention")(x)
        y = SelfAttention(self.num_heads, self.dtype, name="attention")(y)
        x = x + drop(y.astype(x.dtype), self.dropout, keys, 0)
        y = norm("norm_hidden")(x)
        y = Dense(self.expansion * features, dtype=self.dtype, name="hidden")(y)
        y = drop(gelu(y), self.dropout, keys, 1)
        y = Dense(features, dtype=self.dtype, name="out")(y)
        return x + drop(y.astype(x.dtype), self.dropout, keys, 2)


class Dense(nn.Dense):
    """`flax.linen.Dense` on [b, n, d] as one product of two matrices.

    Left with its two axes in front, the kernel's gradient takes 1.3 times as long on a
    CPU: XLA moves both operands of the product first.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n features"]:
        y = super().__call__(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], self.features)


def norm(name: str | None = None) -> nn.LayerNorm:
    """Layer norm (Ba et al. 2016), in float32.

    The fast variance, E x^2 - (E x)^2, loses digits where a token's mean is large.
    """
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def drop(
    x: Float[Array, "b n d"], rate: float, keys: PRNGKeyArray | None, site: int
) -> Float[Array, "b n d"]:
    """Dropout (Srivastava et al. 2014) whose masks follow from a key of each example.

    So an example loses the same numbers however the batch is split. Nothing is dropped
    where keys is None.

    Args:
      x: of a batch.
      rate: of the numbers that become 0, rounded to 1 / 256; the others grow so that
        the mean stays.
      keys: [b].
      site: number of this call in a layer: calls with the same keys differ by it.
    """
    share = round(rate * 256)
    if keys is None or not share:
        return x
    size = x[0].size

    def kept(key):
        # 8 bits decide about each number: random bits are what dropout costs.
        fours = jax.random.bits(jax.random.fold_in(key, site), (size + 3) // 4)
        drawn = jax.lax.bitcast_convert_type(fours, jnp.uint8).reshape(-1)
        return (drawn[:size] >= share).reshape(x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x * (256 / (256 - share)), 0)
