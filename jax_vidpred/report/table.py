"""Systems against metrics as a table: in the terminal, as Markdown, as HTML cells.

`Scores` maps a system's name to its metrics, `{"flow-warp": {"psnr": 31.7}, ...}`. The
first system is the one that the report is about.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import rich.console
import rich.table

Scores = Mapping[str, Mapping[str, float]]

COPY_LAST = "copy-last"
CONSTANT_VELOCITY = "constant velocity"
# The truth, encoded and decoded: what a perfect prediction of the latents would score.
VAE_CEILING = "VAE ceiling"
BASELINES = (COPY_LAST, CONSTANT_VELOCITY, VAE_CEILING)


class Metric(NamedTuple):
    """How a metric is shown: heading, unit ("" = none), better end, decimals."""

    heading: str
    unit: str
    better: str  # "high", "low" or "" where neither is
    decimals: int


METRICS = {
    "psnr": Metric("PSNR", "dB", "high", 2),
    "psnr_moving": Metric("PSNR, moving pixels", "dB", "high", 2),
    "ssim": Metric("SSIM", "", "high", 4),
    "ssim_skimage": Metric("SSIM 7x7", "", "high", 4),
    "mse": Metric("MSE", "", "low", 5),
    "mae": Metric("MAE", "", "low", 4),
    "lpips": Metric("LPIPS", "", "low", 4),
    "tlpips": Metric("tLPIPS", "", "low", 4),
    "fvd": Metric("FVD", "", "low", 1),
    "flow_error": Metric("flow error", "px", "low", 3),
    "mask_iou": Metric("mask IoU", "", "high", 3),
    "collision_f1": Metric("collision F1", "", "high", 3),
    "ttt_gain": Metric("TTT gain", "dB", "high", 2),
}


class Cell(NamedTuple):
    text: str
    is_best: bool


def metric_of(key: str) -> Metric:
    """How to show `key`; a key that `METRICS` does not know speaks for itself."""
    return METRICS.get(key, Metric(key.replace("_", " "), "", "", 3))


def heading(key: str) -> str:
    """Column heading with unit and an arrow towards the better end."""
    metric = metric_of(key)
    unit = f" ({metric.unit})" if metric.unit else ""
    return metric.heading + unit + {"high": " ↑", "low": " ↓", "": ""}[metric.better]


def columns(scores: Scores) -> list[str]:
    """Every metric that some system has, known ones first in the order of `METRICS`."""
    found = list(dict.fromkeys(key for row in scores.values() for key in row))
    return [k for k in METRICS if k in found] + [k for k in found if k not in METRICS]


def cells(scores: Scores) -> dict[str, list[Cell]]:
    """Formatted values, row by row in the order of `columns`.

    The VAE ceiling is no competitor: it has seen the future, so it is never the best.
    """
    best = {}
    for key in columns(scores):
        values = [
            row[key]
            for name, row in scores.items()
            if name != VAE_CEILING and math.isfinite(row.get(key, math.nan))
        ]
        if len(values) > 1 and metric_of(key).better:
            best[key] = max(values) if metric_of(key).better == "high" else min(values)

    def cell(name, row, key):
        value = row.get(key, math.nan)
        if not math.isfinite(value):
            return Cell("–", False)
        text = f"{value:.{metric_of(key).decimals}f}"
        return Cell(text, name != VAE_CEILING and value == best.get(key))

    return {
        name: [cell(name, row, key) for key in columns(scores)]
        for name, row in scores.items()
    }


def print_table(
    scores: Scores, *, title: str = "", console: rich.console.Console | None = None
) -> None:
    """Prints the table to the terminal, the best value of each metric in bold."""
    table = rich.table.Table(title=title or None, title_justify="left")
    table.add_column("system")
    for key in columns(scores):
        table.add_column(heading(key), justify="right")
    for name, row in cells(scores).items():
        texts = [rich.text.Text(c.text, "bold" if c.is_best else "") for c in row]
        # As `Text`, for a name may hold what rich takes for markup.
        table.add_row(rich.text.Text(name), *texts)
    (console or rich.console.Console()).print(table)


def markdown_table(scores: Scores) -> str:
    """The table as Markdown, the best value of each metric in bold."""

    def line(texts):
        return "| " + " | ".join(texts) + " |"

    rows = [line(["system", *map(heading, columns(scores))])]
    rows.append(line(["---", *("---:" for _ in columns(scores))]))
    for name, row in cells(scores).items():
        name = " ".join(name.split()).replace("|", "\\|")
        rows.append(
            line([name, *(f"**{c.text}**" if c.is_best else c.text for c in row)])
        )
    return "\n".join(rows) + "\n"
