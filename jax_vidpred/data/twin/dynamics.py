"""How the twin's objects move: CLEVRER's measured laws, integrated by MuJoCo.

Every object slides upright on the floor (z = 0.2, no rolling, no tipping), so it has
three degrees of freedom: x, y and a turn about z. MuJoCo integrates them and resolves
contacts; drag acts as a force on top. The laws were measured on 11 official
annotations:

- drag: dv/dt = -(f + 0.04 v + 0.04 v^2) along the velocity, v in units per simulated
  second; f = 0.293 (friction 0.03 times 9.8) for cubes and cylinders, 0 for spheres,
  which therefore creep on at low speed. Median residual 0.009, for spheres 0.001.
- spin of a cube: dw/dt = -(3.8 + 0.1 w + 0.1 w^2), w in radians per second.
- contacts: equal masses, hardly any friction (a cube spins because its corners are
  hit off centre, round objects do not), restitution near 0 for slow hits and about a
  half for fast ones.

Source of every number: the least-squares fits described above; the laws agree with
Bullet's defaults (damping 0.04, friction 0.03).
"""

import dataclasses
import functools

import mujoco
import numpy as np

from jax_vidpred.data.schema import FRAME_SECONDS, NUM_FRAMES, Collision
from jax_vidpred.ops import geometry

RADIUS = 0.2  # of spheres and cylinders; half the edge of cubes; height of all centres
# Bodies touch a little before their surfaces do, as in Bullet: round objects were
# measured to meet at a distance of 0.40 to 0.43.
CONTACT_RADIUS = 0.204
CORNER = CONTACT_RADIUS * np.sqrt(2)
FRICTION = {"cube": 0.293, "cylinder": 0.293, "sphere": 0.0}
LINEAR_DRAG, SQUARE_DRAG = 0.04, 0.04
SPIN_FRICTION, SPIN_LINEAR_DRAG, SPIN_SQUARE_DRAG = 3.8, 0.1, 0.1

# Restitution grows from 0 at SLOW_HIT to FULL_RESTITUTION at FAST_HIT units per second.
FULL_RESTITUTION, SLOW_HIT, FAST_HIT = 0.5, 0.7, 2.3
CONTACT_FRICTION = 0.03
# A contact is a spring of this stiffness per unit of mass: it lasts about 12 ms, and an
# impact at 5 units per second, the fastest there is, dents 0.02.
CONTACT_STIFFNESS = 7e4

# A frame is cut into equal slices. A slice in which two objects may touch is made of
# many small steps, so that a contact is resolved; all others are one step.
SLICES, SMALL_STEPS = 2, 14


@dataclasses.dataclass(frozen=True)
class InitialState:
    """What a video begins with: shapes and the planar state of every object.

    Attributes:
      shapes: n names.
      position: [n, 3] x, y and the turn about z.
      velocity: [n, 3] their time derivatives, per simulated second.
    """

    shapes: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray


@dataclasses.dataclass(frozen=True)
class Motion:
    """What became of a start.

    Attributes:
      position: [t, n, 3] x, y and the turn about z, frame by frame.
      velocity: [t, n, 3].
      contacts: first touch of every pair, in order of time; `frame` is the nearest.
    """

    position: np.ndarray
    velocity: np.ndarray
    contacts: tuple[Collision, ...]


@functools.cache
def _model(cubes: tuple[bool, ...]) -> mujoco.MjModel:
    """A model of planar bodies; `cubes` says which of them have corners.

    Spheres and upright cylinders collide alike in the plane, and MuJoCo's sphere is the
    exact and fast form of both.
    """
    bodies, pairs = [], []
    for k, cube in enumerate(cubes):
        shape = (
            f'type="box" size="{CONTACT_RADIUS} {CONTACT_RADIUS} {RADIUS}"'
            if cube
            else f'type="sphere" size="{CONTACT_RADIUS}"'
        )
        bodies.append(
            f'<body pos="0 0 {RADIUS}"><joint type="slide" axis="1 0 0"/>'
            '<joint type="slide" axis="0 1 0"/><joint type="hinge" axis="0 0 1"/>'
            f'<geom name="{k}" {shape} mass="1" contype="0" conaffinity="0"/></body>'
        )
        pairs += [
            f'<pair geom1="{j}" geom2="{k}" condim="3"'
            f' friction="{CONTACT_FRICTION} {CONTACT_FRICTION}"'
            f' solref="{-CONTACT_STIFFNESS} 0" solimp="0.99 0.99 0.01 0.5 2"/>'
            for j in range(k)
        ]
    return mujoco.MjModel.from_xml_string(
        '<mujoco><option gravity="0 0 0" cone="elliptic" integrator="Euler"/>'
        f"<worldbody>{''.join(bodies)}</worldbody>"
        f"<contact>{''.join(pairs)}</contact></mujoco>"
    )


def restitution(speed: np.ndarray) -> np.ndarray:
    """Share of the approach speed that is left after a hit along its normal."""
    return FULL_RESTITUTION * np.clip((speed - SLOW_HIT) / (FAST_HIT - SLOW_HIT), 0, 1)


def _spring_restitution(ratio: float) -> float:
    """Speed at which a damped spring throws off a body that hits it at speed 1.

    The contact ends when the spring would begin to pull. Source: Schwager and Poeschel,
    "Coefficient of restitution and linear-dashpot model revisited" (2007); `ratio` is
    the damping ratio, not 1.
    """
    root = np.sqrt(abs(ratio**2 - 1))
    if ratio < 1:
        duration = np.arctan2(2 * ratio * root, 2 * ratio**2 - 1)
    else:
        duration = np.log((ratio + root) / (ratio - root))
    return float(np.exp(-ratio / root * duration))


_DAMPING_RATIOS = np.linspace(2.0, 0.2, 30)  # 1 is not among them
_RESTITUTIONS = np.array([_spring_restitution(ratio) for ratio in _DAMPING_RATIOS])


def _contact_damping(speed: np.ndarray) -> np.ndarray:
    """Damping that makes a contact spring give back `restitution(speed)`."""
    ratio = np.interp(restitution(speed), _RESTITUTIONS, _DAMPING_RATIOS)
    return 2 * ratio * np.sqrt(CONTACT_STIFFNESS)


def move(
    start: InitialState, num_frames: int = NUM_FRAMES, *, drag_scale: float = 1.0
) -> Motion:
    """Lets time run.

    Args:
      start: where and how fast everything is at frame 0.
      num_frames: frames to record, frame 0 included.
      drag_scale: multiplies drag and spin drag; 0 leaves contacts alone.
    """
    n = len(start.shapes)
    model = _model(tuple(shape == "cube" for shape in start.shapes))
    data = mujoco.MjData(model)
    position, velocity = data.qpos.reshape(n, 3), data.qvel.reshape(n, 3)
    force = data.qfrc_applied.reshape(n, 3)
    position[:], velocity[:] = start.position, start.velocity
    inertia = model.body_inertia[1:, 2]
    friction = np.array([FRICTION[shape] for shape in start.shapes])
    outer = np.where(
        [shape == "cube" for shape in start.shapes], CORNER, CONTACT_RADIUS
    )
    first, second = model.pair_geom1, model.pair_geom2
    reach = outer[first] + outer[second]
    touching = np.zeros(len(reach), bool)
    seconds = FRAME_SECONDS / SLICES
    contacts, positions, velocities = {}, [], []

    for step in range((num_frames - 1) * SLICES + 1):
        if step % SLICES == 0:
            positions.append(position.copy())
            velocities.append(velocity.copy())
        # Friction stops an object, it never turns it round: no more than what takes
        # away all of the speed within the slice.
        speed = np.hypot(velocity[:, 0], velocity[:, 1])
        drag = friction + (LINEAR_DRAG + SQUARE_DRAG * speed) * speed
        drag = np.minimum(drag_scale * drag / np.maximum(speed, 1e-9), 1 / seconds)
        force[:, :2] = -drag[:, None] * velocity[:, :2]
        spin = np.abs(velocity[:, 2])
        drag = SPIN_FRICTION + (SPIN_LINEAR_DRAG + SPIN_SQUARE_DRAG * spin) * spin
        drag = np.minimum(drag_scale * drag / np.maximum(spin, 1e-9), 1 / seconds)
        force[:, 2] = -drag * inertia * velocity[:, 2]

        apart = position[second, :2] - position[first, :2]
        distance = np.hypot(apart[:, 0], apart[:, 1])
        approach = velocity[first, :2] - velocity[second, :2]
        closing = (approach * apart).sum(axis=1) / distance
        if np.all(distance - reach > np.maximum(closing, 0) * seconds + 0.01):
            model.opt.timestep = seconds
            mujoco.mj_step(model, data)
            touching[:] = False
            continue
        # The spring of a pair is chosen before it touches and kept while it does.
        damping = _contact_damping(np.maximum(closing, 0))
        model.pair_solref[~touching, 1] = -damping[~touching]
        model.opt.timestep = seconds / SMALL_STEPS
        for small_step in range(SMALL_STEPS):
            mujoco.mj_step(model, data)
            if not data.ncon:
                continue
            frame = round((step + (small_step + 0.5) / SMALL_STEPS) / SLICES)
            contact = data.contact
            for pair in {tuple(sorted(p)) for p in contact.geom[contact.dist < 0]}:
                if pair not in contacts:
                    where = contact.pos[(np.sort(contact.geom) == pair).all(axis=1)]
                    location = tuple(float(x) for x in where.mean(axis=0))
                    pair = tuple(int(k) for k in pair)
                    contacts[pair] = Collision(frame, pair, location)
        now = {tuple(sorted(pair)) for pair in data.contact.geom}
        touching[:] = [tuple(sorted(p)) in now for p in zip(first, second, strict=True)]
    return Motion(np.stack(positions), np.stack(velocities), tuple(contacts.values()))


@functools.cache
def _outline(shape: str) -> np.ndarray:
    """[p, 3] points on the surface of an upright shape; their hull is nearly all."""
    angle = np.arange(16) * (np.pi / 8)
    if shape == "cube":
        corners = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
        return RADIUS * corners
    heights = np.array([-1, 0, 1]) if shape == "cylinder" else np.sin(angle[:9] - 1.57)
    widths = np.ones(3) if shape == "cylinder" else np.cos(angle[:9] - 1.57)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = [
        np.column_stack([width * ring, np.full(16, height)])
        for width, height in zip(widths, heights, strict=True)
    ]
    return RADIUS * np.concatenate(points)


def in_view(shape: str, position: np.ndarray) -> np.ndarray:
    """Whether any part of an object is inside the picture.

    Args:
      shape: its name.
      position: [..., 3] x, y and the turn about z.

    Returns:
      [...] bool.
    """
    position = np.asarray(position, np.float64)
    cos, sin = np.cos(position[..., 2:]), np.sin(position[..., 2:])
    x, y, z = _outline(shape).T
    points = np.stack(
        [
            position[..., :1] + cos * x - sin * y,
            position[..., 1:2] + sin * x + cos * y,
            np.broadcast_to(RADIUS + z, position.shape[:-1] + z.shape),
        ],
        axis=-1,
    )
    uv, depth = geometry.project(points)
    inside = (uv >= 0) & (uv <= (geometry.FULL_WIDTH, geometry.FULL_HEIGHT))
    return np.any(inside.all(axis=-1) & (depth > 0), axis=-1)


def travel(shape: str, speed: float, frames: float) -> float:
    """Way that an object goes within some frames if nothing is in its way."""
    way, step = 0.0, FRAME_SECONDS
    for _ in range(int(frames)):
        way += speed * step
        drag = FRICTION[shape] + (LINEAR_DRAG + SQUARE_DRAG * speed) * speed
        speed = max(speed - drag * step, 0.0)
    return way
