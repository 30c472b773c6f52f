"""Dense optical flow without weights (Farneback 2003): polynomials of neighbourhoods.

Around every pixel a quadratic polynomial describes the frame, f(x) = x'Ax + b'x + c.
Moving the picture by d changes b to b - 2Ad: two equations for d at every pixel, solved
by least squares over a window. The polynomial of the next frame is then taken from
where the flow points to and the equations are solved again, coarse to fine.

Constants, borders and pyramid are those of OpenCV's calcOpticalFlowFarneback with
pyramid scale 0.5, 3 levels, window 15, 3 iterations, poly_n 5, poly_sigma 1.2, flags 0,
as TecoGAN calls it. Both agree to 1e-3 pixels, but for a few places at the border
where rounding decides whether the flow points out of the picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_vidpred.ops.resize import resize
from jax_vidpred.ops.warp import places

HALVINGS = 3  # levels of the pyramid below the full resolution, at most
SMALLEST = 32  # no level has a side of fewer pixels
ITERATIONS = 3  # on every level
WINDOW = 15  # pixels across which the equations are averaged
POLY_RADIUS, POLY_SIGMA = 5, 1.2  # of the neighbourhood that a polynomial describes
# Added to the determinant, which is of the order of (grey levels)^4: it keeps the flow
# of what is flat at zero, and is why the scale of the grey levels matters.
REGULARISER = 1e-3

# How much pixels count by their distance from the border: polynomials are poor there.
_NEAR_BORDER = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472, 1])


def farneback(frames: Float[Array, "b t h w"]) -> Float[Array, "b t-1 h w 2"]:
    """Flow from every frame to the next one.

    A frame is described once and serves both of its steps. On one core a step of 64x64
    takes about a millisecond, as in OpenCV.

    Args:
      frames: grey levels in 0..255.

    Returns:
      (x right, y down) in pixels: what is at p in frame k is at p + flow[k](p) in frame
      k + 1. This is forward flow, on the grid of the EARLIER frame; elsewhere in the
      package flow lives on the later one and points back.

    Raises:
      ValueError: frames of fewer than 10 pixels a side, which are all border.
    """
    b, t, height, width = frames.shape
    narrowest = 2 * (len(_NEAR_BORDER) - 1)
    if min(height, width) < narrowest:
        raise ValueError(
            f"frames of {height}x{width}; flow needs {narrowest} pixels a side, for"
            f" {narrowest // 2} at each border hardly count"
        )
    flow = None
    for halvings in reversed(range(_num_levels(height, width))):
        size = tuple(int(np.rint(n * 0.5**halvings)) for n in (height, width))
        polynomials = _polynomials(_smaller(frames, halvings, size))
        first, second = (
            part.reshape(5, b * (t - 1), *size)
            for part in (polynomials[:, :, :-1], polynomials[:, :, 1:])
        )
        if flow is None:
            flow = jnp.zeros((b * (t - 1), *size, 2), frames.dtype)
        else:
            flow = 2 * resize(flow, size)

        def improve(_, flow, first=first, second=second):
            return _solved(_equations(first, second, flow))

        # A loop, for unrolled XLA computes what an iteration hands on again and again.
        flow = jax.lax.fori_loop(0, ITERATIONS, improve, flow)
    return flow.reshape(b, t - 1, height, width, 2)


def _num_levels(height, width):
    """How many resolutions are used, the full one included."""
    levels = 1
    while levels <= HALVINGS and min(height, width) >= SMALLEST * 2**levels:
        levels += 1
    return levels


def _smaller(frames, halvings, size):
    """Blurred, also at full resolution, and resized."""
    sigma = (2**halvings - 1) / 2
    radius = max(int(np.rint(5 * sigma)) // 2, 1)
    blur = _gaussian(radius, sigma) if halvings else np.array([0.25, 0.5, 0.25])
    rows, columns = (_band_matrix(blur, n, "reflect") for n in frames.shape[-2:])
    return resize(_along_both(frames, rows, columns)[..., None], size)[..., 0]


def _polynomials(frames):
    """Coefficients of y, x, y^2, x^2 and xy around each pixel, [5, b, t, h, w].

    Least squares over the neighbourhood with Gaussian weights.
    """
    offsets = np.arange(-POLY_RADIUS, POLY_RADIUS + 1)
    weights = _gaussian(POLY_RADIUS, POLY_SIGMA)
    second, fourth = weights @ offsets**2, weights @ offsets**4
    # Odd moments of the weights vanish, so only 1, y^2 and x^2 are not orthogonal.
    inverse = np.linalg.inv(
        [
            [1, second, second],
            [second, fourth, second**2],
            [second, second**2, fourth],
        ]
    )
    down, across = (
        [_band_matrix(weights * offsets**k, n, "edge") for k in range(3)]
        for n in frames.shape[-2:]
    )
    one, y, x, yy, xx, xy = (
        _along_both(frames, down[i], across[j])
        for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1))
    )
    return jnp.stack(
        [
            y / second,
            x / second,
            inverse[1, 0] * one + inverse[1, 1] * yy + inverse[1, 2] * xx,
            inverse[2, 0] * one + inverse[2, 1] * yy + inverse[2, 2] * xx,
            xy / second**2,
        ]
    )


def _equations(first, second, flow):
    """A'A (yy, xy, xx) and A'(change of b) (y, x), averaged, [5, n, h, w]."""
    h, w = first.shape[-2:]
    second, inside = _sampled(second, flow)
    # What leaves the picture keeps its shape and has no counterpart for its slope.
    slope_y, slope_x, yy, xx, xy = (
        jnp.where(inside, there, here if k > 1 else 0)
        for k, (here, there) in enumerate(zip(first, second, strict=True))
    )
    yy, xx, xy = (first[2] + yy) / 2, (first[3] + xx) / 2, (first[4] + xy) / 4
    x, y = flow[..., 0], flow[..., 1]
    # The flow so far is put back, so that the window averages whole displacements.
    change_y = (first[0] - slope_y) / 2 + yy * y + xy * x
    change_x = (first[1] - slope_x) / 2 + xy * y + xx * x
    rows, columns = _border_weights(h), _border_weights(w)
    weights = jnp.asarray(np.outer(rows, columns)[None] ** 2, flow.dtype)
    products = jnp.stack(
        [
            weights * (yy * yy + xy * xy),
            weights * (yy + xx) * xy,
            weights * (xx * xx + xy * xy),
            weights * (yy * change_y + xy * change_x),
            weights * (xy * change_y + xx * change_x),
        ]
    )
    box = np.full(WINDOW, 1 / WINDOW)
    return _along_both(products, *(_band_matrix(box, n, "edge") for n in (h, w)))


def _solved(equations):
    yy, xy, xx, y, x = equations
    scale = 1 / (yy * xx - xy * xy + REGULARISER)
    return jnp.stack([(yy * x - xy * y) * scale, (xx * y - xy * x) * scale], -1)


def _sampled(values, flow):
    """values [c, n, h, w] at p + flow(p), bilinear; and where that lies inside."""
    h, w = values.shape[-2:]
    x, y = places(flow)
    x, y = x + flow[..., 0], y + flow[..., 1]
    left, top = jnp.floor(x), jnp.floor(y)
    # As in OpenCV, the last row and column themselves count as outside.
    inside = (left >= 0) & (left < w - 1) & (top >= 0) & (top < h - 1)
    across, down = x - left, y - top
    place = jnp.where(inside, top * w + left, 0).astype(jnp.int32)
    place += h * w * jax.lax.broadcasted_iota(jnp.int32, place.shape, 0)

    def sample(plane):
        plane = plane.reshape(-1)
        corner, beside, below, opposite = (
            plane.at[place + step].get(mode="promise_in_bounds")
            for step in (0, 1, w, w + 1)
        )
        upper = corner + across * (beside - corner)
        lower = below + across * (opposite - below)
        return upper + down * (lower - upper)

    # One coefficient after the other: the loop makes XLA keep what is gathered, which
    # it would gather again for every product that it occurs in (half the speed).
    return jax.lax.map(sample, values), inside


def _along_both(values, rows, columns):
    """Two matrix products over the last two axes, at full precision."""
    values = jnp.einsum("...hw,jw->...hj", values, columns, precision="highest")
    return jnp.einsum("ih,...hw->...iw", rows, values, precision="highest")


def _band_matrix(taps, size, border):
    """[size, size] matrix that correlates with `taps`; `border` as np.pad's mode."""
    source = np.pad(np.arange(size), len(taps) // 2, mode=border)
    return sum(
        tap * np.eye(size)[source[k : k + size]] for k, tap in enumerate(taps)
    ).astype(np.float32)


def _gaussian(radius, sigma):
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def _border_weights(size):
    inwards = np.minimum(np.arange(size), len(_NEAR_BORDER) - 1)
    return _NEAR_BORDER[inwards] * _NEAR_BORDER[inwards[::-1]]
