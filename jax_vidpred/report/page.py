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
from collections.abc import Mapping, Sequence

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
    CONSTANT_VELOCITY,
    COPY_LAST,
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
    "psnr_moving": "Moving pixels are those that differ from the last context frame.",
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
        f'<header><h1>{_escape(title)}</h1><p class="headline">'
        f"{_escape(headline or headline_of(summary_table, videos))}</p></header>",
        _results(summary_table, videos),
        _videos(videos),
    ]
    for section, plots in curves.items():
        if plots:
            figures = "".join(_figure(*item) for item in plots.items())
            size = "plots small" if len(plots) > 1 else "plots"
            parts.append(
                f"<section><h2>{_escape(section)}</h2>"
                f'<div class="{size}">{figures}</div></section>'
            )
    if provenance:
        items = "".join(
            f"<dt>{_escape(key)}</dt><dd>{_escape(str(value))}</dd>"
            for key, value in provenance.items()
        )
        parts.append(f"<section><h2>How this was made</h2><dl>{items}</dl></section>")
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
        f"<title>{_escape(title)}</title><style>{STYLE}</style>"
        "<noscript><style>.bar, .panels { display: none }</style></noscript></head>\n"
        "<body><main>\n"
        + "\n".join(parts)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


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
        if name not in BASELINES and math.isfinite(row.get("psnr", math.nan))
    }
    if not systems:
        return sentence + "What really happened is not known, so nothing is measured."
    best = max(systems, key=systems.get)
    reached = f"{best} reaches {systems[best]:.1f} dB PSNR"
    copied = scores.get(COPY_LAST, {}).get("psnr", math.nan)
    if not math.isfinite(copied):
        return f"{sentence}{reached}."
    gain = systems[best] - copied
    how = "better" if gain >= 0 else "worse"
    return (
        f"{sentence}{reached}, {abs(gain):.1f} dB {how} than copying the last frame"
        f" ({copied:.1f} dB)."
    )


def _escape(text: str) -> str:
    return html.escape(str(text), quote=True)


def data_uri(data: bytes, kind: str) -> str:
    """An address that holds the data itself; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _drawing(data: bytes) -> str:
    """HTML for the bytes of a plot.

    Ids within an SVG are digests of what they name, so two drawings may share them.
    """
    if data.startswith(b"\x89PNG"):
        return f'<img alt="" src="{data_uri(data, "image/png")}">'
    return data.decode()


def _figure(caption, data):
    return f'<figure aria-label="{_escape(caption)}">{_drawing(data)}</figure>'


def _results(scores, videos):
    if not scores:
        return ""
    head = "".join(f"<th>{_escape(heading(key))}</th>" for key in columns(scores))
    rows = ""
    for name, row in cells(scores).items():
        values = "".join(
            f"<td><b>{c.text}</b></td>" if c.is_best else f"<td>{c.text}</td>"
            for c in row
        )
        kind = ' class="baseline"' if name in BASELINES else ""
        rows += f"<tr{kind}><th>{_escape(name)}</th>{values}</tr>"
    table = (
        f'<div class="scroll"><table><thead><tr><th>mean over frames</th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
    shown = [*scores, *columns(scores)]
    note = " ".join(words for key, words in _TABLE_NOTES.items() if key in shown)
    curves = _mean_curves(videos)
    picture = f"<div>{_drawing(psnr_curves(curves))}</div>" if curves else ""
    # The cursor belongs to the player of one video.
    picture = re.sub(r'<g class="cursor".*?</g>', "", picture, flags=re.S)
    return (
        f'<section><h2>Results</h2><div class="results"><div>{table}'
        f'<p class="quiet">{note}</p></div>{picture}</div></section>'
    )


def _mean_curves(videos):
    """Mean of each curve over the videos whose truth is known, [t]."""
    measured = [video for video in videos if video.psnr]
    if len(measured) < 2 or len({video.num_future for video in measured}) > 1:
        return {}
    names = [n for n in measured[0].psnr if all(n in v.psnr for v in measured)]
    return {n: np.mean([v.psnr[n] for v in measured], axis=0) for n in names}


def _videos(videos):
    if not videos:
        return ""
    wheel = io.BytesIO()
    Image.fromarray(flow_wheel(96)).save(wheel, "png")
    source = data_uri(wheel.getvalue(), "image/png")
    reading = {p.kind: p.explanation for v in videos for p in panels(v)}
    phrases = "".join(
        f"<span><b>{_escape(kind)}</b> {_escape(words)}</span>"
        for kind, words in reading.items()
    )
    return (
        '<section><h2>Videos</h2><div class="legend">'
        f'<img alt="colour of each direction" src="{source}">'
        f'<p class="quiet">{phrases}</p></div>'
        + "\n".join(map(_video, videos))
        + "</section>"
    )


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
    plots = "".join(f"<figure>{_drawing(d)}</figure>" for d in drawings)
    movie = encode_mp4(panel_video(report, height=128), fps=FRAMES_PER_SECOND, crf=26)
    note = f'<p class="quiet">{_escape(report.note)}</p>' if report.note else ""
    split = (report.num_context - 0.5) / (total - 1)
    return (
        f"<article><h3>{_escape(report.name)}</h3>{note}"
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
        f'<figure><figcaption title="{_escape(panel.title)}">{_escape(panel.title)}'
        f'</figcaption><canvas role="img" aria-label="{_escape(panel.title)}"'
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
