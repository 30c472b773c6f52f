"""A benchmark beside an earlier one."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import rich.table

_POINTS = ("min", "quartile_1", "median", "quartile_3", "max")
# From so many calls on quartiles tell what chance does; fewer must not overlap at all.
_MANY, _FEW = 10, 4
# Other settings of these make other times, whatever the program.
_CONDITIONS = ("device", "cores", "xla_flags", "config")


def read_report(path: str) -> dict[str, Any]:
    """A file that `jax_vidpred.benchmark --out` has written.

    Raises:
      ValueError: it is none.
    """
    try:
        report = json.loads(pathlib.Path(path).read_text())
        rows = report["measurements"].values()
        if not all(row["wall_ms"][point] > 0 for row in rows for point in _POINTS):
            raise ValueError("times of 0")
        [row["repeats"] + row["examples"] for row in rows]
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    ) as error:
        reason = str(error) if isinstance(error, OSError) else "it holds something else"
        raise ValueError(
            f"--compare {path} is no result of the benchmark ({reason}); give a file"
            " that its --out has written"
        ) from error
    return report


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What has changed from one report to another.

    Returns:
      `rows`: name -> `old_ms` and `new_ms`, medians by the clock; `ratio`, new / old,
      below 1 where it became faster; `beyond_spread`, whether the intervals between the
      quartiles have nothing in common (of few calls: between the extremes). `only_old`,
      `only_new`: names that the other side lacks. `differences`: condition -> [old,
      new], where they are not the same; also rows that do another amount of work.
    """
    before, after = old["measurements"], new["measurements"]
    return {
        "rows": {
            name: _change(before[name], row)
            for name, row in after.items()
            if name in before
        },
        "only_old": [name for name in before if name not in after],
        "only_new": [name for name in after if name not in before],
        "differences": {
            name: [old[name], new[name]]
            for name in _CONDITIONS
            # Older files do not name all.
            if name in old and old[name] != new[name]
        }
        | {
            f"examples of {name}": [before[name]["examples"], row["examples"]]
            for name, row in after.items()
            if name in before and before[name]["examples"] != row["examples"]
        },
    }


def _change(old_row: Mapping[str, Any], new_row: Mapping[str, Any]) -> dict[str, Any]:
    old, new = old_row["wall_ms"], new_row["wall_ms"]
    repeats = min(old_row["repeats"], new_row["repeats"])
    low, high = ("quartile_1", "quartile_3") if repeats >= _MANY else ("min", "max")
    apart = new[low] > old[high] or new[high] < old[low]
    apart = apart and repeats >= _FEW
    return {
        "old_ms": old["median"],
        "new_ms": new["median"],
        "ratio": new["median"] / old["median"],
        "beyond_spread": apart,
    }


def table(comparison: Mapping[str, Any]) -> rich.table.Table:
    """The rows of `compare`, one a line."""
    shown = rich.table.Table(box=None)
    shown.add_column("medians of single calls", no_wrap=True)
    for column in ("old ms", "new ms", "new / old", ""):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, row in comparison["rows"].items():
        verdict = "faster" if row["ratio"] < 1 else "slower"
        shown.add_row(
            name,
            f"{row['old_ms']:.1f}",
            f"{row['new_ms']:.1f}",
            f"{row['ratio']:.2f}",
            verdict if row["beyond_spread"] else "within the spread",
        )
    return shown


def remarks(comparison: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know besides, a line each."""
    lines = []
    differences = comparison["differences"].items()
    if differences:
        told = "; ".join(f"{name} was {a!r}, is {b!r}" for name, (a, b) in differences)
        lines.append(f"Other conditions, ratios say little: {told}")
    for side in ("old", "new"):
        names = comparison[f"only_{side}"]
        if names:
            lines.append(f"Only in the {side} result: {'; '.join(names)}")
    return lines
