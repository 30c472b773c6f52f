"""The official CLEVRER files, in any of their layouts, as arrays; and other layouts.

Nothing here needs JAX or TFDS: the worker processes of the builder import this module.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from jax_vidpred.data.flow_files import read_flow
from jax_vidpred.data.frame_folders import (
    SPLIT_FOLDERS,
    check_frames,
    index_labels,
    index_splits,
)
from jax_vidpred.data.schema import (
    COLLISION,
    FLOW,
    LABEL,
    MAX_OBJECTS,
    PAIRS,
    PRESENT,
    SEGMENTS,
    SPLIT_STARTS,
    STATE,
    STATE_FEATURES,
    VIDEO,
    VISIBLE,
    Annotation,
    DataError,
    split_of,
)
from jax_vidpred.data.twin.groundtruth import cast_flow, cast_segments
from jax_vidpred.data.video_io import IMAGE_SUFFIXES, read_video
from jax_vidpred.ops import spread
from jax_vidpred.ops.masks import decode_rle

MAX_PIXELS = 1 << 24  # of a mask; official ones have 480 x 320
_FILE = re.compile(r"(video|annotation|proposal|sim)_(\d{5})\.(mp4|json)")
_FOLDER = re.compile(r"(?:video|sim)_(\d{5})")  # of frames, as in NS-DR's layout


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the parts of one video are.

    Attributes:
      video_id: number of the video.
      video: an mp4 file, a folder of pictures, or a place in an HDF5 file.
      annotation: official annotation; None where there is none (all of test).
      proposals: masks that a detector found; None where there are none.
      flow: stored by `flow_files`, for a video that has no annotation.
      label: pictures of what is to be seen, of any kind that `video` may be of.
      split: as the layout says it, numbers then count within a split; "" where the
        number alone determines the split.
    """

    video_id: int
    video: pathlib.Path
    annotation: pathlib.Path | None = None
    proposals: pathlib.Path | None = None
    flow: pathlib.Path | None = None
    label: pathlib.Path | None = None
    split: str = ""


def index_files(root: str | os.PathLike) -> dict[str, tuple[Files, ...]]:
    """Finds the videos under a folder, with their annotations and proposals.

    Only names count, not the layout: `video_N.mp4`, `annotation_N.json`,
    `proposal_N.json` or `sim_N.json`, and folders `sim_N` or `video_N` of pictures, at
    any depth. The number alone determines the split. Where a video is there both as mp4
    and as pictures, the mp4 is used. Where there is nothing of these names, folders of
    splits are looked for, see `frame_folders`.

    Returns:
      The splits that have videos, in the order train, validation, test; their videos
      by rising number.

    Raises:
      DataError: no such folder, no videos in it, or one video twice.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of the CLEVRER files")
    found: dict[str, dict[int, pathlib.Path]] = {
        kind: {} for kind in ("video", "annotation", "proposal", "pictures")
    }

    def add(kind, number, path):
        other = found[kind].setdefault(int(number), path)
        if other != path:
            raise DataError(
                f"{kind} {number} is there twice, {other} and {path}; keep one of them"
            )

    for folder, folders, names in os.walk(root):
        # Archives made on a Mac carry a shadow of every file.
        folders[:] = sorted(name for name in folders if name != "__MACOSX")
        folder = pathlib.Path(folder)
        for name in sorted(names):
            match = _FILE.fullmatch(name)
            if match and (match[1] == "video") == (match[3] == "mp4"):
                kind = "proposal" if match[1] == "sim" else match[1]
                add(kind, match[2], folder / name)
        for name in folders:
            match = _FOLDER.fullmatch(name)
            if match:
                add("pictures", match[1], folder / name)

    videos = found["pictures"] | found["video"]
    pictures = found["pictures"].values()
    in_splits = {path.parent for path in pictures} & {root / s for s in SPLIT_FOLDERS}
    if not videos or (in_splits and not found["video"]):
        return _index_folders(root)
    index = {split: [] for split in SPLIT_STARTS}
    for number, video in sorted(videos.items()):
        files = Files(
            video_id=number,
            video=video,
            annotation=found["annotation"].get(number),
            proposals=found["proposal"].get(number),
        )
        index[split_of(number)].append(files)
    return {split: tuple(files) for split, files in index.items() if files}


def _index_folders(root: pathlib.Path) -> dict[str, tuple[Files, ...]]:
    videos = index_splits(root)
    if not videos:
        raise DataError(
            f"{root}: no videos in it; wanted files video_NNNNN.mp4 at any depth, or"
            " folders train, val and test of frames (train/00000/00000.png) or of HDF5"
            " files (train/shard_0001.hdf5)"
        )
    labels = index_labels(root, videos)
    return {
        split: tuple(
            Files(number, video, label=labels.get((split, number)), split=split)
            for number, video in places.items()
        )
        for split, places in videos.items()
    }


def choose_files(
    root: str | os.PathLike, only: Mapping[str, int | None] | None
) -> dict[str, tuple[Files, ...]]:
    """`index_files`, or a part of it.

    Args:
      only: split -> how many of its videos, spread evenly; None = all.

    Raises:
      DataError: as `index_files`; there is none of these splits.
    """
    found = index_files(root)
    if only is None:
        return found
    chosen = {
        split: tuple(videos[i] for i in spread.evenly(len(videos), only[split]))
        for split, videos in found.items()
        if split in only
    }
    if not chosen:
        raise DataError(
            f"{root} has no split {', '.join(only)!r}; it has {', '.join(found)}: take"
            " one of them"
        )
    return chosen


def read_arrays(
    files: Files, *, height: int, width: int, grid_stride: int, frame_stride: int
) -> dict[str, np.ndarray]:
    """Everything that is stored of one video, one row per frame.

    Rows of quantities between two frames describe the step from frame t to frame
    t + frame_stride; the last frame_stride rows, which have no such frame, are zero.
    Without an annotation only VIDEO is there, and FLOW, VISIBLE and LABEL where they
    are stored.

    Returns:
      VIDEO and LABEL uint8 [t, height, width, 3]; and with gh = height / grid_stride,
      gw = width / grid_stride: FLOW float16 [t, gh, gw, 2], VISIBLE float16
      [t, gh, gw, 1], SEGMENTS uint8 [t, height, width], STATE float32
      [t, MAX_OBJECTS, 4], PRESENT uint8 [t, MAX_OBJECTS], COLLISION float32 [t], the
      number of collisions with t <= frame < t + frame_stride, and PAIRS uint8 [t,
      MAX_OBJECTS, MAX_OBJECTS], which objects these are (symmetric).

    Raises:
      DataError: a file cannot be used.
    """
    pictures = read_pictures(files, (height, width))
    video = pictures[VIDEO]
    cells = (height // grid_stride, width // grid_stride)
    if files.annotation is None:
        if files.flow is None:
            return pictures
        flow, visible = read_flow(files.flow, len(video) - frame_stride, cells)
        return pictures | _padded(flow, visible, frame_stride)
    annotation = Annotation.from_json(files.annotation)
    num_frames, num_objects = annotation.num_frames, annotation.num_objects
    if annotation.video_id != files.video_id:
        raise DataError(
            f"{files.annotation} is about video {annotation.video_id}; wanted"
            f" {files.video_id}; get the file again or leave it out"
        )
    if num_frames != len(video):
        raise DataError(
            f"{files.annotation} has {num_frames} frames, but {files.video} has"
            f" {len(video)}; get both files again or leave them out"
        )
    if num_objects > MAX_OBJECTS:
        raise DataError(
            f"{files.annotation} has {num_objects} objects; at most {MAX_OBJECTS} can"
            " be stored; leave the video out"
        )
    if frame_stride >= num_frames:
        raise DataError(
            f"{files.video} has {num_frames} frames; frame_stride={frame_stride} wants"
            f" at least {frame_stride + 1}"
        )

    flow, visible = cast_flow(annotation, *cells, frame_stride=frame_stride)
    return {
        VIDEO: video,
        **_padded(flow, visible, frame_stride),
        SEGMENTS: cast_segments(annotation, height, width),
        **object_states(annotation),
        **_collisions(annotation, frame_stride),
    }


def read_pictures(
    files: Files,
    size: tuple[int, int] | None,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> dict[str, np.ndarray]:
    """The frames of a video, and its label pictures if there are any.

    Args:
      size: (height, width) that they are brought to, if they have another; None = as
        they are.
      suffixes: of frames that are pictures; others are left out.

    Returns:
      VIDEO, and LABEL, uint8 [t, height, width, 3].

    Raises:
      DataError: they cannot be read, or are not of the same number.
    """
    arrays = {}
    for key, place, kinds in (
        (VIDEO, files.video, suffixes),
        (LABEL, files.label, IMAGE_SUFFIXES),
    ):
        if place is None:
            continue
        if files.split and place.is_dir():
            check_frames(place, kinds)
        arrays[key] = read_video(place, size=size, suffixes=kinds)
    if LABEL in arrays and len(arrays[LABEL]) != len(arrays[VIDEO]):
        raise DataError(
            f"{files.label} has {len(arrays[LABEL])} pictures, but {files.video} has"
            f" {len(arrays[VIDEO])}; make one for each frame or leave both out"
        )
    return arrays


def read_or_error(
    files: Files, *, read: Callable[..., dict[str, np.ndarray]] = read_arrays, **options
) -> dict[str, np.ndarray] | DataError:
    """`read_arrays`, or the error in its place, for one bad file must not stop all."""
    try:
        return read(files, **options)
    except DataError as error:
        return error


def object_states(annotation: Annotation) -> dict[str, np.ndarray]:
    """STATE float32 [t, MAX_OBJECTS, 4] and PRESENT uint8 [t, MAX_OBJECTS]."""
    num_frames, num_objects = annotation.num_frames, annotation.num_objects
    state = np.zeros((num_frames, MAX_OBJECTS, len(STATE_FEATURES)), np.float32)
    state[:, :num_objects, :2] = annotation.location[..., :2]
    state[:, :num_objects, 2:] = annotation.velocity[..., :2]
    present = np.zeros((num_frames, MAX_OBJECTS), np.uint8)
    present[:, :num_objects] = annotation.in_view
    return {STATE: state, PRESENT: present}


def _padded(
    flow: np.ndarray, visible: np.ndarray, frame_stride: int
) -> dict[str, np.ndarray]:
    last = [(0, frame_stride)]
    return {
        FLOW: np.pad(flow.astype(np.float16), last + [(0, 0)] * 3),
        VISIBLE: np.pad(visible.astype(np.float16), last + [(0, 0)] * 2)[..., None],
    }


def _collisions(annotation: Annotation, frame_stride: int) -> dict[str, np.ndarray]:
    counts = np.zeros(annotation.num_frames, np.float32)
    pairs = np.zeros((annotation.num_frames, MAX_OBJECTS, MAX_OBJECTS), np.uint8)
    for collision in annotation.collisions:
        steps = slice(max(collision.frame - frame_stride + 1, 0), collision.frame + 1)
        counts[steps] += 1
        first, second = collision.objects
        pairs[steps, first, second] = pairs[steps, second, first] = 1
    for array in (counts, pairs):
        array[annotation.num_frames - frame_stride :] = 0
    return {COLLISION: counts, PAIRS: pairs}


def iterate_proposals(
    path: str | os.PathLike, properties: tuple[tuple[str, str, str], ...]
) -> Iterator[tuple[int, Bool[np.ndarray, "n h w"]]]:
    """The masks that a detector found, given to the objects of the annotation.

    A detection belongs to the object of the same (color, material, shape). The detector
    confuses materials at times: what is left goes to the object of the same color and
    shape if no other object has them. Lists have no meaningful order in these files.

    Args:
      path: a file of `derender_proposals` or `processed_proposals`.
      properties: (color, material, shape) of the n objects.

    Yields:
      The frame's number and the mask of every object; empty where it was not found.
      Frames with no detection at all are left out.

    Raises:
      DataError: the file is not such a file or a mask is damaged.
    """
    try:
        frames = json.loads(pathlib.Path(path).read_text())["frames"]
        for frame in frames:
            found = _matched(frame["objects"], properties)
            if not found:
                continue
            if any(math.prod(o["mask"]["size"]) > MAX_PIXELS for o in found.values()):
                raise ValueError(f"a mask of more than {MAX_PIXELS} pixels")
            decoded = {k: decode_rle(one["mask"]) for k, one in found.items()}
            shape = next(iter(decoded.values())).shape
            masks = np.zeros((len(properties), *shape), bool)
            for k, mask in decoded.items():
                masks[k] = mask
            yield int(frame["frame_index"]), masks
    except (
        *(OSError, LookupError, TypeError, ValueError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise DataError(
            f"{path}: not a CLEVRER proposal file ({type(error).__name__}: {error});"
            " get it again or leave it out"
        ) from error


def _matched(
    detections: list[Mapping], properties: tuple[tuple[str, str, str], ...]
) -> dict[int, Mapping]:
    """Object number -> its detection, the surest first."""
    rest = sorted(detections, key=lambda one: -one.get("score", 1.0))
    found: dict[int, Mapping] = {}
    for keys in (("color", "material", "shape"), ("color", "shape")):
        columns = [("color", "material", "shape").index(key) for key in keys]
        names = [tuple(row[c] for c in columns) for row in properties]
        for one in rest:
            name = tuple(one[key] for key in keys)
            if names.count(name) == 1 and names.index(name) not in found:
                found[names.index(name)] = one
        rest = [one for one in rest if all(one is not used for used in found.values())]
    return found
