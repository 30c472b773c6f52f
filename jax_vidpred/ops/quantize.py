"""Vector quantisation: nearest codes, a gradient past them, codebooks that stay alive.

Latents are rows of a codebook [n, c] (van den Oord et al. 2017). Shares and sums below
are means over all places of a batch, so those of parts of a batch can be averaged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class CodeUse(NamedTuple):
    """What a batch, or a moving average over batches, makes of each code.

    Attributes:
      share: of all latents, the share that is nearest to it; they sum to 1.
      total: the sum of these latents, divided by the number of all latents.
    """

    share: Float[Array, "n"]
    total: Float[Array, "n c"]


def nearest_code(
    latent: Float[Array, "*b c"], codebook: Float[Array, "n c"]
) -> Int[Array, "*b"]:
    """Number of the code at the smallest Euclidean distance."""
    # |z - e|^2 without |z|^2, which is the same for all codes. Where it is computed in
    # less than float32, neighbouring codes are confused.
    latent = latent.astype(jnp.float32)
    product = jnp.einsum("...c,nc->...n", latent, codebook, precision="highest")
    squares = jnp.square(codebook).sum(1)
    distance = jnp.broadcast_to(squares, product.shape) - 2 * product
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def quantize(
    latent: Float[Array, "*b c"], codebook: Float[Array, "n c"]
) -> tuple[Float[Array, "*b c"], Int[Array, "*b"]]:
    """The nearest codes, and their numbers.

    The gradient goes straight through to the latent as if nothing had been rounded; the
    codebook has none.
    """
    index = nearest_code(jax.lax.stop_gradient(latent), codebook)
    # Unlike codebook[index] it may come from outside of a `shard_map`.
    code = jnp.take(codebook, index, axis=0)
    return latent + jax.lax.stop_gradient(code - latent), index


def code_use(
    latent: Float[Array, "*b c"], index: Int[Array, "*b"], num_codes: int
) -> CodeUse:
    """Which codes these latents are nearest to, given the numbers of the codes."""
    latent = latent.reshape(-1, latent.shape[-1]).astype(jnp.float32)
    index = index.reshape(-1)
    share = jnp.zeros(num_codes).at[index].add(1.0)
    total = jnp.zeros((num_codes, latent.shape[1])).at[index].add(latent)
    return CodeUse(share / len(index), total / len(index))


def perplexity(share: Float[Array, "n"]) -> Float[Array, ""]:
    """exp of the entropy of the codes' use: how many codes are used, as if equally."""
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-20))))


def follow(
    average: CodeUse, batch: CodeUse, decay: float | Float[Array, ""]
) -> CodeUse:
    """Moving average of the use of codes (van den Oord et al. 2017, eq. 6, 7)."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, batch)


def centroids(use: CodeUse, codebook: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Each code in the middle of its latents (eq. 8); one without any stays."""
    seen = use.share > 1e-8
    mean = use.total / jnp.maximum(use.share, 1e-8)[:, None]
    return jnp.where(seen[:, None], mean, codebook)


def revive(
    use: CodeUse,
    codebook: Float[Array, "n c"],
    key: jax.Array,
    *,
    below: float,
    spread: Float[Array, ""],
) -> tuple[CodeUse, Float[Array, "n c"], Float[Array, ""]]:
    """Puts dead codes beside codes that are much used, which share their latents then.

    It needs nothing but the use of codes, so it is the same however a batch was split.
    (Drawing latents of the batch instead, as Dhariwal et al. 2020 do, is not.)

    Args:
      use: moving average.
      codebook: its codes.
      key: of what is drawn.
      below: a code is dead if its share is below `below` / n.
      spread: how far from its neighbour a revived code is put, per channel; the
        root of the mean squared quantisation error is a good one.

    Returns:
      use and codebook after it, and the number of codes that were dead.
    """
    n, c = codebook.shape
    dead = use.share < below / n
    chosen, noise = jax.random.split(key)
    # Each code by its share, those that are dead never: where a number between 0 and
    # the sum falls. (`jax.random.categorical` would draw n numbers for each of n.)
    upper = jnp.cumsum(jnp.where(dead, 0.0, use.share))
    drawn = upper[-1] * jax.random.uniform(chosen, (n,))
    beside = codebook[jnp.searchsorted(upper, drawn, side="right").clip(max=n - 1)]
    fresh = beside + spread * jax.random.normal(noise, (n, c))
    codebook = jnp.where(dead[:, None], fresh, codebook)
    share = jnp.where(dead, 1.0 / n, use.share)  # a chance to live until it is judged
    total = jnp.where(dead[:, None], codebook / n, use.total)
    return CodeUse(share, total), codebook, dead.sum() * 1.0
