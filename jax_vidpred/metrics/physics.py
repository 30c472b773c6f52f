"""The physics card: do predicted objects move as bodies do?

Predicted tracks on the floor plane are compared with the true states of one clip. All
numbers are of the predicted frames, in world units and simulated seconds. An object is
0.4 wide; all have the same mass, so momentum is the sum of velocities.

A frozen video conserves momentum and penetrates nothing: read the card as a whole, and
beside `position_error` and the collisions that are found.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_vidpred.metrics import kinematics

# Simulated seconds by which a predicted contact may miss the true one: 5 raw frames.
TOLERANCE = 5 * 0.028
# Frames of the line that is a velocity, around a frame, and how many must be known.
SPEED_OFFSETS, SPEED_COUNT = np.arange(-2, 3), 3
# Centres of true objects come as close as 0.397 (all videos of the twin and 11 real
# ones); one standard deviation of a track of silhouettes, 0.03, is let pass.
CLOSEST = 0.36
# Error of an object that is not found: about half of the width of the scene.
LOST_ERROR = 2.0  # world units
# A slower approach has no meaningful restitution: a velocity's noise is 0.1 to 0.2.
MIN_APPROACH = 0.5  # world units per simulated second, along the line of centres


class Tracks(NamedTuple):
    """Places of all objects over a clip.

    Attributes:
      positions: (x, y) on the floor, world units; read only where found.
      found: where they are known.
    """

    positions: Float[np.ndarray, "t n 2"]
    found: Bool[np.ndarray, "t n"]


def physics_card(
    predicted: Tracks,
    state: Float[np.ndarray, "t n 4"],
    present: Bool[np.ndarray, "t n"],
    seen: Bool[np.ndarray, "t n"],
    counted: Bool[np.ndarray, "n"],
    contacts: Int[np.ndarray, "m 3"],
    *,
    seconds: float,
    num_context: int,
) -> dict[str, np.ndarray | float]:
    """Errors of motion in one clip; f = t - num_context predicted frames.

    All errors are 0 where the prediction is the truth. Means run over objects.

    Args:
      predicted: of the whole clip; its context part helps the first velocities.
      state: truth (x, y, vx, vy) of the whole clip.
      present: objects in view, truth.
      seen: objects that the tracker of `predicted` finds in the true frames. What it
        does not find there (hidden, cut off by the border) is not missed.
      counted: objects that are visible in the last context frame.
      contacts: true collisions (step, object, object); step k leads from frame k to
        frame k + 1. Those before step num_context - 1 are left out; m' remain.
      seconds: simulated, of a step (stride * 0.028).
      num_context: frames that were given; 0 if the arrays begin after them.

    Returns:
      position_error [f], in 0 .. LOST_ERROR: mean |p - p_true| over objects that are
        counted and present, at most LOST_ERROR each; that is also the error of one that
        is seen in the true video and not found in the prediction, so losing what is
        hard does not pay. NaN where none is, as for every mean here.
      position_error_found [f] >= 0: the same over what is found alone, uncapped.
      speed_error [f] >= 0: mean of | |v| - |v_true| | over the objects found. Both
        velocities are least-squares lines through the frames of SPEED_OFFSETS, of those
        in which the object is found and present, three at least.
      momentum_error [m'] >= 0: |dP - dP_true|, P the sum of the velocities of a
        contact's pair, dP its change from before to after the true contact (lines of
        kinematics.WINDOW frames on each side, the same frames for both). The impact
        leaves P as it is; what drag and third objects change is in dP_true too.
      impulse_error [m'] >= 0: |dD - dD_true| / 2, the same of the difference D of the
        two velocities: what one gives the other. A frozen or ghostly contact, which
        conserves momentum, is wrong by the whole impulse.
      restitution_error [m'] >= 0: |e - e_true|, e = - (relative velocity after) /
        (before) along the line of centres, each at its own contact: the clearest push
        within +-5 raw frames of the annotated step. NaN where the tracks show no push
        (score below kinematics.THRESHOLD) or approach slower than MIN_APPROACH.
      interpenetration, in [0, 1]: share of frames with two found objects or more in
        which the centres of some two are closer than CLOSEST. interpenetration_true:
        the same of the true states.
      vanished, in [0, 1]: of the (frame, object) in which a counted object is present
        and seen, the share in which it is not found.
      appeared, in [0, 1]: of the (frame, object) in which an object is found, the share
        in which it is not present.

    Raises:
      ValueError: shapes that do not belong together.
    """
    positions, found = predicted
    t, n = found.shape
    shapes = [positions.shape, state.shape, present.shape, seen.shape, counted.shape]
    wanted = [(t, n, 2), (t, n, 4), (t, n), (t, n), (n,)]
    if shapes != wanted or not 0 <= num_context < t:
        raise ValueError(
            f"positions, state, present, seen, counted of {shapes} and"
            f" num_context={num_context} for found of {found.shape}; wanted {wanted}"
            " and a number below t"
        )
    truth = Tracks(state[..., :2], present)
    both = found & present
    usable = both & counted
    distance = np.linalg.norm(
        np.where(both[..., None], positions - truth.positions, 0.0), axis=-1
    )
    lost = counted & present & seen & ~found
    capped = np.where(lost, LOST_ERROR, np.minimum(distance, LOST_ERROR))
    speeds = [
        kinematics.fit_lines(places, both, SPEED_OFFSETS, seconds)
        for places in (positions, truth.positions)
    ]
    speed, true_speed = (np.linalg.norm(line.velocity, axis=-1) for line in speeds)
    has_speed = usable & (speeds[0].count >= SPEED_COUNT)
    future = slice(num_context, None)
    contacts = np.reshape(contacts, (-1, 3)).astype(int)
    contacts = contacts[contacts[:, 0] >= num_context - 1]
    expected, visible = (counted & present & seen)[future], found[future]
    return {
        "position_error": _mean(capped, usable | lost)[future],
        "position_error_found": _mean(distance, usable)[future],
        "speed_error": _mean(np.abs(speed - true_speed), has_speed)[future],
        **_contact_errors(predicted, truth, contacts, seconds),
        "interpenetration": interpenetration(positions[future], visible),
        "interpenetration_true": interpenetration(
            truth.positions[future], present[future]
        ),
        "vanished": _share(expected & ~visible, expected),
        "appeared": _share(visible & ~present[future], visible),
    }


def interpenetration(
    positions: Float[np.ndarray, "t n 2"], found: Bool[np.ndarray, "t n"]
) -> float:
    """Share, in [0, 1], of frames in which the centres of two objects are too close.

    Too close is below CLOSEST. Counts frames with two found objects or more; NaN
    without any. It is 0 of true states and 0.001 of true segments of 64x64 seen through
    `tracks.floor_positions` (40 twin videos).
    """
    first, second = np.triu_indices(found.shape[1], 1)
    known = found[:, first] & found[:, second]
    apart = np.where(known[..., None], positions[:, second] - positions[:, first], 9.0)
    closer = np.linalg.norm(apart, axis=-1) < CLOSEST
    return _share(closer.any(1), known.any(1))


def _contact_errors(
    predicted: Tracks, truth: Tracks, contacts: np.ndarray, seconds: float
) -> dict[str, np.ndarray]:
    """Errors of momentum, impulse and restitution at contacts [m, 3]."""
    both = predicted.found & truth.found
    changes = []
    for tracks in (predicted, truth):
        before, after = kinematics.lines_beside(tracks.positions, both, seconds)
        changes.append(after.velocity - before.velocity)
    step, pair = contacts[:, 0], contacts[:, 1:]
    first, second = np.moveaxis((changes[0] - changes[1])[step[:, None], pair], 1, 0)
    restitutions = [
        _restitution(each, contacts, seconds) for each in (predicted, truth)
    ]
    return {
        "momentum_error": np.linalg.norm(first + second, axis=-1),
        "impulse_error": np.linalg.norm(second - first, axis=-1) / 2,
        "restitution_error": np.abs(restitutions[0] - restitutions[1]),
    }


def _restitution(tracks: Tracks, contacts: np.ndarray, seconds: float) -> np.ndarray:
    """Restitution [m] at the clearest push near each contact, NaN without one."""
    reach = int(TOLERANCE / seconds + 1e-6)  # steps
    long, pairs = kinematics.push_scores(*tracks, seconds)
    short, _ = kinematics.push_scores(*tracks, seconds, kinematics.SHORT_WINDOW)
    before, after = kinematics.lines_beside(*tracks, seconds)
    result = np.full(len(contacts), np.nan)
    for row, (annotated, *objects) in enumerate(contacts):
        column = np.flatnonzero((pairs == sorted(objects)).all(1))
        near = np.abs(np.arange(len(long)) - annotated) <= reach
        scores = np.where(near[:, None], long[:, column], -np.inf)
        if scores.max() < kinematics.THRESHOLD:
            continue
        step = kinematics.best_steps(scores, short[:, column])[0]
        first, second = pairs[column[0]]
        centre = (before.position[step] + after.position[step]) / 2
        normal = centre[second] - centre[first]
        normal /= np.linalg.norm(normal)
        approach, departure = (
            (lines.velocity[step, second] - lines.velocity[step, first]) @ normal
            for lines in (before, after)
        )
        if approach <= -MIN_APPROACH:
            result[row] = -departure / approach
    return result


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what counts, NaN where nothing does."""
    total = np.where(counts, values, 0.0).sum(-1)
    number = counts.sum(-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _share(some: np.ndarray, of: np.ndarray) -> float:
    return float(some.sum() / of.sum()) if of.any() else float("nan")
