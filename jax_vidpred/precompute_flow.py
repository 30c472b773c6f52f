"""Command: optical flow by RAFT for videos that have no annotations to cast it from.

    python -m jax_vidpred.precompute_flow --root clips/ --weights weights/raft-small.pth

Writes one file per video under ROOT/flow, in the convention of cast flow (backward, on
the grid of the later frame, with visibility by forward-backward consistency); training
finds them there. What is there already is not made again. `compare_flow` shows how far
to trust it.
"""

import argparse
import json
import os
import re
import sys
import zlib
from collections.abc import Callable

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred import command
from jax_vidpred.data.clevrer import Files, index_files
from jax_vidpred.data.flow_files import FlowGrid, flow_path, is_flow_of, write_flow
from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import read_video, write_whole
from jax_vidpred.features.raft import MIN_SIDE, RAFT
from jax_vidpred.features.raft_weights import NETWORKS
from jax_vidpred.features.weights import Network, find_file, load_params, sha256
from jax_vidpred.ops.flow import visible_by_consistency
from jax_vidpred.ops.image import area_mean, to_float
from jax_vidpred.simulate import parse_size

# Frames that are worked on at a time: it bounds the memory, however long a video is.
WINDOW = 16
FAILURES = "failures"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `size` becomes (width, height), `shard` (index, count)."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.precompute_flow",
        description="Estimate optical flow of videos that have no annotations.",
    )
    add = parser.add_argument
    add("--root", required=True, help="folder of video_NNNNN.mp4, at any depth")
    add("--network", default="raft_small", choices=[one.name for one in NETWORKS])
    add("--weights", help="its file (by default looked for in JAX_VIDPRED_WEIGHTS)")
    add_grid(parser)
    add("--short_side", type=int, default=320, help="shrink frames to it first (320)")
    add("--annotated", action="store_true", help="annotated videos too, to compare")
    add(
        "--shard",
        type=_shard,
        default="0/1",
        help="I/N: of N processes, this is number I (0/1)",
    )
    return parser.parse_args(arguments)


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The options that say which data set the flow is for."""
    parser.add_argument(
        "--size",
        type=parse_size,
        default="64x64",
        help="WIDTHxHEIGHT of its frames (64x64)",
    )
    parser.add_argument(
        "--grid_stride", type=int, default=4, help="pixels per cell of its grid (4)"
    )
    parser.add_argument(
        "--frame_stride", type=int, default=2, help="frames from one to the next (2)"
    )


def grid_of(options: argparse.Namespace) -> FlowGrid:
    """The grid that the options of `add_grid` describe.

    Raises:
      DataError: the sizes do not divide.
    """
    width, height = options.size
    stride = options.grid_stride
    if stride < 1 or height % stride or width % stride:
        raise DataError(
            f"--size {width}x{height} does not divide by --grid_stride {stride}; choose"
            " multiples of it"
        )
    if options.frame_stride < 1:
        raise DataError(f"--frame_stride {options.frame_stride}: wanted 1 or more")
    return FlowGrid(height, width, stride, options.frame_stride)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parse_arguments(arguments)
    return command.run("precompute_flow", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    grid = grid_of(options)
    if options.short_side < MIN_SIDE:
        raise DataError(
            f"--short_side {options.short_side}: RAFT wants at least {MIN_SIDE} pixels"
        )
    network = next(one for one in NETWORKS if one.name == options.network)
    estimate = Estimator(network, options.weights or find_file(network))
    videos = [
        files
        for split in index_files(options.root).values()
        for files in split
        if (options.annotated or files.annotation is None)
        and _is_mine(files.video_id, options.shard)
    ]
    made, failures = 0, []
    with command.progress() as show:
        for index, files in enumerate(videos):
            show("estimating flow", index, len(videos))
            path = flow_path(
                options.root, network.name, grid, files.video_id, files.split
            )
            if is_flow_of(path, estimate.checksum):
                continue
            try:
                flow, visible = flow_of_video(files, grid, estimate, options.short_side)
            except DataError as error:
                failures.append({"video": str(files.video), "reason": str(error)})
                command.say(f"precompute_flow: {error}")
                continue
            write_flow(path, flow, visible, estimate.checksum)
            made += 1
        if videos:
            show("estimating flow", len(videos), len(videos))
    return _finish(options, network, grid, len(videos), made, failures)


def _finish(options, network, grid, total, made, failures) -> int:
    """Ledger of failures, one line about the rest; the exit code."""
    folder = flow_path(options.root, network.name, grid, 0).parent
    index, count = options.shard
    ledger = folder / f"{FAILURES}-{index}-of-{count}.json"
    ledger.unlink(missing_ok=True)
    said = f"{total - len(failures)} of {total} videos have flow in {folder}"
    print(f"{said} ({made} made now)" if total else "no video without annotation")
    if not failures:
        return 0
    write_whole(ledger, json.dumps(failures, indent=1).encode())
    command.say(f"precompute_flow: {len(failures)} failed, see {ledger}")
    return command.FAILED


class Estimator:
    """RAFT on windows of frames, compiled once for all videos of one size.

    Args:
      network: one of `raft_weights.NETWORKS`.
      weights: its file, published or converted.

    Attributes:
      checksum: of the weight file.

    Raises:
      WeightsError: the file cannot be used.
    """

    def __init__(self, network: Network, weights: str | os.PathLike):
        self._params = load_params(network, weights)
        self.checksum = sha256(weights)
        self._raft = RAFT(variant=network.name.removeprefix("raft_"))
        self._compiled = jax.jit(self._window, static_argnames="cells")
        self._lengths: dict[tuple[int, ...], int] = {}

    def __call__(
        self, frames: np.ndarray, cells: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flow between neighbours of a sequence, on a grid of so many cells.

        Args:
          frames: uint8 [n, h, w, 3] with n >= 2.
          cells: height and width of the grid.

        Returns:
          flow: [n - 1, gh, gw, 2] in cells, on the grid of frame t + 1, back to t.
          visible: [n - 1, gh, gw] in [0, 1].
        """
        steps = len(frames) - 1
        # Steps of a window: what divides the first sequence of this size evenly. Later
        # ones may differ by a step (every second frame of 127), and need not compile.
        length = self._lengths.setdefault(
            frames.shape[1:], -(-steps // -(-steps // (WINDOW - 1)))
        )
        length = min(length, steps)
        flow = np.zeros((steps, *cells, 2), np.float32)
        visible = np.zeros((steps, *cells), np.float32)
        for start in range(0, steps, length):
            start = min(start, steps - length)
            window = frames[start : start + length + 1]
            part = self._compiled(self._params, window, cells=cells)
            flow[start : start + length], visible[start : start + length] = part
        return flow, visible

    def _window(self, params, frames, cells):
        frames = 2 * to_float(frames) - 1
        forward, backward = self._raft.apply(
            {"params": params}, frames, method="bidirectional"
        )
        visible = visible_by_consistency(backward, forward)
        # The mean flow of a cell, in units of the cell.
        cell_flow = area_mean(backward, *cells)
        height, width = frames.shape[1:3]
        scale = jnp.array([cells[1] / width, cells[0] / height])
        flow = cell_flow * jnp.broadcast_to(scale, cell_flow.shape)
        return flow, area_mean(visible, *cells)[..., 0]


def flow_of_video(
    files: Files,
    grid: FlowGrid,
    estimate: Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, np.ndarray]],
    short_side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Flow [t - s, gh, gw, 2] and visibility [t - s, gh, gw] of one video.

    It is computed in the video's own shape and only then brought to the grid.

    Raises:
      DataError: the video cannot be read or is too short.
    """
    first = read_video(files.video, max_frames=1)
    video = read_video(files.video, size=_working_size(first.shape[1:3], short_side))
    stride = grid.frame_stride
    if len(video) <= stride:
        raise DataError(
            f"{files.video} has {len(video)} frames; flow over {stride} frames wants at"
            f" least {stride + 1}"
        )
    flow = np.zeros((len(video) - stride, *grid.cells, 2), np.float32)
    visible = np.zeros((len(video) - stride, *grid.cells), np.float32)
    for phase in range(min(stride, len(video) - stride)):
        steps = slice(phase, None, stride)
        flow[steps], visible[steps] = estimate(video[phase::stride], grid.cells)
    return flow, visible


def _working_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width for RAFT: not larger than needed, not smaller than it can."""
    scale = max(min(short_side / min(size), 1.0), MIN_SIDE / min(size))
    height, width = (round(side * scale) for side in size)
    return height, width


def _is_mine(video_id: int, shard: tuple[int, int]) -> bool:
    """Every video has one process, whichever videos there are."""
    index, count = shard
    return zlib.crc32(str(video_id).encode()) % count == index


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}; wanted I/N with I < N, as 0/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
