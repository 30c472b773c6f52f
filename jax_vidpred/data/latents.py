"""Latents of all frames of a split: encoded once, read from one file ever after.

A first stage that is frozen gives the same latents in every epoch.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from jax_vidpred.data.lock import one_at_a_time
from jax_vidpred.data.records import say
from jax_vidpred.data.schema import LATENT, VIDEO, DataError
from jax_vidpred.data.source import Field, VideoSource

FRAMES_AT_ONCE = 32  # that are encoded together
Encode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class LatentSource(VideoSource):
    """Videos with a field LATENT besides.

    Attributes:
      latents: [frames of all videos, gh, gw, c] float16, in the order of the videos.
    """

    latents: np.ndarray

    def __post_init__(self):
        super().__post_init__()
        first = np.concatenate([[0], np.cumsum(self.num_frames)])
        object.__setattr__(self, "_first_frame", first)

    def read(
        self, index: int, start: int, stride: int, into: Mapping[str, np.ndarray]
    ) -> None:
        """As of `VideoSource`; where LATENT alone is wanted, no record is touched."""
        others = {key: array for key, array in into.items() if key != LATENT}
        if others:
            super().read(index, start, stride, others)
        if LATENT not in into:
            return
        end = start + (len(into[LATENT]) - 1) * stride + 1
        if start < 0 or end > self.num_frames[index]:
            raise DataError(
                f"video {self.video_ids[index]} has {self.num_frames[index]} frames;"
                f" frames {start} to {end - 1} were asked for; ask for a shorter clip"
            )
        first = int(self._first_frame[index])
        into[LATENT][...] = self.latents[first + start : first + end : stride]


def with_latents(
    source: VideoSource, encode: Encode, folder: str | os.PathLike, name: str
) -> LatentSource:
    """The source with latents, which are made where the file of that name is missing.

    Args:
      source: of the frames.
      encode: uint8 [FRAMES_AT_ONCE, h, w, 3] -> float [FRAMES_AT_ONCE, gh, gw, c].
      folder: of the file.
      name: says what encodes: of another network, another name.

    Raises:
      DataError: a video cannot be read, or the file not be written.
    """
    folder = pathlib.Path(folder)
    path = folder / f"{source.fingerprint}_{source.split}_{name}.npy"
    with one_at_a_time(path):
        latents = _open(path, source)
        if latents is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _write(path, source, encode)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be written ({error.strerror}); free space or"
                    " choose another folder"
                ) from error
            latents = np.load(path, mmap_mode="r")
    field = Field(latents.shape[1:], np.float16, np.float32)
    fields = {one.name: getattr(source, one.name) for one in dataclasses.fields(source)}
    fields["fields"] = {**source.fields, LATENT: field}
    return LatentSource(**fields, latents=latents)


def _open(path: pathlib.Path, source: VideoSource) -> np.ndarray | None:
    """The latents of the file, None where it is absent or not whole."""
    try:
        latents = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = latents.ndim == 4 and len(latents) == source.num_frames.sum()
    return latents if whole and latents.dtype == np.float16 else None


def _write(path: pathlib.Path, source: VideoSource, encode: Encode) -> None:
    part = path.with_name(path.name + ".part")
    latents, done = None, 0
    for index, length in enumerate(source.num_frames.tolist()):
        frames = source.empty((VIDEO,), 1, length)[VIDEO][0]
        source.read(index, 0, 1, {VIDEO: frames})
        for first in range(0, length, FRAMES_AT_ONCE):
            few = frames[first : first + FRAMES_AT_ONCE]
            filled = np.zeros((FRAMES_AT_ONCE, *few.shape[1:]), few.dtype)
            filled[: len(few)] = few
            encoded = np.asarray(encode(filled))
            if latents is None:
                shape = (int(source.num_frames.sum()), *encoded.shape[1:])
                latents = np.lib.format.open_memmap(part, "w+", np.float16, shape)
            latents[done : done + len(few)] = encoded[: len(few)]
            done += len(few)
    latents.flush()
    part.replace(path)
    say(f"Encoded {done} frames of split {source.split} into {path}")
