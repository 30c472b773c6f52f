"""Edited annotations: what objects are to do instead, said in a few words of JSON.

A list of edits, each of which one of

    {"object": 2, "move": [0.5, -1.0], "until": 60}   it bends its path by that much
    {"objects": [0, 3], "collide": 50}                the first one runs into the other
    {"object": 1, "remove": true}                     it is not there any more

Lengths are world units (an object has a radius of 0.2), frames those of the file. A
whole annotation in CLEVRER's own format may be given in place of a list.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_vidpred.data.schema import (
    FRAME_SECONDS,
    MAX_FILE,
    Annotation,
    Collision,
    DataError,
)
from jax_vidpred.data.twin.dynamics import RADIUS, in_view

CONTACT = 2 * RADIUS  # world units between the centres of two objects that touch


def read_edited(
    path: str | pathlib.Path, annotation: Annotation | None, first_frame: int
) -> Annotation:
    """What a file of edits, or an annotation, says is to happen.

    Args:
      path: of the file.
      annotation: of the video as it is; needed for edits.
      first_frame: the last frame that is seen; nothing before it changes.

    Raises:
      DataError: the file cannot be read, says nothing that is known here, or is about
        objects or frames that are not there.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise DataError(f"{path}: larger than {MAX_FILE >> 20} MiB; no such file")
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); wanted a JSON list of"
            " edits, or an annotation"
        ) from error
    if isinstance(content, dict):
        return Annotation.from_json(path)
    if annotation is None:
        raise DataError(
            f"{path}: edits of what? The video has no annotation beside it; give a"
            " whole annotation instead"
        )
    try:
        return edited(annotation, content, first_frame)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: {error}; wanted a list such as"
            ' [{"object": 2, "move": [0.5, -1.0]}, {"objects": [0, 3], "collide": 50},'
            ' {"object": 1, "remove": true}]'
        ) from error


def edited(
    annotation: Annotation, edits: Sequence[Mapping[str, Any]], first_frame: int
) -> Annotation:
    """The annotation after edits, one after the other.

    Velocities follow from the new places; orientations stay as they were.

    Raises:
      ValueError, TypeError, KeyError, IndexError: an edit that is none, or is about
        objects or frames that are not there.
    """
    if not isinstance(edits, list) or not edits:
        raise ValueError("there are no edits in it")
    location = annotation.location.copy()
    visible = annotation.in_view.copy()
    collisions, removed = list(annotation.collisions), []
    last = annotation.num_frames - 1
    for edit in edits:
        kinds = {"move", "collide", "remove"} & set(edit)
        if len(kinds) != 1:
            raise ValueError(f"{edit} is no edit")
        if kinds == {"move"}:
            number, until = _number(annotation, edit["object"]), edit.get("until", last)
            _check_frame(until, first_frame, last)
            dx, dy = map(float, edit["move"])
            if not np.isfinite([dx, dy]).all():
                raise ValueError(f"a move by {dx}, {dy}")
            _bend(location[:, number], (dx, dy), first_frame, until)
        elif kinds == {"collide"}:
            first, second = (_number(annotation, one) for one in edit["objects"])
            if first == second:
                raise ValueError(f"object {first} cannot collide with itself")
            _check_frame(edit["collide"], first_frame, last)
            _collide(location, first, second, first_frame, edit["collide"])
            at = (location[edit["collide"], [first, second]]).mean(0)
            collisions.append(Collision(edit["collide"], (first, second), tuple(at)))
        else:
            if edit["remove"] is not True:
                raise ValueError(f"{edit} removes nothing")
            removed.append(_number(annotation, edit["object"]))
    moved = (location != annotation.location).any((0, 2))
    after = slice(first_frame + 1, None)
    for number in np.flatnonzero(moved):
        _, _, shape = annotation.properties[number]
        turn = annotation.orientation[after, number, 2:]
        place = np.concatenate([location[after, number, :2], turn], -1)
        visible[after, number] = in_view(shape, place)
    visible[after, removed] = False
    velocity = annotation.velocity.copy()
    step = np.gradient(location, FRAME_SECONDS, axis=0)
    velocity[first_frame:, moved] = step[first_frame:, moved]
    return dataclasses.replace(
        annotation,
        location=location,
        velocity=velocity,
        in_view=visible,
        collisions=tuple(sorted(collisions, key=lambda one: one.frame)),
    )


def _number(annotation: Annotation, number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < annotation.num_objects:
        raise ValueError(
            f"object {number} is not there, 0 to {annotation.num_objects - 1} are"
        )
    return number


def _check_frame(frame: Any, first_frame: int, last: int) -> None:
    if not isinstance(frame, int) or not first_frame < frame <= last:
        raise ValueError(f"frame {frame} does not lie in {first_frame + 1} to {last}")


def _bend(path: np.ndarray, offset, first_frame: int, until: int) -> None:
    """Adds an offset [x, y] to a path [t, 3] that grows evenly, then stays."""
    share = np.clip((np.arange(len(path)) - first_frame) / (until - first_frame), 0, 1)
    path[:, :2] += share[:, None] * np.asarray(offset)


def _collide(location, first, second, first_frame, frame) -> None:
    """The first goes straight to touch the second at `frame` and stops there.

    The second goes on with the speed that the first one had (equal masses, head on,
    nothing lost), and both slide on no further than the video lasts.
    """
    start, goal = location[first_frame, first, :2], location[frame, second, :2]
    towards = goal - start
    distance = np.linalg.norm(towards)
    if distance <= CONTACT:
        raise ValueError(f"objects {first} and {second} touch already")
    contact = goal - CONTACT * towards / distance
    steps = np.arange(1, frame - first_frame + 1)[:, None] / (frame - first_frame)
    location[first_frame + 1 : frame + 1, first, :2] = start + steps * (contact - start)
    location[frame + 1 :, first, :2] = contact
    speed = (contact - start) / (frame - first_frame)
    after = np.arange(1, len(location) - frame)[:, None]
    location[frame + 1 :, second, :2] = goal + after * speed
