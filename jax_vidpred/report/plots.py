"""Curves and bars of a report as SVG or PNG bytes.

An SVG takes its text colour from the page around it (`currentColor`), so it is legible
on light and on dark; a PNG has a white ground. Both come from the same figure, and the
same data gives the same bytes.
"""

import io
import json
import math
import os
import pathlib
import re
from collections.abc import Container, Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from jax_vidpred.report.table import CONSTANT_VELOCITY, COPY_LAST, TRUTH, VAE_CEILING

# Told apart by people with any colour vision, and of middle lightness, so that each
# stands out from white and from black. Lines differ in their dashes as well.
CYCLE = ("#2a78d0", "#d9730d", "#c2569b", "#8a63d2", "#a8572a")
_BASELINE_STYLES = {
    COPY_LAST: ("#7d8590", (0, (1.5, 1.5))),
    CONSTANT_VELOCITY: ("#12967a", (0, (5, 1.5))),
    VAE_CEILING: ("#7d8590", (0, (6, 2, 1.5, 2))),
    TRUTH: ("#7d8590", "-"),
}
INK = "#010203"  # in SVG stands for the text colour of the page
FONT_SIZE = 8.8
WIDE, NARROW = (4.3, 2.4), (3.1, 2.0)  # inches; text stays legible on a phone
# A line of loss holds no more points than this: averages over equal spans.
_MAX_POINTS = 240


def styles(names: Iterable[str]) -> dict[str, tuple[str, object]]:
    """Colour and dashes of each curve; baselines look the same in every plot."""
    result, used = {}, 0
    for name in names:
        if name in _BASELINE_STYLES:
            result[name] = _BASELINE_STYLES[name]
        else:
            result[name] = (CYCLE[used % len(CYCLE)], "-")
            used += 1
    return result


def new_axes(size, xlabel, ylabel):
    """A figure of `size` inches and its axes, as all drawings here have them."""
    # 72 dots per inch are the units of an SVG, which the moving cursor counts in.
    figure = Figure(figsize=size, dpi=72, layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=INK, alpha=0.35)
    axes.tick_params(which="both", length=0, pad=4, labelsize=FONT_SIZE, labelcolor=INK)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def label_ends(axes, ends: Mapping[str, float], style):
    """Writes each name beside the end of its line; names that would overlap move."""
    fractions = {}
    axes.get_ylim()  # brings the transform up to date with what was plotted
    for name, y in ends.items():
        pixel = axes.transData.transform((0, y))[1]
        fractions[name] = axes.transAxes.inverted().transform((0, pixel))[1]
    names = sorted(fractions, key=fractions.get)
    height = 1.35 * FONT_SIZE / (axes.figure.get_figheight() * 72 * 0.75)
    places = np.array([fractions[name] for name in names])
    for _ in range(200):
        overlap = height - np.diff(places)
        if (overlap < 1e-6).all():
            break
        shift = np.maximum(overlap, 0) / 2
        places[:-1] -= shift
        places[1:] += shift
        places = np.maximum(places, height / 3)  # not into the numbers of the axis
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            plain(name),
            (1.015, place),
            xycoords="axes fraction",
            va="center",
            fontsize=FONT_SIZE,
            color=style[name][0],
            parse_math=False,
            annotation_clip=False,
        )


def plain(text: str, limit: int = 26) -> str:
    """One printable line of at most `limit` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def render(figure, image_format, cursor=None):
    """Bytes of the figure. `cursor` = (axes, frame): the line that a page may move."""
    if image_format not in ("svg", "png"):
        raise ValueError(f"image_format={image_format!r}, expected 'svg' or 'png'")
    if cursor is not None and image_format == "svg":
        axes, frame = cursor
        axes.axvline(frame, color=INK, alpha=0.5, linewidth=1, gid="cursor")
    stream = io.BytesIO()
    if image_format == "png":
        figure.patch.set(visible=True, facecolor="white")
        figure.savefig(stream, format="png", dpi=180, metadata={"Software": None})
        return stream.getvalue()
    options = {"svg.fonttype": "none", "svg.hashsalt": "jax_vidpred"}
    with matplotlib.rc_context(options):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace(INK, "currentColor")
    if cursor is not None:
        step = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
        place = (
            f'class="cursor" data-frame="{frame:g}" data-step="{step:.4f}"'
            f' data-first="{axes.get_xlim()[0]:g}"'
        )
        svg = svg.replace('id="cursor"', place)
    # Several figures share a page, so an id that nothing refers to must go.
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    return svg.encode()


def psnr_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    ylabel: str = "PSNR (dB)",
    image_format: str = "svg",
) -> bytes:
    """A value per predicted frame, one line per system, named at its end.

    Args:
      curves: name -> [t]; NaN leaves a gap.
      ylabel: what is measured, with its unit.
      image_format: "svg" or "png".
    """
    figure, axes = new_axes(WIDE, "predicted frame", ylabel)
    style = styles(curves)
    ends = {}
    for name, values in curves.items():
        values = np.asarray(values, np.float64)
        frames = np.arange(1, len(values) + 1)
        color, dashes = style[name]
        is_baseline = name in _BASELINE_STYLES
        axes.plot(
            frames,
            values,
            color=color,
            linestyle=dashes,
            linewidth=1.4 if is_baseline else 2.1,
            marker="o" if len(values) == 1 else None,
            markersize=4,
        )
        known = values[np.isfinite(values)]
        if len(known):
            ends[name] = known[-1]
    length = max((len(v) for v in curves.values()), default=1)
    axes.set_xlim(1, max(length, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    label_ends(axes, ends, style)
    return render(figure, image_format, (axes, 1))


def collision_curve(
    probability: Sequence[float],
    *,
    num_future: int,
    collisions_true: Sequence[float] | None = None,
    image_format: str = "svg",
) -> bytes:
    """Probability of a collision over time, true collisions as ticks below.

    Args:
      probability: [n] in [0, 1]; the last entry belongs to the last predicted frame.
      num_future: number of predicted frames.
      collisions_true: predicted-frame numbers of the true collisions: 1 = the first
        predicted frame, 0 = the last of the context. None = not known.
      image_format: "svg" or "png".
    """
    figure, axes = new_axes(
        WIDE, "frame (1 = first predicted)", "probability of a collision"
    )
    probability = np.asarray(probability, np.float64)
    frames = np.arange(num_future - len(probability) + 1, num_future + 1)
    color = CYCLE[0]
    axes.plot(frames, probability, color=color, linewidth=2.1)
    axes.fill_between(frames, probability, color=color, alpha=0.15, linewidth=0)
    first = min(frames[0], 1)
    axes.set_xlim(first, max(num_future, first + 0.5))
    axes.set_ylim(0, 1.2)  # room above 1 for the marks of true collisions
    axes.set_yticks((0, 0.5, 1))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if first < 1:
        axes.axvspan(first, 0.5, color=INK, alpha=0.06, linewidth=0)
        place = (first + 0.01 * (num_future - first), 0.97)
        axes.text(*place, "context", va="top", fontsize=FONT_SIZE, color=INK)
    shown = sorted(f for f in collisions_true or () if first <= f <= num_future)
    axes.plot(shown, [1.12] * len(shown), "v", color=CYCLE[1], markersize=6)
    if shown:
        on_left = shown[-1] > (first + 2 * num_future) / 3
        frame = shown[0] if on_left else shown[-1]
        axes.annotate(
            "true collision" + "s" * (len(shown) > 1),
            (frame, 1.12),
            (-7 if on_left else 7, 0),
            textcoords="offset points",
            ha="right" if on_left else "left",
            va="center",
            fontsize=FONT_SIZE,
            color=CYCLE[1],
        )
    return render(figure, image_format, (axes, 1))


def read_metrics(
    path: str | os.PathLike, terms: Container[str] | None = None
) -> list[dict[str, float]]:
    """Records of a metrics.jsonl, one JSON object per line.

    Lines that are no JSON object, such as one cut off by a crash, are passed over; so
    are values that are no numbers. A file that is not there has no records.

    Args:
      path: of the file.
      terms: only these are kept of `series/term`, and `step`; all when None.
    """

    def wanted(key):
        return terms is None or key == "step" or key.rpartition("/")[2] in terms

    try:
        lines = pathlib.Path(path).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(
                {
                    key: float(value)
                    for key, value in record.items()
                    if isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and wanted(key)
                }
            )
    return records


def loss_curves(
    records: Iterable[Mapping[str, float]], *, image_format: str = "svg"
) -> dict[str, bytes]:
    """One small plot per term over training steps, e.g. "loss" with train and eval.

    Keys are `series/term`; a logarithmic axis where a term is positive and spans more
    than a factor of ten. Series have their colours in the order in which they come,
    "train" first. A step that was logged twice (after a restart) counts once,
    with its last value.

    Args:
      records: `read_metrics(path)`.
      image_format: "svg" or "png".

    Returns:
      term -> bytes, "loss" first.
    """
    series = {}
    for record in records:
        for key, value in record.items():
            if key in ("step", "wall_time") or not math.isfinite(value):
                continue
            prefix, _, term = key.rpartition("/")
            series.setdefault(term, {}).setdefault(prefix or "train", {})[
                record["step"]
            ] = value
    names = dict.fromkeys(name for lines in series.values() for name in lines)
    style = styles(sorted(names, key=lambda name: name != "train"))
    return {
        term: _loss_plot(term, series[term], style, image_format)
        for term in sorted(series, key=lambda term: (term != "loss", term))
    }


def _loss_plot(term, lines, style, image_format):
    figure, axes = new_axes(NARROW, "training step", plain(term.replace("_", " "), 22))
    axes.yaxis.label.set_parse_math(False)
    values = np.concatenate([list(points.values()) for points in lines.values()])
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        decades = math.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if decades < 3 else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    ends = {}
    for name, points in lines.items():
        steps = np.array(sorted(points))
        curve = np.array([points[step] for step in steps])
        spans = np.array_split(np.arange(len(steps)), min(len(steps), _MAX_POINTS))
        steps = np.array([steps[span].mean() for span in spans])
        curve = np.array([curve[span].mean() for span in spans])
        marker = "o" if len(steps) < 12 else None
        axes.plot(
            steps, curve, color=style[name][0], linewidth=1.6, marker=marker, ms=3
        )
        ends[name] = curve[-1]
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(
        lambda x, _: f"{x / 1000:g}k" if x >= 1e4 else f"{x:g}"
    )
    if len(lines) > 1:
        label_ends(axes, ends, style)
    return render(figure, image_format)


def gain_plot(
    gains: Mapping[str, float],
    *,
    noun: str = "video",
    image_format: str = "svg",
    max_bars: int = 20,
) -> bytes:
    """What test-time training gains on each video: bars, or a histogram of many.

    Args:
      gains: video name -> gain in dB; negative = it did harm.
      noun: what one of them is.
      image_format: "svg" or "png".
      max_bars: more videos than this become a histogram.
    """
    values = np.array(list(gains.values()), np.float64)
    mean = values.mean() if len(values) else math.nan
    gain_label = f"gain in PSNR (dB), mean {mean:+.2f}"
    if len(values) > max_bars:
        figure, axes = new_axes(WIDE, gain_label, f"{noun}s")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        edges = np.histogram_bin_edges(values, bins=min(24, max(8, len(values) // 4)))
        counts, _ = np.histogram(values, edges)
        colors = [CYCLE[0] if c >= 0 else CYCLE[1] for c in (edges[1:] + edges[:-1])]
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.92, align="edge", color=colors)
        axes.axvline(0, color=INK, linewidth=1)
        return render(figure, image_format)
    figure, axes = new_axes((WIDE[0], 0.9 + 0.2 * len(values)), gain_label, noun)
    order = np.argsort(values)
    colors = [CYCLE[0] if values[k] >= 0 else CYCLE[1] for k in order]
    axes.barh(np.arange(len(order)), values[order], 0.66, color=colors)
    names = list(gains)
    axes.set_yticks(np.arange(len(order)), [plain(names[k]) for k in order])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.grid(False, axis="y")
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)
    axes.axvline(0, color=INK, linewidth=1)
    return render(figure, image_format)
