"""One self-contained HTML page: headline, table, videos with a scrubber, curves.

Nothing is fetched from anywhere: pictures travel inside the page. The frames of a panel
are one WebP picture, a contact sheet, out of which a few lines of script draw the frame
that the slider stands on; so all panels show the same frame, to the frame, in every
browser. Where scripts are off, the same panels play as an mp4.
"""

import base64
import hashlib
import html
import io
import math
import os
import re
import warnings
from collections.abc import Container, Mapping, Sequence

import numpy as np
from PIL import Image

from jax_vidpred.data.video_io import encode_mp4, write_whole
from jax_vidpred.report.layout import FRAMES_PER_SECOND, SCRIPT, STYLE
from jax_vidpred.report.panels import (
    Panel,
    VideoReport,
    flow_wheel,
    panel_video,
    panels,
)
from jax_vidpred.report.plots import collision_curve, psnr_curves
from jax_vidpred.report.table import (
    BASELINES,
    BEST_OF,
    CONSTANT_VELOCITY,
    COPY_LAST,
    TRUTH,
    VAE_CEILING,
    Scores,
    cells,
    columns,
    heading,
)

# Frames larger than this are shrunk for the page: a panel is never drawn wider.
_MAX_SIDE = 256

_TABLE_NOTES = {
    COPY_LAST: "Copy-last repeats the last context frame.",
    CONSTANT_VELOCITY: "Constant velocity moves its content on along the last flow.",
    VAE_CEILING: "The VAE ceiling is the true future, encoded and decoded.",
    TRUTH: "The truth is the true video through the tracker that sees the predictions.",
    "psnr_moving": "Moving pixels are those that differ from the last context frame.",
    "iou_carried": "Carried: the objects of the context, moved with the predicted flow;"
    " tracked: found again in each predicted frame by their looks.",
    "lifetime_tracked": "The lifetime of an object ends where its IoU falls below 0.5.",
}


def write_page(
    path: str | os.PathLike,
    *,
    title: str,
    summary_table: Scores,
    videos: Sequence[VideoReport],
    curves: Mapping[str, Mapping[str, bytes]],
    provenance: Mapping[str, str],
    headline: str | None = None,
) -> None:
    """Writes the page; the whole file appears at once or not at all.

    Args:
      path: of the HTML file; folders are made.
      title: short; names the page.
      summary_table: means over everything that was evaluated; may be empty.
      videos: shown in this order, each with its panels and curves.
      curves: section ("training of the VAE") -> caption -> SVG or PNG bytes made by
        `report.plots`; an SVG becomes part of the page as it is.
      provenance: what a reader needs to make the page again: command, configuration,
        versions, hardware, date, seed.
      headline: what was found, in plain words; by default worked out from the table.

    Raises:
      DataError: the file cannot be written.
    """
    text = build_page(
        title=title,
        summary_table=summary_table,
        videos=videos,
        curves=curves,
        provenance=provenance,
        headline=headline,
    )
    write_whole(path, text.encode())


def build_page(*, title, summary_table, videos, curves, provenance, headline=None):
    """The text that `write_page` writes; same arguments."""
    parts = [
        header(title, headline or headline_of(summary_table, videos)),
        _results(summary_table, videos),
        videos_section("Videos", videos),
    ]
    for name, plots in curves.items():
        kind = "plots small" if len(plots) > 1 else "plots"
        parts.append(section(name, figures(plots, kind)))
    if provenance:
        parts.append(section("How this was made", definitions(provenance)))
    return document(title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page around its parts, which are HTML."""
    # The policy forbids the page to fetch anything and to run any script but this one.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        "<noscript><style>.bar, .panels { display: none }</style></noscript></head>\n"
        "<body><main>\n"
        + "\n".join(parts)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def header(title: str, headline: str, more: str = "") -> str:
    """What the page begins with; `more` is said below in smaller letters."""
    more = f'<p class="quiet">{escape(more)}</p>' if more else ""
    return (
        f'<header><h1>{escape(title)}</h1><p class="headline">{escape(headline)}</p>'
        f"{more}</header>"
    )


def section(heading_: str, content: str) -> str:
    """A part with a heading around HTML; nothing around nothing."""
    return f"<section><h2>{escape(heading_)}</h2>{content}</section>" * bool(content)


def definitions(items: Mapping[str, str]) -> str:
    """A list of names and what they are."""
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>"
        for key, value in items.items()
    )
    return f"<dl>{rows}</dl>" * bool(rows)


def figures(plots: Mapping[str, bytes], kind: str = "plots") -> str:
    """Drawings beside each other.

    Args:
      plots: caption -> bytes made by `report.plots`.
      kind: "plots", or "plots small" for more of them in a row.
    """
    each = "".join(
        f'<figure aria-label="{escape(caption)}">{drawing(data)}</figure>'
        for caption, data in plots.items()
    )
    return f'<div class="{kind}">{each}</div>' * bool(each)


def headline_of(scores: Scores, videos: Sequence[VideoReport]) -> str:
    """One or two sentences: what was predicted, and how it compares with copying."""
    sentence = ""
    if videos:
        spans = {(v.num_context, v.num_future) for v in videos}
        ((num_context, num_future), *others) = spans
        sentence = "Each video's future was predicted. "
        if not others:
            frames = f"{num_context} frame" + "s" * (num_context > 1)
            sentence = f"From {frames}, the next {num_future} were predicted. "
    systems = {
        name: row["psnr"]
        for name, row in scores.items()
        if name not in BASELINES
        and not name.startswith(BEST_OF)  # it was chosen by the truth
        and math.isfinite(row.get("psnr", math.nan))
    }
    if not systems:
        return sentence + "What really happened is not known, so nothing is measured."
    # The first one, unless another is better by what can be seen in the number.
    highest = max(systems.values())
    best = next(name for name, psnr in systems.items() if psnr > highest - 0.05)
    reached = f"{best} reaches {systems[best]:.1f} dB PSNR"
    copied = scores.get(COPY_LAST, {}).get("psnr", math.nan)
    if not math.isfinite(copied):
        return f"{sentence}{reached}."
    gain = systems[best] - copied
    how = f"{abs(gain):.1f} dB {'better' if gain >= 0 else 'worse'} than"
    if abs(gain) < 0.05:
        how = "no better than"
    return f"{sentence}{reached}, {how} copying the last frame ({copied:.1f} dB)."


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(str(text), quote=True)


def data_uri(data: bytes, kind: str) -> str:
    """An address that holds the data itself; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def drawing(data: bytes, *, is_still: bool = True) -> str:
    """HTML for the bytes of a plot.

    Ids within an SVG are digests of what they name, so two drawings may share them.

    Args:
      data: SVG or PNG.
      is_still: leaves out the cursor, which belongs to the player of one video.
    """
    if data.startswith(b"\x89PNG"):
        return f'<img alt="" src="{data_uri(data, "image/png")}">'
    svg = data.decode()
    return re.sub(r'<g class="cursor".*?</g>', "", svg, flags=re.S) if is_still else svg


def score_table(scores: Scores, corner: str = "mean over frames") -> str:
    """Systems against metrics; `corner` says what the numbers are."""
    head = "".join(f"<th>{escape(heading(key))}</th>" for key in columns(scores))
    rows = {
        name: [f"<b>{c.text}</b>" if c.is_best else c.text for c in row]
        for name, row in cells(scores).items()
    }
    return table(f"<th>{escape(corner)}</th>{head}", rows)


def table(
    head: str,
    rows: Mapping[str, Sequence[str]],
    quiet: Container[str] = BASELINES,
) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
      head: HTML of the cells of the first row.
      rows: name -> HTML of the other cells.
      quiet: names of rows that stand back.
    """
    body = "".join(
        ('<tr class="baseline">' if name in quiet else "<tr>")
        + f"<th>{escape(name)}</th>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def table_note(scores: Scores) -> str:
    """What the names in a table mean."""
    shown = [*scores, *columns(scores)]
    note = " ".join(words for key, words in _TABLE_NOTES.items() if key in shown)
    return f'<p class="quiet">{note}</p>'


def _results(scores, videos):
    if not scores:
        return ""
    curves = _mean_curves(videos)
    picture = f"<div>{drawing(psnr_curves(curves))}</div>" if curves else ""
    return section(
        "Results",
        f'<div class="results"><div>{score_table(scores)}{table_note(scores)}</div>'
        f"{picture}</div>",
    )


def _mean_curves(videos):
    """Mean of each curve over the videos whose truth is known, [t]."""
    measured = [video for video in videos if video.psnr]
    if len(measured) < 2 or len({video.num_future for video in measured}) > 1:
        return {}
    names = [n for n in measured[0].psnr if all(n in v.psnr for v in measured)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of frames that no file knows
        return {n: np.nanmean([v.psnr[n] for v in measured], axis=0) for n in names}


def _wheel() -> str:
    picture = io.BytesIO()
    Image.fromarray(flow_wheel(96)).save(picture, "png")
    source = data_uri(picture.getvalue(), "image/png")
    return f'<img alt="colour of each direction" src="{source}">'


def videos_section(heading_: str, videos: Sequence[VideoReport]) -> str:
    """A player for each video, below a legend of what its panels show."""
    if not videos:
        return ""
    reading = {p.kind: p.explanation for v in videos for p in panels(v)}
    phrases = "".join(
        f"<span><b>{escape(kind)}</b> {escape(words)}</span>"
        for kind, words in reading.items()
    )
    wheel = _wheel() if "flow" in reading else ""
    legend = f'<div class="legend">{wheel}<p class="quiet">{phrases}</p></div>'
    return section(heading_, legend + "\n".join(map(_video, videos)))


def _video(report: VideoReport) -> str:
    total = report.num_context + report.num_future
    shown = panels(report)
    pictures = "".join(_panel(panel, report) for panel in shown)
    drawings = []
    if report.psnr:
        drawings.append(psnr_curves(report.psnr))
    if report.collision_probability is not None:
        collisions = report.collisions_true
        if collisions is not None:
            collisions = [frame - report.num_context + 1 for frame in collisions]
        drawings.append(
            collision_curve(
                report.collision_probability,
                num_future=report.num_future,
                collisions_true=collisions,
            )
        )
    plots = "".join(f"<figure>{drawing(d, is_still=False)}</figure>" for d in drawings)
    movie = encode_mp4(panel_video(report, height=128), fps=FRAMES_PER_SECOND, crf=26)
    note = f'<p class="quiet">{escape(report.note)}</p>' if report.note else ""
    split = (report.num_context - 0.5) / (total - 1)
    return (
        f"<article><h3>{escape(report.name)}</h3>{note}"
        f'<div class="bar"><button type="button">Play</button>'
        f'<input type="range" aria-label="frame" min="0" max="{total - 1}"'
        f' value="{report.num_context}" data-context="{report.num_context}"'
        f' style="--split: {split:.4f}"><output></output></div>'
        f'<div class="panels" style="--count: {len(shown)}">{pictures}</div>'
        "<noscript><video controls loop muted playsinline"
        f' src="{data_uri(movie, "video/mp4")}"></video></noscript>'
        f'<div class="plots">{plots}</div></article>'
    )


def _panel(panel: Panel, report: VideoReport) -> str:
    """A canvas that holds the contact sheet of its frames."""
    is_grid = panel.frames.shape[1:] != report.context.shape[1:]
    sheet, columns_, (width, height) = contact_sheet(panel.frames, lossless=is_grid)
    start = report.num_context + report.num_future - len(panel.frames)
    predicted = "" if panel.predicted_from is None else panel.predicted_from
    return (
        f'<figure><figcaption title="{escape(panel.title)}">{escape(panel.title)}'
        f'</figcaption><canvas role="img" aria-label="{escape(panel.title)}"'
        f' class="{"grid" if is_grid else ""}" width="{width}" height="{height}"'
        f' data-columns="{columns_}" data-start="{start}" data-predicted="{predicted}">'
        f'<img alt="" src="{data_uri(sheet, "image/webp")}"></canvas></figure>'
    )


def contact_sheet(
    frames: np.ndarray, *, lossless: bool
) -> tuple[bytes, int, tuple[int, int]]:
    """All frames on one WebP picture, row by row.

    Args:
      frames: [n, h, w, 3] uint8.
      lossless: for drawings of few colours; photographs are stored at quality 90.

    Returns:
      bytes, number of columns, (width, height) of a frame on the sheet.
    """
    count, height, width, _ = frames.shape
    shrink = min(1.0, _MAX_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    columns_ = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns_)
    sheet = Image.new("RGB", (columns_ * size[0], rows * size[1]))
    for k, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BOX)
        sheet.paste(picture, (k % columns_ * size[0], k // columns_ * size[1]))
    stream = io.BytesIO()
    sheet.save(stream, "webp", lossless=lossless, quality=90, method=3)
    return stream.getvalue(), columns_, size
