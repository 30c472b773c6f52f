"""Writes simulated videos as a data set in CLEVRER's official layout.

    video_train/video_00000-01000/video_00000.mp4
    annotation_train/annotation_00000-01000/annotation_00000.json
    derender_proposals/proposal_00000.json
    twin.json                                  (seed, size, counts, generator version)

Numbers are the official ones: train from 0, validation from 10000, test from 15000. One
thing differs from the official files: the twin knows the truth of its test videos too,
so it writes annotation_test/, which the official data set has not.

A video is a pure function of (seed, number, size): neither the number of processes nor
the order of work changes a byte. Its mp4 is written last and appears at once, so it is
the mark of a whole video: a run that was stopped goes on where it was.
"""

import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import types
from collections.abc import Callable, Mapping

import numpy as np

from jax_vidpred.data.lock import one_at_a_time
from jax_vidpred.data.schema import SPLIT_STARTS, Annotation, DataError, split_of
from jax_vidpred.data.twin.groundtruth import cast_segments
from jax_vidpred.data.twin.physics import simulate
from jax_vidpred.data.twin.render import Renderer
from jax_vidpred.data.video_io import write_mp4, write_whole
from jax_vidpred.data.workers import end_with_parent
from jax_vidpred.ops.masks import encode_rle

GENERATOR_VERSION = 1  # counts up when the same seed begins to give other bytes
MANIFEST = "twin.json"
CRF = 12  # of the mp4 files
MIN_SIZE = 16
SPLIT_SIZES = {"train": 10_000, "validation": 5_000, "test": 5_000}
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


def write_dataset(
    out: str | os.PathLike,
    num_videos: Mapping[str, int],
    height: int,
    width: int,
    seed: int = 0,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda whole, total: None,
) -> int:
    """Makes the videos that a folder lacks.

    Processes that call it at once for one folder take turns.

    Args:
      out: the folder; made if need be. One that holds part of the same data set is
        completed, one that holds anything else is refused.
      num_videos: how many of each split: "train", "validation", "test".
      height, width: of the videos and masks in pixels, even.
      seed: of the whole data set, >= 0.
      num_workers: processes; one per CPU core when None; 1 works in this process.
      on_progress: called with the number of whole videos and that of all, at the
        beginning and after every video.

    Returns:
      The number of videos that were made; the others were there.

    Raises:
      DataError: the arguments make no sense, the folder holds something else, or a file
        cannot be written. Videos that are whole by then stay.
      KeyboardInterrupt: as it came, after the videos under work are whole.
    """
    out = pathlib.Path(out)
    ids = _video_ids(num_videos)
    _check_numbers(height, width, seed, num_workers)
    try:
        with one_at_a_time(out):
            _open_manifest(out, num_videos, height, width, seed)
            missing = [video_id for video_id in ids if not _is_whole(out, video_id)]
            whole = len(ids) - len(missing)
            on_progress(whole, len(ids))
            make = functools.partial(_make_video, out, height, width, seed)
            num_workers = min(num_workers or available_cores(), len(missing))
            # Closed at once, not when the last reference goes: an interrupted run must
            # not return before its workers have.
            with contextlib.closing(_results(make, missing, num_workers)) as results:
                for _ in results:
                    whole += 1
                    on_progress(whole, len(ids))
    except KeyboardInterrupt:
        # The workers finished what they had begun.
        on_progress(sum(_is_whole(out, video_id) for video_id in ids), len(ids))
        raise
    except OSError as error:
        raise DataError(
            f"{out}: cannot be used ({error.strerror}); choose another folder"
        ) from error
    return len(missing)


def available_cores() -> int:
    """CPU cores that this process may use."""
    # Only Linux tells; elsewhere a process may use all there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _video_ids(num_videos: Mapping[str, int]) -> list[int]:
    for split, count in num_videos.items():
        if split not in SPLIT_SIZES or not 0 <= count <= SPLIT_SIZES[split]:
            allowed = ", ".join(f"{s} 0 to {n}" for s, n in SPLIT_SIZES.items())
            raise DataError(f"{count} videos of split {split!r}; wanted {allowed}")
    return [
        SPLIT_STARTS[split] + k
        for split in SPLIT_STARTS
        for k in range(num_videos.get(split, 0))
    ]


def _check_numbers(height, width, seed, num_workers):
    for name, side in (("width", width), ("height", height)):
        if side < MIN_SIZE or side % 2:
            raise DataError(
                f"{name} {side}; wanted an even number of at least {MIN_SIZE} pixels"
                " (the video format stores color for blocks of 2x2)"
            )
    if seed < 0:
        raise DataError(f"seed {seed}; wanted 0 or more")
    if num_workers is not None and num_workers < 1:
        raise DataError(f"{num_workers} workers; wanted 1 or more")


def _open_manifest(out, num_videos, height, width, seed):
    """Writes what the folder holds; refuses a folder that holds something else."""
    path = out / MANIFEST
    identity = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "height": height,
        "width": width,
    }
    counts = {split: num_videos.get(split, 0) for split in SPLIT_STARTS}
    if path.exists():
        try:
            found = json.loads(path.read_text())
            before = {split: int(found["num_videos"][split]) for split in SPLIT_STARTS}
            found = {key: found[key] for key in identity}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}: {error});"
                " delete the folder or choose another one"
            ) from error
        if found != identity:
            differences = ", ".join(
                f"{key} {found[key]} instead of {identity[key]}"
                for key in identity
                if found[key] != identity[key]
            )
            raise DataError(
                f"{out} holds a data set with {differences};"
                " delete the folder or choose another one"
            )
        counts = {split: max(counts[split], before[split]) for split in counts}
        if counts == before:
            return
    elif any(out.glob("video*")) or any(out.glob("derender_proposals")):
        raise DataError(
            f"{out} holds videos that were not simulated (no {MANIFEST} in it);"
            " choose another folder"
        )
    write_whole(path, json.dumps(identity | {"num_videos": counts}).encode())


def _path(out: pathlib.Path, kind: str, video_id: int) -> pathlib.Path:
    suffix = "mp4" if kind == "video" else "json"
    name = f"{kind}_{video_id:05d}.{suffix}"
    if kind == "proposal":
        return out / "derender_proposals" / name
    start = video_id // 1000 * 1000
    folder = f"{kind}_{start:05d}-{start + 1000:05d}"
    return out / f"{kind}_{split_of(video_id)}" / folder / name


def _is_whole(out: pathlib.Path, video_id: int) -> bool:
    path = _path(out, "video", video_id)
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


@functools.cache
def _renderer(height: int, width: int) -> Renderer:
    return Renderer(height, width)


def _make_video(
    out: pathlib.Path, height: int, width: int, seed: int, video_id: int
) -> int:
    """Simulates, renders and writes one video; returns its number."""
    paths = {kind: _path(out, kind, video_id) for kind in ("annotation", "proposal")}
    paths["video"] = _path(out, "video", video_id)
    for path in paths.values():
        # What a killed process left behind, see `write_whole`.
        for stale in path.parent.glob(f".{path.name}.*"):
            stale.unlink(missing_ok=True)
    random = np.random.SeedSequence(seed, spawn_key=(video_id,))
    write_whole(paths["annotation"], simulate(random, video_id).to_json().encode())
    # Read back, because the file has fewer decimals: pictures and masks are a function
    # of what the file says.
    annotation = Annotation.from_json(paths["annotation"])
    proposals = derender_proposals(annotation, cast_segments(annotation, height, width))
    write_whole(paths["proposal"], json.dumps(proposals).encode())
    video = _renderer(height, width).render(annotation)
    write_mp4(paths["video"], video, crf=CRF)
    return video_id


def derender_proposals(annotation: Annotation, segments: np.ndarray) -> dict:
    """The official proposals of a video, with exact masks and attributes.

    Args:
      annotation: of the video.
      segments: [t, h, w], 0 = floor, k + 1 = object k.

    Returns:
      Every key of the official files. A frame lists the objects of which a pixel is
      seen; there is no object number in these files, the attributes identify one.
    """

    def proposal(frame, k):
        color, material, shape = annotation.properties[k]
        return {
            "mask": encode_rle(segments[frame] == k + 1),
            "video_index": annotation.video_id,
            "frame_index": frame,
            "color": color,
            "material": material,
            "shape": shape,
            "score": 1.0,
        }

    return {
        "video_index": annotation.video_id,
        "video_filename": f"video_{annotation.video_id:05d}.mp4",
        "frames": [
            {
                "frame_index": frame,
                "objects": [
                    proposal(frame, int(label) - 1)
                    for label in np.unique(segments[frame])
                    if label > 0
                ],
            }
            for frame in range(len(segments))
        ],
    }


def _results(make, missing, num_workers):
    """Yields the results of `make` as they come, computed by some processes."""
    if num_workers <= 1:
        yield from map(make, missing)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        # A fork of a process that runs JAX's threads may hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
    )
    try:
        with _worker_environment():
            futures = [pool.submit(make, video_id) for video_id in missing]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DataError(
            "a worker process died, perhaps for lack of memory;"
            " run the same again with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _worker_environment():
    """What worker processes see while they start.

    One thread each, since every core has its process. And an empty main module: a
    spawned process imports the caller's, which costs seconds if it imports JAX and
    would start the work over if it is a script without a guard.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    os.environ.update(_ONE_THREAD)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _begin_worker():
    """Leaves Ctrl-C to the parent process, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
