"""Command: results of `evaluate` side by side, and which differences are certain.

    python -m jax_vidpred.compare runs/a/evaluation.json runs/b/evaluation.json

Results are compared only if they measured the same clips in the same way; what differs
otherwise is said and nothing is compared. Every system is set against the first one
clip by clip: the interval of a difference comes from drawing the clips again, the same
ones for both, so that what makes a clip easy or hard cancels. A difference is marked
where 0 lies outside of its interval. One result with test-time training is compared
with itself without.
"""

import argparse
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table
from rich.text import Text

from jax_vidpred import command
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.evaluation.alike import (
    baselines_of,
    check_alike,
    common_of,
    labels_of,
    read_result,
    versions_of,
)
from jax_vidpred.metrics import bootstrap
from jax_vidpred.report.comparison_page import write_comparison_page
from jax_vidpred.report.plots import read_metrics
from jax_vidpred.report.summary import cost_table, title_of
from jax_vidpred.report.table import (
    BASELINES,
    COLLISION_COUNTS,
    columns,
    heading,
    markdown_rows,
    markdown_table,
    mean_scores,
    metric_of,
    print_table,
)
from jax_vidpred.train.writers import METRICS_FILE

LEVEL = 0.95  # of the intervals
# Of a training run, what is set beside that of others.
TERMS = ("loss", "mse", "kl", "kl_factor", "teacher_forcing_ratio", "psnr")


def run(paths: Sequence[str]) -> dict[str, Any]:
    """Everything that the JSON file holds.

    Args:
      paths: of results of `evaluate`; differences are to the first system of the first.

    Returns:
      `manifest`: what the results have in common; `results`: name -> where it is from;
      `scores`: row -> metric -> mean; `notes`: what a reader must know of the table;
      `costs`: row -> what `evaluate --cost` measured; `against`: the row that the
      others are compared with; `level` of the intervals;
      `psnr_per_frame`: row -> [t];
      `differences`: row -> metric -> `difference`, `low`, `high`, `clips`, `verdict`.

    Raises:
      ValueError: no results, unlike ones, or nothing to compare.
    """
    results = dict(zip(paths, map(read_result, paths), strict=True))
    if len(results) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice}: given twice; wanted different results")
    for (path, one), (other_path, other) in itertools.combinations(results.items(), 2):
        check_alike(path, one["manifest"], other_path, other["manifest"])
    labels = labels_of(results)
    tested = {}
    for path, result in results.items():
        first = next(iter(result["systems"]))
        for name, scores in result["systems"].items():
            if name == first or name not in BASELINES:
                ending = name.removeprefix(first) if name.startswith(first) else name
                separator = "" if name.startswith(first) else ", "
                tested[f"{labels[path]}{separator}{ending}"] = scores
    if len(tested) < 2:
        raise ValueError(
            f"{paths[0]} holds one system; wanted two results, or one that was scored"
            " with --ttt_steps"
        )
    baselines, notes = baselines_of(
        {labels[p]: r["systems"] for p, r in results.items()}
    )
    against, *others = tested
    videos = [video for video, _ in results[paths[0]]["clips"]]
    notes += versions_of(results)
    return {
        "manifest": common_of([r["manifest"]["comparable"] for r in results.values()]),
        "results": {
            labels[path]: {
                "file": path,
                "own": result["manifest"].get("own", {}),
                **{key: result[key] for key in ("command", "date") if key in result},
            }
            for path, result in results.items()
        },
        "scores": {**mean_scores(tested), **baselines},
        "notes": notes,
        "costs": {
            labels[path]: result["cost"]
            for path, result in results.items()
            if "cost" in result
        },
        "against": against,
        "level": LEVEL,
        "psnr_per_frame": {
            name: scores["per_frame"]["psnr"]
            for name, scores in tested.items()
            if "psnr" in scores.get("per_frame", {})
        },
        "differences": {
            name: differences(tested[against], tested[name], videos) for name in others
        },
    }


def differences(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    videos: Sequence[int] | None = None,
) -> dict[str, dict[str, Any]]:
    """What `second` has more than `first`, by metric, over the clips of both.

    Args:
      first, second: of one system each, with `per_clip`: metric -> [n], None where it
        is not defined.
      videos: of each clip; intervals draw videos, with all their clips.

    Returns:
      metric -> `difference` of the means and its interval `low`, `high`; `clips` where
      both are defined; `verdict`: "better", "worse", or "differs" of a metric that has
      no better end, and "" where the interval holds 0.
    """
    one, other = first.get("per_clip", {}), second.get("per_clip", {})
    shared = {key: one[key] for key in one if key in other}
    values = {
        key: [np.array(part[key], np.float64) for part in (one, other)]  # None -> NaN
        for key in columns({"": shared})
        if key not in COLLISION_COUNTS
    }
    statistics = {}
    if all(key in shared for key in COLLISION_COUNTS):
        values["collision_f1"] = [
            np.array([part[key] for key in COLLISION_COUNTS], np.float64).T
            for part in (one, other)
        ]
        statistics["collision_f1"] = bootstrap.f1
    result = {}
    for key, (mine, theirs) in values.items():
        found = bootstrap.paired_difference(
            theirs, mine, groups=videos, statistic=statistics.get(key), level=LEVEL
        )
        if math.isfinite(found.low):
            known = np.isfinite(mine + theirs).reshape(len(mine), -1).all(1)
            result[key] = {
                **found._asdict(),
                "clips": int(known.sum()),
                "verdict": _verdict(key, found),
            }
    return result


def _verdict(key, found):
    if found.low <= 0 <= found.high:
        return ""
    better = metric_of(key).better
    if not better:
        return "differs"
    return "better" if (found.difference > 0) == (better == "high") else "worse"


def _tables(found):
    """Caption, head, rows: costs, and what each system has more than the first."""
    if found["costs"]:
        yield "What each takes", *cost_table(found["costs"])
    head = ["metric", "difference", f"{found['level']:.0%} interval", "clips", ""]
    for name, by_metric in found["differences"].items():
        rows = []
        for key, one in by_metric.items():
            decimals = metric_of(key).decimals + 1
            difference, low, high = (
                f"{one[part]:+.{decimals}f}" for part in ("difference", "low", "high")
            )
            interval = f"{low} to {high}"
            mark = one["verdict"]
            rows.append([heading(key), difference, interval, f"{one['clips']}", mark])
        yield f"{name} against {found['against']}", head, rows


def _is_certain(head, row):
    """Whether a row ends with the verdict on a difference."""
    return not head[-1] and bool(row[-1])


def training_records(
    results: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, float]]:
    """The measurements of the training runs behind results, each under its label.

    Args:
      results: label -> where it is from, with the work directory as `own.workdir`.

    Returns:
      records for `plots.loss_curves`: `step`, and `label/term`; of runs that are not
      there any more there are none.
    """
    records = []
    for label, result in results.items():
        workdir = result["own"].get("workdir")
        if workdir is None:
            continue
        series = label.replace("/", " ")
        for row in read_metrics(pathlib.Path(workdir) / METRICS_FILE, TERMS):
            step = row.pop("step")
            told = {f"{series}/{k.rpartition('/')[2]}": v for k, v in row.items()}
            records.append({"step": step, **told})
    return records


def print_comparison(
    found: Mapping[str, Any], console: rich.console.Console | None = None
) -> None:
    """Prints what `run` has found to the terminal."""
    console = console or rich.console.Console()
    print_table(found["scores"], title=title_of(found["manifest"]), console=console)
    for note in found["notes"]:
        console.print(Text(f"Mind: {note}"), soft_wrap=True)
    for caption, head, rows in _tables(found):
        console.print(Text(caption, "italic"), soft_wrap=True)
        table = rich.table.Table()
        for k, name in enumerate(head):
            table.add_column(name, justify="left" if k == 0 or not name else "right")
        for row in rows:
            style = "bold" if _is_certain(head, row) else ""
            table.add_row(*(Text(text, style) for text in row))
        console.print(table)


def markdown(found: Mapping[str, Any]) -> str:
    """What `run` has found, as Markdown."""
    parts = [title_of(found["manifest"]) + "\n", markdown_table(found["scores"])]
    parts += [f"Mind: {note}\n" for note in found["notes"]]
    for caption, head, rows in _tables(found):
        rows = [
            [f"**{text}**" if text and _is_certain(head, row) else text for text in row]
            for row in rows
        ]
        parts += [caption + "\n", markdown_rows(head, rows)]
    return "\n".join(parts)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.compare",
        description="Results of evaluate side by side, and which differences are"
        " certain.",
    )
    add = parser.add_argument
    add("results", nargs="+", metavar="RESULT.json", help="written by evaluate")
    add("--markdown", action="store_true", help="tables in Markdown")
    add("--out", metavar="FILE.json", help="where the numbers go besides")
    add("--page", metavar="FILE.html", help="tables, PSNR per frame, training curves")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parse_arguments(arguments)
    return command.run("compare", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    found = run(options.results)
    if options.out:
        text = json.dumps(command.without_nan(found), indent=1)
        write_whole(options.out, text.encode())
    if options.page:
        page = pathlib.Path(options.page)
        write_comparison_page(
            page,
            title=title_of(found["manifest"]),
            scores=found["scores"],
            notes=found["notes"],
            tables=list(_tables(found)),
            per_frame=found["psnr_per_frame"],
            training=training_records(found["results"]),
        )
        command.say(f"Page: {page.absolute()}")
    if options.markdown:
        print(markdown(found), end="")
    else:
        print_comparison(found)
    if options.out:
        command.say(f"Written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
