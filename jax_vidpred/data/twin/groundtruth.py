"""Exact segments, depth, flow and visibility on any grid, from annotated poses alone.

No picture is needed: rays of the known camera meet geoms at the annotated poses. A grid
of any height and width stands for the whole picture.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin.scene import FLOOR, Scene, box_mask, corners, pixel_boxes
from jax_vidpred.ops import geometry

_TOLERANCE = 1e-3  # world units by which a point may lie behind what is seen there


class _Rays:
    """The rays of one grid, and which of them may meet an object in a frame."""

    def __init__(self, annotation: Annotation, height: int, width: int, samples: int):
        self.shape = (height, width, samples**2)
        self.origin, self.directions = geometry.camera_rays(height, width, samples)
        self.boxes = pixel_boxes(corners(annotation), height, width)

    def cast(self, scene: Scene, frame: int):
        """What is hit in one frame: ray [m] (flat index), object [m], depth [m]."""
        scene.set_frame(frame)
        mask = box_mask(self.boxes[frame], *self.shape[:2])
        ray = np.flatnonzero(np.repeat(mask.reshape(-1), self.shape[2]))
        index, depth, _ = scene.cast(self.origin, self.directions.reshape(-1, 3)[ray])
        hit = index != FLOOR
        return ray[hit], index[hit], depth[hit]


def cast_segments(
    annotation: Annotation,
    height: int,
    width: int,
    frames: Sequence[int] | None = None,
) -> np.ndarray:
    """Which object is seen at each pixel's centre.

    Args:
      frames: frame numbers; all when None.

    Returns:
      uint8 [t, height, width]: 0 = floor, k + 1 = object k.
    """
    frames = range(annotation.num_frames) if frames is None else frames
    scene, rays = Scene(annotation), _Rays(annotation, height, width, 1)
    segments = np.zeros((len(frames), height * width), np.uint8)
    for row, frame in zip(segments, frames, strict=True):
        ray, index, _ = rays.cast(scene, frame)
        row[ray] = index + 1
    return segments.reshape(-1, height, width)


def cast_depth(
    annotation: Annotation,
    height: int,
    width: int,
    frames: Sequence[int] | None = None,
) -> np.ndarray:
    """Distance along the camera's axis of what is seen at each pixel's centre.

    Returns:
      float32 [t, height, width] world units; the floor's depth where no object is.
    """
    frames = range(annotation.num_frames) if frames is None else frames
    scene, rays = Scene(annotation), _Rays(annotation, height, width, 1)
    floor = -rays.origin[2] / rays.directions[..., 2].reshape(-1)
    depths = np.repeat(floor[None].astype(np.float32), len(frames), axis=0)
    for row, frame in zip(depths, frames, strict=True):
        ray, _, depth = rays.cast(scene, frame)
        row[ray] = depth
    return depths.reshape(-1, height, width)


def cast_flow(
    annotation: Annotation,
    height: int,
    width: int,
    *,
    frame_stride: int = 1,
    samples: int = 2,
    direction: Literal["backward", "forward"] = "backward",
) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface seen in each cell is in another frame, and if it is seen there.

    backward: entry t lives on the grid of frame t + frame_stride and points to frame t,
    so warp(image_t, flow)(p) = image_t(p + flow(p)). forward: entry t lives on the grid
    of frame t and points to frame t + frame_stride.

    A cell is looked at by samples x samples rays. Its flow is the mean over the rays of
    the segment that most of them hit (an object on a tie), so motions do not mix; its
    visibility is the mean over all rays. The floor does not move.

    Args:
      height, width: of the grid, which stands for the whole picture.
      frame_stride: frames between the two grids.
      samples: rays per cell along each axis.

    Returns:
      flow: float32 [t - frame_stride, height, width, 2], (x right, y down) in cells.
      visible: float32 [t - frame_stride, height, width] in [0, 1], the share of rays
        whose surface point is inside the picture of the other frame, faces the camera
        there and is not hidden by an object.

    Raises:
      ValueError: frame_stride is not in 1 .. t - 1 or the direction is unknown.
    """
    num_frames = annotation.num_frames
    if not 1 <= frame_stride < num_frames:
        raise ValueError(
            f"frame_stride={frame_stride}: a video of {num_frames} frames wants"
            f" 1..{num_frames - 1}; give a smaller stride"
        )
    if direction not in ("backward", "forward"):
        raise ValueError(
            f"direction={direction!r}: give 'backward' (the house convention) or"
            " 'forward'"
        )
    scene, rays = Scene(annotation), _Rays(annotation, height, width, samples)
    num_rays = height * width * samples**2
    steps = num_frames - frame_stride
    here, there = np.arange(steps) + frame_stride, np.arange(steps)
    if direction == "forward":
        here, there = there, here

    hits = [rays.cast(scene, frame) for frame in range(num_frames)]
    segments = np.zeros((num_frames, num_rays), np.uint8)
    for row, (ray, index, _) in zip(segments, hits, strict=True):
        row[ray] = index + 1
    own = segments[here]
    # The floor stays where it is: it is seen there unless an object stands before it.
    visible = (segments[there] == 0).astype(np.float32)
    motion = np.zeros((steps, num_rays, 2), np.float32)

    counts = [len(hits[frame][0]) for frame in here]
    step = np.repeat(np.arange(steps), counts)
    ray, index, depth = (
        np.concatenate([hits[frame][i] for frame in here]) for i in range(3)
    )
    directions = rays.directions.reshape(-1, 3)
    point = rays.origin + depth[:, None] * directions[ray]
    now, then = (here[step], index), (there[step], index)
    local = np.einsum("mji,mj->mi", scene.rotation[now], point - scene.location[now])
    moved = np.einsum("mij,mj->mi", scene.rotation[then], local) + scene.location[then]
    start, _ = geometry.project(point, height, width)
    end, end_depth = geometry.project(moved, height, width)
    motion[step, ray] = end - start
    inside = (end_depth > 0) & (end >= 0).all(-1) & (end <= (width, height)).all(-1)
    seen = np.zeros(len(ray), bool)
    towards = (moved - rays.origin) / end_depth[:, None]
    for t, rows in enumerate(np.split(np.arange(len(ray)), np.cumsum(counts)[:-1])):
        rows = rows[inside[rows]]
        scene.set_frame(there[t])
        first, distance, _ = scene.cast(rays.origin, towards[rows])
        seen[rows] = (first == FLOOR) | (distance > end_depth[rows] - _TOLERANCE)
    visible[step, ray] = seen

    grid = (steps, height, width, samples**2)
    own, motion = own.reshape(grid), motion.reshape(*grid, 2)
    flow = _majority_mean(own, motion, annotation.num_objects)
    return flow, visible.reshape(grid).mean(-1)


def _majority_mean(
    segments: np.ndarray, motion: np.ndarray, num_objects: int
) -> np.ndarray:
    """Mean motion [..., 2] of the rays [..., s] of the most frequent object segment."""
    best = np.zeros(segments.shape[:-1], np.int64)
    total = np.zeros((*segments.shape[:-1], 2), np.float32)
    for k in range(num_objects):
        mine = segments == k + 1
        count = mine.sum(-1)
        wins = count > best
        best = np.where(wins, count, best)
        total[wins] = (motion * mine[..., None])[wins].sum(-2)
    moves = best >= (segments == 0).sum(-1)
    return total * (moves / np.maximum(best, 1))[..., None].astype(np.float32)
