"""Systems against metrics as a table: in the terminal, as Markdown, as HTML cells.

`Scores` maps a system's name to its metrics, `{"flow-warp": {"psnr": 31.7}, ...}`. The
first system is the one that the report is about. Where there are many metrics, those of
frames, of motion, of objects and of physics are tables of their own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import rich.console
import rich.table

Scores = Mapping[str, Mapping[str, float]]

COPY_LAST = "copy-last"
CONSTANT_VELOCITY = "constant velocity"
# The truth, encoded and decoded: what a perfect prediction of the latents would score.
VAE_CEILING = "VAE ceiling"
# The true video through the tracker that measures the predictions.
TRUTH = "truth"
BEST_OF = "best of "  # begins the name of the best of several futures
BASELINES = (CONSTANT_VELOCITY, COPY_LAST, VAE_CEILING, TRUTH)
CEILINGS = (VAE_CEILING, TRUTH)
# Per clip, what the F1 of collisions is worked out from; no scores by themselves.
COLLISION_COUNTS = ("collision_matched", "collision_predicted", "collision_true")

MAX_COLUMNS = 6  # that are legible in a terminal of 100 columns


class Metric(NamedTuple):
    """How a metric is shown: heading, unit ("" = none), better end, decimals, table."""

    heading: str
    unit: str
    better: str  # "high", "low" or "" where neither is
    decimals: int
    group: str = "frames"


# A key with more behind it is a variant: "iou_tracked", "fvd_i3d_16f_n512".
METRICS = {
    "psnr": Metric("PSNR", "dB", "high", 2),
    "psnr_video": Metric("PSNR of video", "dB", "high", 2),
    "psnr_moving": Metric("PSNR, moving pixels", "dB", "high", 2),
    "capped_frames": Metric("frames without error", "", "", 1),
    "ssim": Metric("SSIM", "", "high", 4),
    "mse": Metric("MSE", "", "low", 5),
    "mae": Metric("MAE", "", "low", 4),
    "lpips": Metric("LPIPS", "", "low", 4),
    "fvd": Metric("FVD", "", "low", 1),
    "crps": Metric("CRPS", "", "low", 4),
    "spread_variance": Metric("variance of samples", "", "", 5),
    "spread_error_squared": Metric("squared error of mean", "", "low", 5),
    "ttt_gain": Metric("TTT gain", "dB", "high", 2),
    "flow_error": Metric("flow error", "px", "low", 3, "motion"),
    "tof": Metric("tOF", "px", "low", 3, "motion"),
    "tl1_x100": Metric("tL1 x 100", "", "low", 3, "motion"),
    "tlpips_x100": Metric("tLPIPS x 100", "", "low", 3, "motion"),
    "motion_ratio": Metric("motion / true", "", "", 3, "motion"),
    "acceleration_ratio": Metric("acceleration / true", "", "", 3, "motion"),
    "flickering": Metric("no flickering", "", "", 4, "motion"),
    "smoothness": Metric("smoothness", "", "", 4, "motion"),
    "background_consistency": Metric("background consistency", "", "", 4, "motion"),
    "vbench": Metric("VBench", "", "", 4, "motion"),
    "iou": Metric("IoU", "", "high", 3, "objects"),
    "miou": Metric("Hungarian IoU", "", "high", 3, "objects"),
    "ari": Metric("ARI", "", "high", 3, "objects"),
    "fg_ari": Metric("FG-ARI", "", "high", 3, "objects"),
    "box_recall": Metric("box recall", "", "high", 3, "objects"),
    "lifetime": Metric("lifetime", "frames", "high", 1, "objects"),
    "collision_f1": Metric("collision F1", "", "high", 3, "objects"),
    "physics_position_error": Metric("position error", "units", "low", 3, "physics"),
    "physics_position_error_found": Metric("if found", "units", "low", 3, "physics"),
    "physics_speed_error": Metric("speed error", "units/s", "low", 3, "physics"),
    "physics_momentum_error": Metric("momentum error", "units/s", "", 3, "physics"),
    "physics_impulse_error": Metric("impulse error", "units/s", "low", 3, "physics"),
    "physics_restitution_error": Metric("restitution error", "", "low", 3, "physics"),
    "physics_interpenetration": Metric("penetration", "", "low", 4, "physics"),
    "physics_vanished": Metric("share vanished", "", "low", 3, "physics"),
    "physics_appeared": Metric("share appeared", "", "low", 3, "physics"),
}
GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS.values()))


class Cell(NamedTuple):
    text: str
    is_best: bool


def metric_of(key: str) -> Metric:
    """How to show `key`.

    A variant of a known metric is shown as that one; a key that `METRICS` knows nothing
    of speaks for itself.
    """
    base = _base(key)
    if base:
        metric, variant = METRICS[base], key.removeprefix(base).replace("_", " ")
        return metric._replace(heading=metric.heading + variant)
    group = key.split("_")[0]
    words = key.removeprefix("physics_").replace("_", " ")
    return Metric(words, "", "", 3, group if group in GROUPS else "frames")


def _base(key: str) -> str | None:
    """The known metric that `key` is, or is a variant of."""
    known = [k for k in METRICS if key == k or key.startswith(f"{k}_")]
    return max(known, key=len, default=None)


def heading(key: str) -> str:
    """Column heading with unit and an arrow towards the better end."""
    metric = metric_of(key)
    unit = f" ({metric.unit})" if metric.unit else ""
    return metric.heading + unit + {"high": " ↑", "low": " ↓", "": ""}[metric.better]


def format_value(key: str, value: float) -> str:
    """A value of the metric `key`, rounded."""
    return number_text(value, metric_of(key).decimals)


def number(value: float | None) -> float:
    """A number of a JSON file, where null stands for NaN."""
    return math.nan if value is None else float(value)


def number_text(value: float | None, decimals: int = 2) -> str:
    """It rounded; a dash where it is not finite."""
    return f"{value:.{decimals}f}" if math.isfinite(number(value)) else "–"


def mean_scores(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """The table that `systems` of a result of `evaluate` holds; null becomes NaN."""
    return {
        name: {
            key: number(value)
            for key, value in scores.get("mean", {}).items()
            if key not in COLLISION_COUNTS
        }
        for name, scores in systems.items()
    }


def columns(scores: Scores) -> list[str]:
    """Every metric that some system has, known ones first in the order of `METRICS`."""
    found = dict.fromkeys(key for row in scores.values() for key in row)
    order = [*METRICS, None]
    return sorted(found, key=lambda key: order.index(_base(key)))


def groups(scores: Scores) -> dict[str, Scores]:
    """Tables by name of the group; systems without a value in a group are left out."""
    result = {}
    for group in GROUPS:
        keys = [key for key in columns(scores) if metric_of(key).group == group]
        rows = _with_columns(scores, keys)
        if rows:
            result[group] = rows
    return result


def _with_columns(scores, keys):
    """The rows of which something is known, with these columns."""
    rows = {n: {k: row[k] for k in keys if k in row} for n, row in scores.items()}
    return {n: row for n, row in rows.items() if any(map(math.isfinite, row.values()))}


def cells(scores: Scores) -> dict[str, list[Cell]]:
    """Formatted values, row by row in the order of `columns`.

    A ceiling ("VAE ceiling", or "VAE ceiling, of which system") is no competitor: it
    has seen the future, so it is never the best.
    """
    competes = {
        name: name.split(", ")[0] not in CEILINGS and not name.startswith(BEST_OF)
        for name in scores
    }
    best = {}
    for key in columns(scores):
        values = [
            row[key]
            for name, row in scores.items()
            if competes[name] and math.isfinite(row.get(key, math.nan))
        ]
        if len(values) > 1 and metric_of(key).better:
            best[key] = max(values) if metric_of(key).better == "high" else min(values)

    def cell(name, row, key):
        value = row.get(key, math.nan)
        return Cell(format_value(key, value), competes[name] and value == best.get(key))

    return {
        name: [cell(name, row, key) for key in columns(scores)]
        for name, row in scores.items()
    }


def split(scores: Scores, most: int = MAX_COLUMNS) -> list[tuple[str, Scores]]:
    """One table without a name where it is narrow enough, else some for each group.

    Args:
      scores: the whole table.
      most: columns that a table may have.

    Returns:
      (name, table) from left to right.
    """
    if len(columns(scores)) <= most:
        return [("", scores)]
    result = []
    for group, rows in groups(scores).items():
        keys = columns(rows)
        count = math.ceil(len(keys) / most)
        width = math.ceil(len(keys) / count)
        for begin in range(0, len(keys), width):
            part = _with_columns(rows, keys[begin : begin + width])
            result.append((group if not begin else f"{group}, continued", part))
    return result


def print_table(
    scores: Scores, *, title: str = "", console: rich.console.Console | None = None
) -> None:
    """Prints the table to the terminal, the best value of each metric in bold."""
    console = console or rich.console.Console()
    if title:
        console.print(rich.text.Text(title, "italic"), soft_wrap=True)
    for group, part in split(scores):
        table = rich.table.Table()
        table.add_column(group or "system")
        for key in columns(part):
            table.add_column(heading(key), justify="right")
        for name, row in cells(part).items():
            texts = [rich.text.Text(c.text, "bold" if c.is_best else "") for c in row]
            # As `Text`, for a name may hold what rich takes for markup.
            table.add_row(rich.text.Text(name), *texts)
        console.print(table)


def markdown_table(scores: Scores) -> str:
    """The table as Markdown, the best value of each metric in bold."""
    tables = []
    for group, part in split(scores):
        rows = [
            [name, *(f"**{c.text}**" if c.is_best else c.text for c in row)]
            for name, row in cells(part).items()
        ]
        head = [group or "system", *map(heading, columns(part))]
        tables.append(markdown_rows(head, rows))
    return "\n".join(tables)


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of texts; all columns but the first are numbers."""

    def line(texts):
        plain = [" ".join(text.split()).replace("|", "\\|") for text in texts]
        return "| " + " | ".join(plain) + " |"

    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join(map(line, [head, marks, *rows])) + "\n"
