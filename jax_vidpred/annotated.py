"""The clip of a file that is predicted, and what the annotation beside it tells."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jax_vidpred.data.clevrer import object_states
from jax_vidpred.data.edits import read_edited
from jax_vidpred.data.schema import (
    MAX_OBJECTS,
    PRESENT,
    STATE,
    Annotation,
    DataError,
)
from jax_vidpred.data.twin.groundtruth import cast_flow
from jax_vidpred.evaluation.scores import last_context_flow
from jax_vidpred.predictor import VideoPredictor


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is predicted, from what.

    Attributes:
      num_context, num_future: frames that are given, and that are predicted.
      stride: frames of the file from one of these to the next.
      start: frame of the file that comes first.
      ttt: arguments of `systems.ttt.adapt`, or None.
      num_samples: futures to draw, more than 1 only of a stochastic system.
    """

    num_context: int
    num_future: int
    stride: int
    start: int
    ttt: Mapping[str, Any] | None
    num_samples: int = 1


def find_annotation(path: pathlib.Path) -> pathlib.Path | None:
    """The annotation file of a video in CLEVRER's layouts, None where there is none.

    It lies beside the video, or where a folder called annotation... (for video...) has
    it: `video_train/video_00000-01000/video_00007.mp4` is annotated in
    `annotation_train/annotation_00000-01000/annotation_00007.json`.
    """
    if not re.fullmatch(r"video_\d{5}\.mp4", path.name):
        return None
    parts = path.absolute().with_suffix(".json").parts
    for depth in range(1, 5):
        place = [part.replace("video", "annotation") for part in parts[-depth:]]
        candidate = pathlib.Path(*parts[:-depth], *place)
        if candidate.is_file():
            return candidate
    return None


def read_annotation(path: pathlib.Path) -> Annotation | None:
    """The annotation of a video, None where there is none that can be read."""
    found = find_annotation(path)
    if found is None:
        return None
    try:
        return Annotation.from_json(found)
    except DataError:
        return None  # it is optional


def last_flow(
    annotation: Annotation | None, aux: Mapping[str, np.ndarray], setting: Setting
) -> Float[np.ndarray, "1 gh gw 2"] | None:
    """Flow of the last context frame: the true one where it is known."""
    if "flow" not in aux:
        return None
    own = last_context_flow(aux["flow"][None], setting.num_context)
    last = setting.start + (setting.num_context - 1) * setting.stride
    if annotation is None or last >= annotation.num_frames:
        return own
    two = [last - setting.stride, last]
    poses = ("location", "orientation", "velocity", "angular_velocity", "in_view")
    step = dataclasses.replace(
        annotation, **{pose: getattr(annotation, pose)[two] for pose in poses}
    )
    return cast_flow(step, *own.shape[1:3])[0]


def known_labels(
    predictor: VideoPredictor,
    annotation: Annotation | None,
    setting: Setting,
    num_frames: int,
) -> dict[str, np.ndarray] | None:
    """Labels of the first frames of the clip, None where they are not known."""
    keys = predictor.system.label_keys
    if annotation is None or set(keys) != {STATE, PRESENT}:
        return None
    last = setting.start + (num_frames - 1) * setting.stride
    if last >= annotation.num_frames or annotation.num_objects > MAX_OBJECTS:
        return None  # not of this video, or of more than the system knows
    clip = slice(setting.start, None, setting.stride)
    states = object_states(annotation)
    states[PRESENT] = states[PRESENT].astype(bool)  # as a batch has it
    labels = {key: states[key][clip][:num_frames] for key in keys}
    return predictor.labels_at(setting.stride, labels)


def edited_labels(
    predictor: VideoPredictor,
    path: pathlib.Path,
    annotation: Annotation | None,
    setting: Setting,
) -> dict[str, np.ndarray] | None:
    """Labels of all frames, as the user wants them."""
    if set(predictor.system.label_keys) != {STATE, PRESENT}:
        raise ValueError(
            f"--labels {path}: {predictor.label} is not steered by object states; give"
            " the --workdir of a system that is, such as configs/cvae.py"
        )
    last = setting.start + (setting.num_context - 1) * setting.stride
    wanted = read_edited(path, annotation, last)
    num_frames = setting.num_context + setting.num_future
    if setting.start + (num_frames - 1) * setting.stride >= wanted.num_frames:
        raise DataError(
            f"{path}: the annotation has {wanted.num_frames} frames, fewer than are to"
            " be predicted; lower --num_future"
        )
    if wanted.num_objects > MAX_OBJECTS:
        raise DataError(
            f"{path}: {wanted.num_objects} objects; wanted at most {MAX_OBJECTS}"
        )
    return known_labels(predictor, wanted, setting, num_frames)


def true_collisions(
    annotation: Annotation | None, setting: Setting
) -> list[int] | None:
    """The clip's frames in which a collision has just happened."""
    if annotation is None:
        return None
    steps = [(c.frame - setting.start) // setting.stride for c in annotation.collisions]
    num_steps = setting.num_context + setting.num_future - 1
    return [step + 1 for step in steps if 0 <= step < num_steps]
