"""HDF5 files of videos in the layout of RIVER's data sets, read and written.

    len/K       one integer: number of frames of video K
    videos      a group that stays empty
    K/T         frame T of video K: uint8 [h, w, 3], RGB, compressed by LZF

K counts from 0 in every file, T in every video; files are called shard_0001.hdf5,
shard_0002.hdf5, ... Source: what RIVER's converter writes and its reader expects
(https://github.com/Araachie/river, dataset/); written from a description, not from it.

A file from outside may name other files (links, raw data elsewhere, virtual data), or
claim absurd sizes: only plain data of this layout is read.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
from jaxtyping import UInt8

from jax_vidpred.data.frame_folders import check_inside
from jax_vidpred.data.schema import DataError

VIDEOS_PER_FILE = 100_000
MAX_PIXELS = 1 << 26  # of a frame, or of a piece that is decompressed at once
LENGTHS, UNUSED = "len", "videos"
# Any other filter would be a library that HDF5 loads from somewhere.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}


def index_shards(shards: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The places (`FILE/K`) of all videos, in order.

    A file that cannot be read has one video, which cannot be read either: so it is
    counted and reported where videos are read.
    """
    places = []
    for shard in shards:
        try:
            with _opened(shard) as file:
                count = len(_member(file, LENGTHS, h5py.Group))
        except DataError:
            count = 1
        places += [shard / str(key) for key in range(count)]
    return places


def read_frames(
    place: pathlib.Path, max_frames: int | None = None
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video as they are stored.

    Args:
      place: of the video, `FILE/K`.
      max_frames: stop after that many frames.

    Raises:
      DataError: the video is not there, not whole, or not plain data.
    """
    with _opened(place.parent) as file:
        length = _member(_member(file, LENGTHS, h5py.Group), place.name, h5py.Dataset)
        _check_plain(length)
        if length.shape != () or length.dtype.kind not in "iu":
            raise ValueError(f"{length.name}: wanted one integer")
        frames = _member(file, place.name, h5py.Group)
        count = int(length[()])
        if count != len(frames):
            raise ValueError(
                f"{length.name} says {count} frames, but there are {len(frames)}"
            )
        wanted = range(count)[:max_frames]
        return [_frame(_member(frames, str(at), h5py.Dataset)) for at in wanted]


@contextlib.contextmanager
def _opened(shard: pathlib.Path) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever goes wrong inside becomes a DataError."""
    check_inside(shard)
    try:
        with h5py.File(shard, "r", locking="best-effort") as file:
            yield file
    except Exception as error:  # damaged bytes may fail anywhere, as anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"{shard}: no HDF5 file of videos as RIVER has them ({reason}); make it"
            " again by convert_h5 or leave it out"
        ) from error


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    """What is stored in the group itself: no link is followed."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} of {group.name} is missing, or a link")
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{member.name}: wanted a {kind.__name__.lower()}")
    return member


def _check_plain(data: h5py.Dataset) -> None:
    """Only data of this file, decompressed by what HDF5 itself brings."""
    plan = data.id.get_create_plist()
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    if data.is_virtual or plan.get_external_count() or filters - _FILTERS:
        raise ValueError(f"{data.name}: data of other files, or of unknown compression")


def _frame(data: h5py.Dataset) -> np.ndarray:
    _check_plain(data)
    shape = data.shape
    if data.dtype != np.uint8 or len(shape or ()) != 3 or shape[2] != 3:
        raise ValueError(f"{data.name}: {data.dtype} {shape}; wanted uint8 (h, w, 3)")
    for pixels in (shape[:2], (data.chunks or shape)[:2]):
        if not 0 < pixels[0] * pixels[1] <= MAX_PIXELS:
            raise ValueError(f"{data.name}: frames of {pixels[0]} x {pixels[1]} pixels")
    return data[()]


class ShardWriter:
    """Writes videos into the HDF5 files of a folder, one after the other.

    Use it in a `with` statement: files are whole when that ends.

    Args:
      folder: where the files are; it must be there.
      videos_per_file: when a file has so many, the next one begins.
    """

    def __init__(self, folder: pathlib.Path, *, videos_per_file: int = VIDEOS_PER_FILE):
        self._folder, self._videos_per_file = folder, videos_per_file
        self._file: h5py.File | None = None
        self._count = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            with self._as_data_error():
                self._file.close()

    def add(self, video: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Writes the next video.

        Raises:
          DataError: the file cannot be written.
        """
        shard, key = divmod(self._count, self._videos_per_file)
        with self._as_data_error():
            if key == 0:
                if self._file is not None:
                    self._file.close()
                path = self._folder / f"shard_{shard + 1:04d}.hdf5"
                # The oldest format: what RIVER's own environment writes and reads.
                self._file = h5py.File(path, "w", libver=("earliest", "v114"))
                self._file.create_group(LENGTHS)
                self._file.create_group(UNUSED)
            group = self._file.create_group(str(key))
            for at, frame in enumerate(video):
                group.create_dataset(str(at), data=frame, compression="lzf")
            self._file[LENGTHS].create_dataset(str(key), data=np.int64(len(video)))
        self._count += 1

    @contextlib.contextmanager
    def _as_data_error(self):
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5 raises both on a full disk
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{self._folder}: cannot be written ({reason}); free space or choose"
                " another folder"
            ) from error
