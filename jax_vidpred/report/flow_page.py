"""An HTML page that shows two sources of flow side by side."""

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from jax_vidpred.data.video_io import encode_mp4, write_whole
from jax_vidpred.report.layout import STYLE
from jax_vidpred.report.page import data_uri
from jax_vidpred.report.panels import FLOW_RANGE_MIN, flow_to_color

_PANEL = 192  # pixels; a panel is a square
_GAP = 8
_FRAMES_PER_SECOND = 8
_COLUMNS = "grid-template-columns: repeat(6, 1fr)"


@dataclasses.dataclass(frozen=True)
class FlowPair:
    """One video and its flow from two sources, on the grid of the later frames.

    Attributes:
      name: of the video.
      frames: uint8 [t, h, w, 3], the later frame of each step.
      flow: two fields [t, gh, gw, 2] in cells.
      visible: their visibility [t, gh, gw] in [0, 1].
      errors: [t, gh, gw] distance of the two fields in cells.
      note: a phrase about it.
    """

    name: str
    frames: np.ndarray
    flow: tuple[np.ndarray, np.ndarray]
    visible: tuple[np.ndarray, np.ndarray]
    errors: np.ndarray
    note: str


def write_flow_page(
    path: str | os.PathLike,
    *,
    names: tuple[str, str],
    headline: str,
    table: Mapping[str, Mapping[str, str]],
    mean_error: np.ndarray,
    videos: Sequence[FlowPair],
    provenance: Mapping[str, str],
) -> None:
    """Writes the page, whole or not at all.

    Args:
      names: of the two sources.
      headline: what was found, in plain words.
      table: row -> column -> text.
      mean_error: [gh, gw] mean distance at each cell, in cells.
      videos: shown in this order.
      provenance: what a reader needs to make the page again.

    Raises:
      DataError: the file cannot be written.
    """
    first, second = (html.escape(name) for name in names)
    columns = list(next(iter(table.values())))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(row[column])}</td>" for column in columns)
        + "</tr>"
        for name, row in table.items()
    )
    largest = float(mean_error.max())
    heat = encode_mp4(_enlarge(_heat(mean_error[None], largest)), fps=1)
    made = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
        for key, value in provenance.items()
    )
    captions = [
        "video",
        f"flow: {first}",
        f"flow: {second}",
        "distance of the two",
        f"visible: {first}",
        f"visible: {second}",
    ]
    articles = "".join(_article(one, captions) for one in videos)
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " media-src data:; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Flow: {first} and {second}</title><style>{STYLE}"
        f".strip {{ display: grid; gap: 4px {_GAP}px; {_COLUMNS};"
        " max-width: 1200px }"
        ".strip video { grid-column: 1 / -1; width: 100%; margin: 0 }"
        ".map video { width: 240px; margin: 0 }"
        "</style></head>\n<body><main>"
        f"<header><h1>Flow: {first} and {second}</h1>"
        f'<p class="headline">{html.escape(headline)}</p></header>'
        '<section><h2>Results</h2><div class="results"><div class="scroll"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        '<p class="quiet">Distances in cells of the grid. Moving cells are those that'
        f" {first} moves by more than 0.05 cells per step.</p></div>"
        '<figure class="map"><figcaption>mean distance at each cell, black 0 to bright'
        f" {largest:.2f} cells</figcaption>{_video(heat)}</figure></div></section>"
        f"<section><h2>Videos</h2>{articles}</section>"
        f"<section><h2>How this was made</h2><dl>{made}</dl></section>"
        "</main></body></html>\n"
    )
    write_whole(path, text.encode())


def _article(pair: FlowPair, captions: Sequence[str]) -> str:
    labels = "".join(f"<figcaption>{one}</figcaption>" for one in captions)
    strip = _video(encode_mp4(_strip(pair), fps=_FRAMES_PER_SECOND))
    return (
        f"<article><h3>{html.escape(pair.name)}</h3>"
        f'<p class="quiet">{html.escape(pair.note)}</p>'
        f'<div class="strip">{labels}{strip}</div>'
        "</article>"
    )


def _video(data: bytes) -> str:
    return f'<video src="{data_uri(data, "video/mp4")}" autoplay loop muted></video>'


def _strip(pair: FlowPair) -> np.ndarray:
    """The panels of a video beside each other: uint8 [t, h, w, 3]."""
    speed = max(
        FLOW_RANGE_MIN, *(np.linalg.norm(flow, axis=-1).max() for flow in pair.flow)
    )
    panels = [pair.frames]
    panels += [flow_to_color(flow, speed) for flow in pair.flow]
    panels.append(_heat(pair.errors, speed))
    panels += [_grey(visible) for visible in pair.visible]
    gap = np.full((len(pair.frames), _PANEL, _GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, _enlarge(panel))]
    return np.concatenate(parts[1:], axis=2)


def _heat(values: np.ndarray, brightest: float) -> np.ndarray:
    shares = values / max(brightest, 1e-9)
    return matplotlib.colormaps["inferno"](shares, bytes=True)[..., :3]


def _grey(values: np.ndarray) -> np.ndarray:
    grey = np.uint8(np.round(np.clip(values, 0, 1) * 255))
    return np.repeat(grey[..., None], 3, axis=-1)


def _enlarge(panel: np.ndarray) -> np.ndarray:
    """Nearest-neighbour, to a square of _PANEL pixels."""
    rows = np.arange(_PANEL) * panel.shape[1] // _PANEL
    columns = np.arange(_PANEL) * panel.shape[2] // _PANEL
    return panel[:, rows][:, :, columns]
