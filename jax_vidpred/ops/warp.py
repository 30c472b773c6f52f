"""Moving images along flow: backward warping and forward splatting.

Flow lives on the grid of the later frame and points back: `(x right, y down)` in pixels
of its own grid, so that `warp(earlier, flow)(p) = earlier(p + flow(p))` shows the later
frame.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def warp(
    image: Float[Array, "*b h w c"], flow: Float[Array, "*b h w 2"]
) -> Float[Array, "*b h w c"]:
    """Samples `image` at p + flow(p), bilinearly; beyond the border the border repeats.

    Equals torch's grid_sample(align_corners=True, padding_mode="border"). The gradient
    reaches image and flow; where a sample lies outside, the flow's gradient is zero.

    Args:
      image: the earlier frame or latent.
      flow: displacement into the earlier frame, pixels of this grid.
    """
    *batch, h, w, c = image.shape
    x, y = places(flow)
    at_x = jnp.clip(x + flow[..., 0], 0, w - 1)
    at_y = jnp.clip(y + flow[..., 1], 0, h - 1)
    left = jnp.clip(jnp.floor(at_x), 0, max(w - 2, 0))
    top = jnp.clip(jnp.floor(at_y), 0, max(h - 2, 0))
    across, down = (at_x - left)[..., None], (at_y - top)[..., None]
    first = (top * w + left).astype(jnp.int32).reshape(*batch, h * w, 1)
    pixels = image.reshape(*batch, h * w, c)

    def corner(offset):
        index = jnp.minimum(first + offset, h * w - 1)
        return jnp.take_along_axis(pixels, index, axis=-2).reshape(image.shape)

    upper = corner(0) * (1 - across) + corner(1 if w > 1 else 0) * across
    step = w if h > 1 else 0
    lower = corner(step) * (1 - across) + corner(step + (w > 1)) * across
    return upper * (1 - down) + lower * down


def warp_near(
    image: Float[Array, "*b h w c"],
    flow: Float[Array, "*b h w 2"],
    reach: int,
) -> Float[Array, "*b h w c"]:
    """`warp` for flow within +-`reach` pixels, without a gather.

    A weighted sum of the (2 reach + 1)^2 shifted images, with the hat function
    max(0, 1 - |d|) as weight in each direction: the same bilinear sampling. Flow beyond
    the reach is clipped to it. Gathers and their scatter gradients are slow on CPU and
    TPU; this form is plain arithmetic.
    """
    h, w = image.shape[-3:-1]
    x, y = places(flow)
    dx = jnp.clip(x + jnp.clip(flow[..., 0], -reach, reach), 0, w - 1) - x
    dy = jnp.clip(y + jnp.clip(flow[..., 1], -reach, reach), 0, h - 1) - y
    pads = [(0, 0)] * (image.ndim - 3) + [(reach, reach)] * 2 + [(0, 0)]
    padded = jnp.pad(image, pads)
    offsets = range(-reach, reach + 1)
    across = [_hat(dx - j)[..., None] for j in offsets]
    down = [_hat(dy - i)[..., None] for i in offsets]
    total = 0.0
    for i in range(2 * reach + 1):
        rows = padded[..., i : i + h, :, :]
        row = sum(across[j] * rows[..., j : j + w, :] for j in range(2 * reach + 1))
        total = total + down[i] * row
    return total


def _hat(distance):
    # Not 1 - |d|: the derivative of abs at 0 is 1 in JAX, and flow heads start at 0.
    return jnp.maximum(0, jnp.minimum(1 + distance, 1 - distance))


def splat(
    values: Float[Array, "b h w c"], displacement: Float[Array, "b h w 2"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w 1"]]:
    """Pushes every pixel to p + displacement(p), spread over its four neighbours.

    Returns:
      the sum of the arriving values and the sum of their weights (divide to average);
      what lands outside the picture is lost.
    """
    b, h, w, c = values.shape
    x, y = places(displacement)
    to_x, to_y = x + displacement[..., 0], y + displacement[..., 1]
    left, top = jnp.floor(to_x), jnp.floor(to_y)
    content = jnp.concatenate([values, jnp.ones((b, h, w, 1), values.dtype)], -1)
    total = jnp.zeros((b, h * w, c + 1), values.dtype)
    rows = jnp.arange(b)[:, None]
    for i in (0, 1):
        for j in (0, 1):
            column, row = left + j, top + i
            weight = (1 - jnp.abs(to_x - column)) * (1 - jnp.abs(to_y - row))
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index = jnp.where(inside, row * w + column, 0).astype(jnp.int32)
            part = content * jnp.where(inside, weight, 0)[..., None]
            total = total.at[rows, index.reshape(b, -1)].add(
                part.reshape(b, h * w, c + 1)
            )
    total = total.reshape(b, h, w, c + 1)
    return total[..., :-1], total[..., -1:]


def places(
    flow: Float[Array, "*b h w 2"],
) -> tuple[Float[Array, "*b h w"], Float[Array, "*b h w"]]:
    """Column and row of every pixel of a flow field's grid."""
    shape = flow.shape[:-1]
    rows, columns = len(shape) - 2, len(shape) - 1
    x = lax.broadcasted_iota(flow.dtype, shape, columns)
    return x, lax.broadcasted_iota(flow.dtype, shape, rows)
