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
from jax_vidpred.metrics import bootstrap
from jax_vidpred.report.summary import title_of
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

LEVEL = 0.95  # of the intervals
# Baselines are the same numbers in every result but for the order of additions.
ROUNDING = 1e-4

Result = Mapping[str, Any]


def run(paths: Sequence[str]) -> dict[str, Any]:
    """Everything that the JSON file holds.

    Args:
      paths: of results of `evaluate`; differences are to the first system of the first.

    Returns:
      `manifest`: what the results have in common; `results`: name -> where it is from;
      `scores`: row -> metric -> mean; `notes`: what a reader must know of the table;
      `against`: the row that the others are compared with; `level` of the intervals;
      `differences`: row -> metric -> `difference`, `low`, `high`, `clips`, `verdict`.

    Raises:
      ValueError: no results, unlike ones, or nothing to compare.
    """
    results = dict(zip(paths, map(read_result, paths), strict=True))
    if len(results) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice}: given twice; wanted different results")
    for (path, one), (other_path, other) in itertools.combinations(results.items(), 2):
        _check_alike(path, one["manifest"], other_path, other["manifest"])
    labels = _labels(results)
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
    baselines, notes = _baselines({labels[p]: r["systems"] for p, r in results.items()})
    against, *others = tested
    videos = [video for video, _ in results[paths[0]]["clips"]]
    notes += _versions(results)
    return {
        "manifest": _common([r["manifest"]["comparable"] for r in results.values()]),
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
        "against": against,
        "level": LEVEL,
        "differences": {
            name: differences(tested[against], tested[name], videos) for name in others
        },
    }


def read_result(path: str) -> Result:
    """A result of `evaluate`.

    Raises:
      ValueError: it cannot be read or is none; the message names the file.
    """
    try:
        result = json.loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no result of evaluate (no JSON)") from error
    if not isinstance(result, dict) or not _has_systems(result.get("systems")):
        raise ValueError(f"{path}: is no result of evaluate (no scores of systems)")
    manifest = result.get("manifest")
    if not isinstance(manifest, dict) or not isinstance(
        manifest.get("comparable"), dict
    ):
        raise ValueError(
            f"{path}: does not say how it was measured; an older version has made it:"
            " evaluate again"
        )
    clips = result.setdefault("clips", [])
    for name, scores in result["systems"].items():
        for key, values in scores.get("per_clip", {}).items():
            if len(values) != len(clips):
                raise ValueError(
                    f"{path}: {key} of {name} has {len(values)} values for"
                    f" {len(clips)} clips; the file is damaged"
                )
    return result


def _has_systems(systems):
    return (
        isinstance(systems, dict)
        and len(systems) > 0
        and all(isinstance(s, dict) and "mean" in s for s in systems.values())
    )


def _check_alike(path, manifest, other_path, other_manifest):
    """Raises ValueError at the first thing that two results do not share."""
    one, other = (dict(m["comparable"]) for m in (manifest, other_manifest))
    variants, other_variants = one.pop("metrics", {}), other.pop("metrics", {})
    # Hashes last: they differ because something else does, which says more.
    keys = sorted({**one, **other}, key=lambda key: key.endswith("_sha256"))
    pairs = [(key, one.get(key), other.get(key)) for key in keys]
    pairs += [
        (f"the variant of {key}", variants[key], other_variants[key])
        for key in variants
        if key in other_variants
    ]
    for key, value, other_value in pairs:
        if value != other_value:
            raise ValueError(
                f"unlike results: {key} is {_shown(value)} in {path} and"
                f" {_shown(other_value)} in {other_path}"
            )


def _shown(value):
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _common(manifests):
    metrics = {
        key: variant
        for manifest in manifests
        for key, variant in manifest.get("metrics", {}).items()
    }
    return {**manifests[0], "metrics": metrics}


def _labels(results: Mapping[str, Result]) -> dict[str, str]:
    """path -> name of the work directory, with as many folders as tell them apart."""
    places = {
        path: pathlib.Path(result["manifest"].get("own", {}).get("workdir", path)).parts
        for path, result in results.items()
    }
    places = {path: parts or (path,) for path, parts in places.items()}
    for depth in range(1, max(map(len, places.values())) + 1):
        labels = {path: "/".join(parts[-depth:]) for path, parts in places.items()}
        if len(set(labels.values())) == len(labels):
            return labels
    return {path: path for path in results}  # several results of one work directory


def _baselines(
    by_label: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """One row for each baseline that is the same everywhere; what differs, in words."""
    rows, notes = {}, []
    for name in BASELINES:
        found = {
            label: mean_scores(systems)[name]
            for label, systems in by_label.items()
            if name in systems and name != next(iter(systems))
        }
        unlike = _unlike(found)
        if unlike is None:
            merged = {
                key: value for row in found.values() for key, value in row.items()
            }
            rows |= {name: merged} if merged else {}
            continue
        rows |= {f"{name}, {label}": row for label, row in found.items()}
        key, (label, value), (other, other_value) = unlike
        notes.append(
            f"{name} is not the same everywhere: {metric_of(key).heading} is"
            f" {value:.6g} for {label} and {other_value:.6g} for {other}"
        )
    return rows, notes


def _unlike(found):
    """A metric in which two rows differ by more than rounding, or None."""
    for (label, row), (other, other_row) in itertools.combinations(found.items(), 2):
        for key in columns({label: row, other: other_row}):
            values = row.get(key, math.nan), other_row.get(key, math.nan)
            if not all(map(math.isfinite, values)):
                continue
            if not math.isclose(*values, rel_tol=ROUNDING, abs_tol=1e-6):
                return key, (label, values[0]), (other, values[1])
    return None


def _versions(results: Mapping[str, Result]) -> list[str]:
    """Whether the results were made by different sources of this package."""
    own = [result["manifest"].get("own", {}) for result in results.values()]
    if len({one.get("sources_sha256") for one in own}) < 2:
        return []
    return ["the results were made by different versions of the sources"]


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
    """Caption -> head, rows, of what each system has more than the first."""
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
            table.add_column(name, justify="left" if k in (0, 4) else "right")
        for row in rows:
            style = "bold" if row[-1] else ""
            table.add_row(*(Text(text, style) for text in row))
        console.print(table)


def markdown(found: Mapping[str, Any]) -> str:
    """What `run` has found, as Markdown."""
    parts = [title_of(found["manifest"]) + "\n", markdown_table(found["scores"])]
    parts += [f"Mind: {note}\n" for note in found["notes"]]
    for caption, head, rows in _tables(found):
        rows = [[f"**{t}**" if t and row[-1] else t for t in row] for row in rows]
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
    if options.markdown:
        print(markdown(found), end="")
    else:
        print_comparison(found)
    if options.out:
        command.say(f"Written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
