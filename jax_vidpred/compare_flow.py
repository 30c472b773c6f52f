"""Command: how far two sources of optical flow agree on the same videos.

    python -m jax_vidpred.compare_flow --root data/clevrer --out out/flow

By default flow that was cast from annotations (exact) and flow of RAFT, which
`precompute_flow --annotated` has made. Prints a table; writes flow.json and a page that
shows both side by side.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rich.console
import rich.table

from jax_vidpred import command
from jax_vidpred.data.clevrer import Files, index_files
from jax_vidpred.data.flow_files import ANNOTATIONS, FlowGrid, flow_path, read_flow
from jax_vidpred.data.schema import Annotation, DataError
from jax_vidpred.data.twin.groundtruth import cast_flow
from jax_vidpred.data.video_io import read_video, write_whole
from jax_vidpred.metrics import flow as flow_metrics
from jax_vidpred.metrics.suite import MOVING_CELLS
from jax_vidpred.precompute_flow import add_grid, grid_of
from jax_vidpred.report.flow_page import FlowPair, write_flow_page

MAX_SHOWN = 6  # videos on the page


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.compare_flow",
        description="Compare two sources of optical flow on the same videos.",
    )
    add = parser.add_argument
    add("--root", required=True, help="folder of the CLEVRER files")
    add("--first", default=ANNOTATIONS, help=f"taken as the truth ({ANNOTATIONS})")
    add("--second", default="raft_small", help="a network's name (raft_small)")
    add_grid(parser)
    add("--max_videos", type=int, default=20, help="at most so many (20)")
    add("--out", required=True, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("compare_flow", lambda: _main(options, arguments))


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    grid, names = grid_of(options), (options.first, options.second)
    videos = [
        files
        for split in index_files(options.root).values()
        for files in split
        if all(_has(options.root, name, grid, files) for name in names)
    ][: options.max_videos]
    if not videos:
        raise DataError(
            f"{options.root}: no video has flow from both {names[0]} and {names[1]} on"
            f" the grid {grid.name}; run precompute_flow --annotated with these sizes"
        )
    pairs = []
    with command.progress() as show:
        for index, files in enumerate(videos):
            show("comparing flow", index, len(videos))
            pairs.append(_read_pair(options.root, names, grid, files))
        show("comparing flow", len(videos), len(videos))
    result = compare(pairs)
    about = command.provenance("jax_vidpred.compare_flow", arguments)
    out = pathlib.Path(options.out)
    whole = {"sources": names, "videos": len(pairs), **result, "provenance": about}
    text = json.dumps(command.without_nan(whole), indent=1)
    write_whole(out / "flow.json", text.encode())
    rows = _rows(result)
    moving = result["distance"]["moving"]["mean"]
    length = result["length_moving"]
    headline = (
        f"On moving cells {names[1]} is {moving:.2f} cells away from {names[0]}, which"
        f" moves them by {length:.2f} cells per step."
    )
    hidden = result["hidden"]
    headline += (
        f" What is hidden is found with F1 {hidden['f1']:.2f} (precision"
        f" {hidden['precision']:.2f}, recall {hidden['recall']:.2f})."
    )
    write_flow_page(
        out / "index.html",
        names=names,
        headline=headline,
        table=rows,
        mean_error=np.mean([one.errors.mean(0) for one in pairs], axis=0),
        videos=pairs[:MAX_SHOWN],
        provenance=about,
    )
    _print(rows, f"{names[1]} against {names[0]}, {len(pairs)} videos")
    print(f"{headline} Open {out / 'index.html'}")
    return 0


def compare(pairs: list[FlowPair]) -> dict[str, Any]:
    """Distances over all cells of all videos, and scores of hidden cells.

    Returns:
      distance: `all`, `moving`, `still` -> mean and quantiles, cells per step.
      length_moving: mean flow of moving cells of the first source: the error of zero
        flow there.
      hidden: precision, recall, f1 of what is hidden, the first source as truth.
    """
    errors = np.concatenate([one.errors.ravel() for one in pairs])
    length = np.concatenate(
        [np.linalg.norm(one.flow[0], axis=-1).ravel() for one in pairs]
    )
    moving = length > MOVING_CELLS
    chosen = {"all": moving | ~moving, "moving": moving, "still": ~moving}
    visible = [
        np.concatenate([one.visible[side].ravel() for one in pairs]) for side in (0, 1)
    ]
    return {
        "distance": {
            name: _floats(flow_metrics.error_summary(errors, mask))
            for name, mask in chosen.items()
        },
        "length_moving": float(length[moving].mean()) if moving.any() else 0.0,
        "hidden": _floats(flow_metrics.hidden_scores(*visible)),
    }


def _has(root: str, source: str, grid: FlowGrid, files: Files) -> bool:
    if source == ANNOTATIONS:
        return files.annotation is not None
    return flow_path(root, source, grid, files.video_id, files.split).is_file()


def _read(root, source, grid, files, num_frames):
    if source == ANNOTATIONS:
        annotation = Annotation.from_json(files.annotation)
        return cast_flow(annotation, *grid.cells, frame_stride=grid.frame_stride)
    path = flow_path(root, source, grid, files.video_id, files.split)
    return read_flow(path, num_frames - grid.frame_stride, grid.cells)


def _read_pair(
    root: str, names: tuple[str, str], grid: FlowGrid, files: Files
) -> FlowPair:
    video = read_video(files.video, size=(grid.height, grid.width))
    read = [_read(root, name, grid, files, len(video)) for name in names]
    (first, first_visible), (second, second_visible) = read
    errors = np.asarray(flow_metrics.endpoint_errors(first, second))
    length = np.linalg.norm(first, axis=-1)
    moving = length > MOVING_CELLS
    note = f"mean distance {errors.mean():.3f} cells"
    if moving.any():
        note += f", on moving cells {errors[moving].mean():.2f}"
        note += f" (they move by {length[moving].mean():.2f})"
    return FlowPair(
        name=files.video.name,
        frames=video[grid.frame_stride :],
        flow=(first, second),
        visible=(first_visible, second_visible),
        errors=errors,
        note=note,
    )


def _rows(result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The table: row -> column -> text."""
    headings = {"mean": "mean", "q50": "median", "q90": "90 %", "q99": "99 %"}
    return {
        f"distance, {name} cells": {
            heading: f"{summary[key]:.3f}" for key, heading in headings.items()
        }
        for name, summary in result["distance"].items()
    }


def _print(rows: Mapping[str, Mapping[str, str]], title: str) -> None:
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("cells per step")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *row.values())
    rich.console.Console().print(table)


def _floats(scores: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in scores.items()}


if __name__ == "__main__":
    sys.exit(main())
