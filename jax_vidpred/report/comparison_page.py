"""One HTML page of several results: scores, PSNR per frame, how each was trained."""

import os
from collections.abc import Iterable, Mapping, Sequence

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
from jax_vidpred.report.plots import loss_curves, psnr_curves
from jax_vidpred.report.table import COPY_LAST, Scores, groups


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
      training: records as `plots.loss_curves` wants them, each system a series.

    Raises:
      DataError: the file cannot be written.
    """
    parts = [
        header(f"Comparison: {title}", _headline(scores, per_frame), "; ".join(notes)),
        *(
            section(name.capitalize(), score_table(g))
            for name, g in groups(scores).items()
        ),
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


def _curves(per_frame):
    return figures({"PSNR of each frame": psnr_curves(per_frame)}) * bool(per_frame)
