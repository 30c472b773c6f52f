"""Places of objects that hide each other: what of the silhouette should be seen?"""

import numpy as np
from jaxtyping import Bool, Float, Integer

from jax_vidpred.metrics import tracks
from jax_vidpred.ops import geometry

# Points of a silhouette, on a square grid of so many a side.
GRID = 14
ITERATIONS = 6
# An object of which a smaller share is seen is not found.
LEAST_SEEN = 0.15


def unhidden_positions(
    segments: Integer[np.ndarray, "t h w"], num_objects: int
) -> tuple[Float[np.ndarray, "t n 2"], Bool[np.ndarray, "t n"]]:
    """World (x, y) of every object; hidden parts are allowed for.

    `tracks.floor_positions` takes the centroid of what is seen, which of an object that
    is half hidden lies too far from the one before it. So an ellipse of the object's
    size is laid where the object seems to be, its part that nearer objects do not cover
    has a centroid too, and the object is moved by what that misses the seen one;
    ITERATIONS times. The size is the 70 % quantile over time of area times depth^2.

    On true segments of 64x64 the error of objects within 0.8 of another is 0.016 in the
    median and 0.040 at 90 % (40 twin videos); 0.018 and 0.124 without. 0.25 ms a frame.

    Args:
      segments: 0 = floor, k + 1 = object k; they stand for the whole picture, squashed.

    Returns:
      positions: world units, NaN where not found.
      found: as of `floor_positions`, less where hardly anything is seen.
    """
    _, height, width = segments.shape
    positions, found = tracks.floor_positions(segments, num_objects)
    centroid, area = tracks.centroids(segments, num_objects)
    frame, which = np.nonzero(_beside_another(segments, num_objects) & found)
    if not len(frame):
        return positions, found
    to_pixels = geometry.floor_homography(height, width, tracks.CENTRE_HEIGHT)
    to_floor = np.linalg.inv(to_pixels)
    # Depth is the homography's denominator, up to a factor that the sizes take up too.
    depth = _denominator(to_pixels, positions)
    # An ellipse as wide and high as a ball in the squashed picture.
    axes = np.array([width / geometry.FULL_WIDTH, height / geometry.FULL_HEIGHT])
    scaled = np.where(found, area * depth**2, np.nan)
    known = found.any(0)
    size = np.full(num_objects, np.nan)
    size[known] = np.nanquantile(scaled[:, known], 0.7, axis=0)
    radius = np.sqrt(size / (np.pi * axes.prod()))[which]

    steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    disc = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    disc = disc[(disc**2).sum(-1) <= 1]
    seen, place = centroid[frame, which], centroid[frame, which].copy()
    floor = np.full((len(segments), 1), np.inf)
    for _ in range(ITERATIONS):
        own = _depth_of(to_floor, to_pixels, place)
        spread = axes * (radius / own)[:, None]
        points = place[:, None] + disc * spread[:, None]
        column, row = np.floor(points).astype(int).transpose(2, 0, 1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
        label = np.where(inside, segments[frame[:, None], row, column], 0).astype(int)
        # The floor is behind everything.
        every = np.concatenate([floor, np.where(found, depth, np.inf)], 1)
        nearer = every[frame[:, None], label] < own[:, None]
        visible = ~nearer | (label == which[:, None] + 1)
        share = visible.mean(1)[:, None]
        middle = (visible[..., None] * points).mean(1) / np.maximum(share, 1e-9)
        place = np.where(share > 0, seen + place - middle, place)
        depth[frame, which] = _depth_of(to_floor, to_pixels, place)
    positions, found = positions.copy(), found.copy()
    positions[frame, which] = _to_plane(to_floor, place)
    found[frame, which] &= (area * depth**2 >= LEAST_SEEN * size)[frame, which]
    return np.where(found[..., None], positions, np.nan), found


def _beside_another(segments: np.ndarray, num_objects: int) -> np.ndarray:
    """Whether a pixel of an object [t, n] has a neighbour of another object."""
    result = np.zeros((len(segments), num_objects + 1), bool)
    for axis in (1, 2):
        one = np.moveaxis(segments, axis, 1)
        a, b = one[:, :-1], one[:, 1:]
        frame, *place = np.nonzero((a != b) & (a > 0) & (b > 0))
        for side in (a, b):
            result[frame, side[frame, *place]] = True
    return result[:, 1:]


def _to_plane(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = (
        np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ homography.T
    )
    return mapped[..., :2] / mapped[..., 2:]


def _denominator(to_pixels: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return positions @ to_pixels[2, :2] + to_pixels[2, 2]


def _depth_of(
    to_floor: np.ndarray, to_pixels: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """Depth of the points of the plane that are seen at some pixels [..., 2]."""
    return _denominator(to_pixels, _to_plane(to_floor, place))
