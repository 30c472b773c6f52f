"""Small data roots in RIVER's layouts, written with Pillow and h5py alone."""

import pathlib

import h5py
import numpy as np
from PIL import Image

NUM_FRAMES = 6
SIZE = (16, 24)


def make_video(seed: int, num_frames: int = NUM_FRAMES, size=SIZE) -> np.ndarray:
    """Noise: every pixel of every frame tells whether it is the right one."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, *size, 3), np.uint8)


def write_pictures(folder: pathlib.Path, video: np.ndarray, name="{:05d}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at, frame in enumerate(video):
        Image.fromarray(frame).save(folder / name.format(at))


def write_shard(path: pathlib.Path, videos) -> None:
    """As the converter of RIVER does: `len`, an empty `videos`, a group a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        lengths = file.create_group("len")
        file.create_group("videos")
        for number, video in enumerate(videos):
            group = file.create_group(str(number))
            for at, frame in enumerate(video):
                group.create_dataset(str(at), data=frame, compression="lzf")
            lengths.create_dataset(str(number), data=len(video))


def whole_video(source, index: int, key: str) -> np.ndarray:
    into = source.empty([key], 1, int(source.num_frames[index]))
    source.read(index, 0, 1, {key: into[key][0]})
    return into[key][0]
