"""The twin's population: random scenes in the measured proportions, made to move.

A scene has 4 to 6 objects with unique (color, material, shape); about half rest inside
the picture, the others move, most of them into the picture from any side, aimed so that
2 to 4 collisions come about. The laws of motion are those of `dynamics`.
"""

import numpy as np

from jax_vidpred.data.schema import (
    COLORS,
    MATERIALS,
    SHAPES,
    Annotation,
    DataError,
)
from jax_vidpred.data.twin.dynamics import (
    RADIUS,
    InitialState,
    Motion,
    in_view,
    move,
    travel,
)

NUM_OBJECTS = {4: 0.36, 5: 0.45, 6: 0.19}  # shares measured on 42 official files
# Share of the scenes with so many collisions that is kept; the result is close to the
# measured 62 : 36 : 2, and the scenes with any other number are drawn again.
KEPT_COLLISIONS = {2: 1.0, 3: 1.0, 4: 0.15}
COLLISION_FRAMES = range(15, 125)
STATIC_LOW, STATIC_HIGH = np.array([-2.3, -1.6]), np.array([1.2, 1.5])
SPEED_LOW, SPEED_HIGH = 2.7, 3.0
NUM_MOVERS = {1: 0.1, 2: 0.4, 3: 0.5}
FIRST_ENTRY, LAST_ENTRY = 20, 105  # latest frame: of the first mover, of the others
STARTS_IN_VIEW = 0.3
INTERCEPTS, MEETING_FRAMES = 0.2, (18, 110)  # share of later movers that meet a mover
MIN_GAP = 0.6  # between centres at the start
MAX_ATTEMPTS = 500


def _turn(random, shape):
    """Start angle about z; only a cube's can be seen."""
    return random.uniform(0, np.pi / 2) if shape == "cube" else 0.0


def _resting(random, shape):
    """Planar position and velocity, [3] each, of an object that rests in view."""
    place = random.uniform(STATIC_LOW, STATIC_HIGH)
    return np.array([*place, _turn(random, shape)]), np.zeros(3)


def _entering(random, shape, resting, last_entry):
    """Planar position and velocity, [3] each, of an object that comes into view.

    It heads for one of the objects at rest, more or less, or for any place among them.
    It starts as far outside as it needs to be seen first at a random frame up to
    `last_entry`, or is in view from the start.
    """
    speed = random.uniform(SPEED_LOW, SPEED_HIGH)
    angle = random.uniform(-np.pi, np.pi)
    heading = np.array([np.cos(angle), np.sin(angle)])
    target = random.uniform(STATIC_LOW, STATIC_HIGH)
    if random.random() < 0.7:
        offset = random.uniform(-0.3, 0.3) * np.array([-heading[1], heading[0]])
        target = resting[random.integers(len(resting))][:2] + offset
    turn = _turn(random, shape)
    ways = np.arange(0, 12, 0.1)
    line = np.column_stack([target - ways[:, None] * heading, np.full(120, turn)])
    border = ways[np.argmin(in_view(shape, line))]
    if random.random() < STARTS_IN_VIEW:
        way = random.uniform(min(0.8, border), border)
    else:
        way = border + travel(shape, speed, random.uniform(0, last_entry))
    return np.array([*target - way * heading, turn]), np.array([*speed * heading, 0.0])


def _intercepting(random, shape, other_shape, other_position, other_velocity):
    """Planar position and velocity, [3] each, of an object that meets a moving one."""
    speed = random.uniform(SPEED_LOW, SPEED_HIGH)
    angle = random.uniform(-np.pi, np.pi)
    heading = np.array([np.cos(angle), np.sin(angle)])
    other_speed = np.hypot(*other_velocity[:2])
    frames = random.uniform(*MEETING_FRAMES)
    way = travel(other_shape, other_speed, frames)
    meeting = other_position[:2] + way * other_velocity[:2] / other_speed
    place = meeting - travel(shape, speed, frames) * heading
    return np.array([*place, _turn(random, shape)]), np.array([*speed * heading, 0.0])


def _initial_state(random: np.random.Generator) -> InitialState | None:
    """Draws a beginning; None where no room was found for an object."""
    n = int(random.choice(list(NUM_OBJECTS), p=list(NUM_OBJECTS.values())))
    movers = int(random.choice(list(NUM_MOVERS), p=list(NUM_MOVERS.values())))
    resting = n - movers
    shapes = [str(shape) for shape in random.choice(SHAPES, n)]
    positions, velocities = [], []
    for k in range(n):
        for _ in range(20):
            if k < resting:
                position, velocity = _resting(random, shapes[k])
            elif k > resting and random.random() < INTERCEPTS:
                position, velocity = _intercepting(
                    random, shapes[k], shapes[k - 1], positions[-1], velocities[-1]
                )
            else:
                last_entry = FIRST_ENTRY if k == resting else LAST_ENTRY
                position, velocity = _entering(
                    random, shapes[k], positions[:resting], last_entry
                )
            gaps = [np.hypot(*(position - other)[:2]) for other in positions]
            if min(gaps, default=np.inf) > MIN_GAP:
                break
        else:
            return None
        positions.append(position)
        velocities.append(velocity)
    order = random.permutation(n)
    return InitialState(
        tuple(shapes[k] for k in order),
        np.stack(positions)[order],
        np.stack(velocities)[order],
    )


def _annotate(video_id, properties, motion: Motion) -> Annotation:
    """The official form of a motion."""
    flat = np.zeros_like(motion.position)
    location, orientation, velocity, angular_velocity = (flat.copy() for _ in range(4))
    location[..., :2] = motion.position[..., :2]
    location[..., 2] = RADIUS
    # A cylinder's own axis is its local y; x is turned first, so z stays the spin.
    upright = [np.pi / 2 if shape == "cylinder" else 0.0 for _, _, shape in properties]
    orientation[..., 0] = upright
    turn = motion.position[..., 2]
    orientation[..., 2] = (turn + np.pi) % (2 * np.pi) - np.pi
    velocity[..., :2] = motion.velocity[..., :2]
    angular_velocity[..., 2] = motion.velocity[..., 2]
    visible = [
        in_view(shape, motion.position[:, k])
        for k, (_, _, shape) in enumerate(properties)
    ]
    return Annotation(
        video_id=video_id,
        properties=properties,
        location=location,
        orientation=orientation,
        velocity=velocity,
        angular_velocity=angular_velocity,
        in_view=np.stack(visible, axis=1),
        collisions=motion.contacts,
    )


def _acceptable(random, annotation: Annotation) -> bool:
    """Whether the collisions of a video are like those of the official ones."""
    collisions = annotation.collisions
    kept = random.random() < KEPT_COLLISIONS.get(len(collisions), 0.0)
    return kept and all(
        c.frame in COLLISION_FRAMES
        and annotation.in_view[c.frame, list(c.objects)].all()
        for c in collisions
    )


def simulate(seed: np.random.SeedSequence, video_id: int) -> Annotation:
    """A new video's motion: 4 to 6 objects, 2 to 4 collisions, 128 frames.

    Scenes are drawn until one has the wanted collisions. The result is a pure function
    of the seed.

    Args:
      seed: of this video.
      video_id: number that the annotation carries.

    Raises:
      DataError: no scene had the wanted collisions, which means the constants of this
        module contradict each other.
    """
    random = np.random.default_rng(seed)
    for _ in range(MAX_ATTEMPTS):
        start = _initial_state(random)
        if start is None:
            continue
        triples = random.permutation(len(COLORS) * len(MATERIALS))[: len(start.shapes)]
        properties = tuple(
            (COLORS[triple // 2], MATERIALS[triple % 2], shape)
            for triple, shape in zip(triples, start.shapes, strict=True)
        )
        annotation = _annotate(video_id, properties, move(start))
        if _acceptable(random, annotation):
            return annotation
    raise DataError(
        f"video {video_id}: none of {MAX_ATTEMPTS} random scenes has"
        " the wanted collisions; take another seed"
    )
