"""Object states as pictures on a grid: the labels that tell a model what is to happen.

States are positions on the plane in which the objects' centres move; CLEVRER's camera
(`ops.geometry`) says where that is in the picture.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_vidpred.ops import geometry

RADIUS = 0.2  # world units; of every object, and so the height of its resting centre
CHANNELS = ("here", "before", "dx", "dy")
_NEAREST = 0.5  # world units; nearer than this nothing is ever seen of an object


def render_states(
    state: Float[Array, "b t n 4"],
    present: Bool[Array, "b t n"],
    height: int,
    width: int,
) -> Float[Array, "b t2 gh gw 4"]:
    """Where the objects are and how they have moved, in each frame but the first.

    The motion is the difference of two positions, not the annotated velocity: so a
    position that is edited needs no second edit, and a collision, at which velocities
    jump, is told by where it leads. The order of the objects does not matter.

    Args:
      state: x, y in world units; the other two numbers (velocities) are not looked at.
      present: objects that are there; the others leave no trace.
      height, width: of the grid, which stands for the whole picture.

    Returns:
      for the t - 1 frames after the first, channels named by CHANNELS: occupancy in
      this frame and in the one before, in [0, 1], a Gaussian of each object's projected
      radius about its projected centre, the largest of all objects; and the way since
      the frame before, (x right, y down) in cells, times the occupancy in this frame (a
      weighted mean where objects overlap; 0 for an object absent in either frame).
    """
    centre, radius, visible = _project(state[..., :2], height, width)
    present = present & visible
    blobs = _blobs(centre, radius, present, height, width)
    occupied = blobs.max(-1)
    moved = (present[:, 1:] & present[:, :-1])[..., None]
    way = jnp.where(moved, centre[:, 1:] - centre[:, :-1], 0.0)
    weight = jnp.maximum(blobs[:, 1:].sum(-1), 1.0)[..., None]
    way = jnp.einsum("bthwn,btnc->bthwc", blobs[:, 1:], way) / weight
    both = jnp.stack([occupied[:, 1:], occupied[:, :-1]], -1)
    return jnp.concatenate([both, way], -1)


def _project(xy, height, width):
    """Centres [.., 2] and radii [.., 2] in cells, and what lies before the camera."""
    plane = jnp.asarray(geometry.floor_homography(height, width, RADIUS), jnp.float32)
    ones = jnp.ones_like(xy[..., :1])
    u, v, depth = jnp.moveaxis(
        jnp.einsum("ij,...j->...i", plane, jnp.concatenate([xy, ones], -1)), -1, 0
    )
    safe = jnp.maximum(depth, _NEAREST)
    cells = (width / geometry.FULL_WIDTH, height / geometry.FULL_HEIGHT)
    size = jnp.stack([RADIUS * geometry.FOCAL * scale / safe for scale in cells], -1)
    return jnp.stack([u / safe, v / safe], -1), size, depth > _NEAREST


def _blobs(centre, radius, present, height, width):
    """[b, t, gh, gw, n]; a Gaussian of two axes is a product of one along each."""
    sides = []
    for axis, size in enumerate((width, height)):
        cells = (jnp.arange(size) + 0.5).reshape(1, 1, 1, size)
        offset = (cells - centre[..., axis, None]) / radius[..., axis, None]
        sides.append(jnp.exp(-jnp.square(offset) / 2))
    across, down = sides
    return jnp.einsum("btnh,btnw,btn->bthwn", down, across, present * 1.0)


def extend_constant_velocity(
    state: Float[Array, "b c n 4"],
    present: Bool[Array, "b c n"],
    num_frames: int,
    seconds_per_frame: float,
) -> tuple[Float[Array, "b t n 4"], Bool[Array, "b t n"]]:
    """Known states, continued to `num_frames` frames as if nothing pushed or braked.

    Args:
      state: x, y in world units and vx, vy in world units per simulated second.
      present: objects that are there; who is there in the last known frame stays.
      num_frames: of the result; known frames beyond it are left out.
      seconds_per_frame: simulated seconds from one frame to the next.
    """
    known = state.shape[1]
    steps = jnp.arange(1, max(num_frames - known, 0) + 1, dtype=state.dtype)
    velocity = state[:, -1:, :, 2:]
    way = steps[None, :, None, None] * seconds_per_frame * velocity
    future = jnp.concatenate(
        [state[:, -1:, :, :2] + way, jnp.broadcast_to(velocity, way.shape)], -1
    )
    stays = jnp.broadcast_to(present[:, -1:], future.shape[:3])
    return (
        jnp.concatenate([state, future], 1)[:, :num_frames],
        jnp.concatenate([present, stays], 1)[:, :num_frames],
    )
