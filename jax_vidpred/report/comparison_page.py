"""One HTML page of several results: scores, PSNR per frame, how each was trained."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_vidpred.data.video_io import write_whole
from jax_vidpred.report.page import (
    document,
    escape,
    figures,
    header,
    headline_of,
    score_table,
    section,
    table,
)
from jax_vidpred.report.plots import loss_curves, psnr_curves, read_metrics
from jax_vidpred.report.table import COPY_LAST, Scores, groups

# Of a training run, what is set beside that of others.
TERMS = ("loss", "mse", "kl", "kl_factor", "teacher_forcing_ratio", "psnr")
MEASUREMENTS = "metrics.jsonl"


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
        workdir = result.get("own", {}).get("workdir")
        if workdir is None:
            continue
        series = label.replace("/", " ")
        for row in read_metrics(pathlib.Path(workdir) / MEASUREMENTS):
            told = {
                f"{series}/{key.rpartition('/')[2]}": value
                for key, value in row.items()
                if key.rpartition("/")[2] in TERMS
            }
            if told:
                records.append({"step": row["step"], **told})
    return records


def write_comparison_page(
    path: str | os.PathLike,
    *,
    title: str,
    scores: Scores,
    notes: Sequence[str],
    tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    per_frame: Mapping[str, Sequence[float]],
    training: Iterable[Mapping[str, float]],
) -> None:
    """Writes the page; the whole file appears at once or not at all.

    Args:
      path: of the HTML file.
      title: what was measured.
      scores: system -> metric -> mean, baselines too.
      notes: what a reader must know.
      tables: caption, head, rows; the first cell of a row names it.
      per_frame: system -> PSNR of each predicted frame.
      training: of `training_records`.

    Raises:
      DataError: the file cannot be written.
    """
    parts = [
        header(f"Comparison: {title}", _headline(scores, per_frame), "; ".join(notes)),
        *(section(name.capitalize(), score_table(g)) for name, g in _named(scores)),
        section("PSNR of each frame", _curves(per_frame)),
        section(
            "Training, side by side", figures(loss_curves(training), "plots small")
        ),
    ]
    for caption, head, rows in tables:
        cells = "".join(f"<th>{escape(name)}</th>" for name in head)
        body = {row[0]: [escape(text) for text in row[1:]] for row in rows}
        parts.append(section(caption, table(cells, body)))
    write_whole(path, document(f"Comparison: {title}", parts).encode())


def _headline(scores, per_frame):
    """Of the systems that are compared, not of baselines that have a row for each."""
    shown = {name: row for name, row in scores.items() if name in per_frame}
    copied = [row for name, row in scores.items() if name.startswith(COPY_LAST)]
    return headline_of({**shown, **({COPY_LAST: copied[0]} if copied else {})}, [])


def _named(scores):
    return groups(scores).items()


def _curves(per_frame):
    return figures({"PSNR of each frame": psnr_curves(per_frame)}) * bool(per_frame)
