"""Supervision of object slots that have no order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

MAX_SLOTS = 7  # 5040 permutations


def unordered_state_loss(
    present_logit: Float[Array, "b k n"],
    state: Float[Array, "b k n d"],
    target: Float[Array, "b k n d"],
    present: Bool[Array, "b k n"],
) -> Float[Array, "b k"]:
    """Cost of the cheapest assignment of slots to objects, by trying every permutation.

    A pair costs the L1 distance of the states where the object is present plus the
    cross-entropy of the presence; objects that are absent or out of view are matched to
    slots that say so. Exact, so its gradient is that of the minimum.

    Raises:
      ValueError: more slots than can be enumerated.
    """
    n = state.shape[2]
    if n > MAX_SLOTS:
        raise ValueError(
            f"{n} object slots give {n}! assignments; at most {MAX_SLOTS} are supported"
        )
    here = present[:, :, None, :]
    distance = jnp.abs(state[:, :, :, None] - target[:, :, None]).mean(-1)
    presence = optax.sigmoid_binary_cross_entropy(
        present_logit[..., None], here.astype(jnp.float32)
    )
    cost = jnp.where(here, distance, 0) + presence  # [b, k, slot, object]
    permutations = np.array(list(itertools.permutations(range(n))))
    chosen = jax.nn.one_hot(permutations, n).reshape(len(permutations), n * n)
    # One product with a 0/1 matrix sums every assignment at once.
    totals = cost.reshape(*cost.shape[:2], n * n) @ chosen.T
    return jnp.min(totals, -1) / n
