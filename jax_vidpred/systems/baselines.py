"""What prediction costs nothing: copy the last frame, or let everything move on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.ops.flow import resize_flow
from jax_vidpred.ops.warp import splat


def copy_last(
    context: Float[Array, "b t h w 3"], num_future: int
) -> Float[Array, "b k h w 3"]:
    """The last context frame, again and again."""
    return jnp.repeat(context[:, -1:], num_future, axis=1)


def constant_velocity(
    context: Float[Array, "b t h w 3"],
    flow: Float[Array, "b gh gw 2"],
    num_future: int,
    *,
    still: float = 0.05,
) -> Float[Array, "b k h w 3"]:
    """Every moving pixel goes on as it last moved, over the median of the context.

    Args:
      context: frames in [0, 1].
      flow: backward flow of the last context frame (to the frame before), in pixels of
        its own grid: the truth where it is known, else a model's.
      num_future: frames to predict.
      still: slower pixels, in image pixels per frame, stay where they are.
    """
    _, _, h, w, _ = context.shape
    backward = resize_flow(flow, h, w)
    moving = jnp.linalg.norm(backward, axis=-1, keepdims=True) > still
    last = context[:, -1]
    # What a moving object leaves behind is what was seen there most of the time.
    background = jnp.where(moving, jnp.median(context, axis=1), last)
    content = jnp.concatenate([last, jnp.ones_like(last[..., :1])], -1) * moving

    def after(steps):
        colour, weight = splat(content, -backward * steps)
        arrived = colour[..., 3:]  # share of the arriving weight that moves
        alpha = jnp.clip(arrived, 0, 1)
        moved = colour[..., :3] / jnp.maximum(arrived, 1e-6)
        del weight
        return alpha * moved + (1 - alpha) * background

    steps = jnp.arange(1, num_future + 1, dtype=jnp.float32)
    return jnp.moveaxis(jax.lax.map(after, steps), 0, 1)
