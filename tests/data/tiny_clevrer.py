"""A small data root in the official layout, written by the tests themselves."""

import pathlib

import numpy as np

from jax_vidpred.data.schema import Annotation, Collision
from jax_vidpred.data.video_io import write_mp4

NUM_FRAMES = 22  # no multiple of the frames in a record
IDS = {"train": (0, 1, 2, 5, 1000), "validation": (10000, 10001), "test": (15000,)}
UNANNOTATED = (2, 15000)
# Frame 4 -> 5 of every video is the first step of a collision, 9 and 10 a double one.
COLLISIONS = ((4, (0, 1)), (10, (0, 2)), (10, (1, 2)), (21, (0, 1)))


def make_annotation(video_id: int, num_frames: int = NUM_FRAMES) -> Annotation:
    """Three objects that run through the picture, each at its own speed."""
    rng = np.random.default_rng(video_id)
    start = rng.uniform(-1.5, 1.5, (3, 3)) * (1, 1, 0) + (0, 0, 0.2)
    velocity = rng.uniform(-3, 3, (3, 3)) * (1, 1, 0)
    time = np.arange(num_frames)[:, None, None] * 0.028
    location = (start + velocity * time).round(4)
    zero = np.zeros_like(location)
    orientation = zero + [[0, 0, 0.5], [0, 0, 0], [np.pi / 2, 0, 0]]
    in_view = np.ones((num_frames, 3), bool)
    in_view[:7, 1] = False
    return Annotation(
        video_id=video_id,
        properties=(
            ("red", "metal", "cube"),
            ("blue", "rubber", "sphere"),
            ("green", "metal", "cylinder"),
        ),
        location=location,
        orientation=orientation.round(4),
        velocity=(velocity + zero).round(4),
        angular_velocity=zero,
        in_view=in_view,
        collisions=tuple(
            Collision(frame=frame, objects=pair, location=(0.0, 0.0, 0.2))
            for frame, pair in COLLISIONS
        ),
    )


def frame_values(video_id: int) -> np.ndarray:
    """[t, 3] the colour that frame t of a video is filled with: it tells both apart."""
    t = np.arange(NUM_FRAMES)
    level = 100 + 0 * t
    return np.stack([30 + 8 * t, level, level + 10 * (video_id % 7)], -1).astype(
        np.uint8
    )


def write_pair(root: pathlib.Path, video_id: int, *, annotated: bool = True) -> None:
    """The video and the annotation, each in its place in the official layout."""
    split = next(split for split, ids in IDS.items() if video_id in ids)
    thousand = video_id // 1000 * 1000
    part = f"{thousand:05d}-{thousand + 1000:05d}"
    frames = np.broadcast_to(
        frame_values(video_id)[:, None, None], (NUM_FRAMES, 32, 48, 3)
    )
    folder = root / f"video_{split}" / f"video_{part}"
    write_mp4(folder / f"video_{video_id:05d}.mp4", frames, crf=1)
    if annotated:
        folder = root / f"annotation_{split}" / f"annotation_{part}"
        folder.mkdir(parents=True, exist_ok=True)
        text = make_annotation(video_id).to_json()
        (folder / f"annotation_{video_id:05d}.json").write_text(text)


def write_root(root: pathlib.Path) -> pathlib.Path:
    for video_id in (number for ids in IDS.values() for number in ids):
        write_pair(root, video_id, annotated=video_id not in UNANNOTATED)
    return root
