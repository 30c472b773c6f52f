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
from jax_vidpred.data.source import DamagedError, Field, VideoSource

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
        latents = self.latents[first + start : first + end : stride]
        if np.isnan(latents[0, 0, 0, 0]):
            raise DamagedError(
                f"video {self.video_ids[index]} of split {self.split!r} could not be"
                f" read when it was encoded; delete {self.folder} and"
                f" {self.latents.filename}, they will be made again",
                split=self.split,
                video_id=int(self.video_ids[index]),
            )
        into[LATENT][...] = latents


def with_latents(
    source: VideoSource, encode: Encode, folder: str | os.PathLike, name: str
) -> LatentSource:
    """The source with latents, which are made where the file of that name is missing.

    Args:
      source: of the frames.
      encode: uint8 [FRAMES_AT_ONCE, h, w, 3] -> float [FRAMES_AT_ONCE, gh, gw, c].
      folder: of the file.
      name: says what encodes: of another network, another name.

    A video that is damaged has no latents, and is an error where it is read.

    Raises:
      DataError: the file cannot be written.
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
    """One after the other: unlike one that is mapped, a full disk is an error then."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for index in range(len(source.num_frames)):
                latents = _latents_of(source, index, encode)
                if index == 0:
                    whole = (int(source.num_frames.sum()), *latents.shape[1:])
                    about = np.lib.format.header_data_from_array_1_0(latents)
                    np.lib.format.write_array_header_1_0(file, about | {"shape": whole})
                file.write(latents.tobytes())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    done = int(source.num_frames.sum())
    say(f"Encoded {done} frames of split {source.split} into {path}")


def _latents_of(source, index, encode) -> np.ndarray:
    """Of all frames of a video, [n, gh, gw, c] float16; NaN where it is damaged."""
    length = int(source.num_frames[index])
    frames = source.empty((VIDEO,), 1, length)[VIDEO][0]
    try:
        source.read(index, 0, 1, {VIDEO: frames})
        damaged = False
    except DamagedError:
        damaged = True  # `LatentSource.read` says so when it is wanted
    parts = []
    for first in range(0, length, FRAMES_AT_ONCE):
        few = frames[first : first + FRAMES_AT_ONCE]
        filled = np.zeros((FRAMES_AT_ONCE, *few.shape[1:]), few.dtype)
        filled[: len(few)] = few
        parts.append(np.asarray(encode(filled))[: len(few)])
    latents = np.concatenate(parts).astype(np.float16)
    return np.full_like(latents, np.nan) if damaged else latents
