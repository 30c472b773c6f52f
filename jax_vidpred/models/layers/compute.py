"""How layers compute: in which type, and what they keep for the gradient."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

_DTYPES = ("float32", "bfloat16")


def compute_dtype(name: str) -> jnp.dtype:
    """The type of that name, in which convolutions and what lies between them compute.

    Parameters, norms, softmax, recurrent state, coordinates and the last convolution of
    a net or head stay float32 whatever it is.

    Raises:
      ValueError: neither float32 nor bfloat16 (float16 would need its loss scaled).
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype {name!r} is unknown; use {' or '.join(_DTYPES)}")
    return jnp.dtype(name)


def apply(layer: nn.Module, x: Float[Array, "b h w c"], *, remat: bool):
    """layer(x); with `remat` the gradient keeps only x and computes the rest again.

    Names and values of the parameters are the same with and without.
    """
    return nn.remat(lambda layer, x: layer(x))(layer, x) if remat else layer(x)
