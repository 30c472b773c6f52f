"""What prediction costs nothing: copy the last frame, or let everything move on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.ops.flow import resize_flow
from jax_vidpred.ops.warp import splat


def copy_last(
    context: Float[Array, "b t h w 3"], num_future: int
) -> Float[Array, "b k h w 3"]:
    """The last context frame, again and again."""
    return jnp.repeat(context[:, -1:], num_future, axis=1)


def psnr_beside_copy_last(
    prediction: Float[Array, "b k h w 3"],
    context: Float[Array, "b t h w 3"],
    future: Float[Array, "b k h w 3"],
) -> dict[str, Float[Array, "b"]]:
    """`psnr` of predicted frames, and `psnr_copy_last` of what costs nothing, in dB."""
    copied = copy_last(context, future.shape[1])
    return {
        "psnr": frame_metrics.psnr(prediction, future).mean(1),
        "psnr_copy_last": frame_metrics.psnr(copied, future).mean(1),
    }


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
    _, gh, gw, _ = flow.shape
    grown = _grow(flow, still * min(gh / h, gw / w))
    backward = resize_flow(grown, h, w)
    moving = jnp.linalg.norm(backward, axis=-1, keepdims=True) > still
    last = context[:, -1]
    # What a moving object leaves behind is what was seen there most of the time.
    background = jnp.where(moving, jnp.median(context, axis=1), last)
    content = jnp.concatenate([last, jnp.ones_like(last[..., :1])], -1) * moving

    def after(steps):
        arrived, _ = splat(content, -backward * steps)
        weight = arrived[..., 3:]  # of what has arrived at a pixel
        alpha = jnp.clip(weight, 0, 1)
        moved = arrived[..., :3] / jnp.maximum(weight, 1e-6)
        return alpha * moved + (1 - alpha) * background

    steps = jnp.arange(1, num_future + 1, dtype=jnp.float32)
    return jnp.moveaxis(jax.lax.map(after, steps), 0, 1)


def _grow(flow: Float[Array, "b h w 2"], still: float) -> Float[Array, "b h w 2"]:
    """Cells at rest beside a moving one take its flow, the fastest neighbour's.

    A grid cell knows one motion, but objects end within cells: without this, the rims
    of an object (and its shadow) stay behind, or are drawn out by the interpolation
    between moving and resting cells.
    """
    _, h, w, _ = flow.shape
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = jnp.stack(
        [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    )
    fastest = jnp.argmax(jnp.linalg.norm(near, axis=-1), axis=0)
    taken = jnp.take_along_axis(near, fastest[None, ..., None], axis=0)[0]
    resting = jnp.linalg.norm(flow, axis=-1, keepdims=True) <= still
    return jnp.where(resting, taken, flow)
