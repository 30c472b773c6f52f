"""The HTML page of an evaluation: what was measured, how well, where it is lost.

Every section is there only if the result has something for it.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax_vidpred.data.video_io import write_whole
from jax_vidpred.report.collision_table import (
    collision_tables,
    detectors_of,
)
from jax_vidpred.report.evaluation_plots import bars, clip_dots, points
from jax_vidpred.report.page import (
    definitions,
    document,
    figures,
    header,
    headline_of,
    score_table,
    section,
    table,
    table_note,
    videos_section,
)
from jax_vidpred.report.panels import VideoReport
from jax_vidpred.report.plots import gain_plot, psnr_curves
from jax_vidpred.report.table import (
    METRICS,
    TRUTH,
    groups,
    mean_scores,
    metric_of,
    number,
    number_text,
    split,
)

Result = Mapping[str, Any]

# Over predicted frames; of each kind, all variants that are there.
_CURVES = ("psnr", "ssim", "lpips", "iou")
_MAX_COLUMNS = 9  # of a table that needs no scrolling on a desk
_POSITION = "physics_position_error"
_PROVENANCE = ("command", "versions", "device", "date")


@dataclasses.dataclass(frozen=True)
class ShownClip:
    """A clip as the page plays it: why it is shown, and what is shown."""

    title: str
    report: VideoReport


def write_evaluation_page(
    path: str | os.PathLike, result: Result, clips: Sequence[ShownClip]
) -> None:
    """Writes the page; the whole file appears at once or not at all.

    Args:
      path: of the HTML file; folders are made.
      result: of `evaluate`, as its JSON file holds it or with NaN for null.
      clips: played on the page in this order.

    Raises:
      DataError: the file cannot be written.
    """
    write_whole(path, build_evaluation_page(result, clips).encode())


def build_evaluation_page(result: Result, clips: Sequence[ShownClip]) -> str:
    """The text that `write_evaluation_page` writes; same arguments."""
    scores = mean_scores(result["systems"])
    videos = [
        dataclasses.replace(one.report, name=f"{one.title} ({one.report.name})")
        for one in clips
    ]
    title = f"{_workdir(result)}, {_manifest(result).get('split', 'clips')}"
    parts = [
        header(title, headline(result), summary(result)),
        _scores(scores),
        _curves(result),
        videos_section("Clips", videos),
        section("Collisions", collision_tables(result.get("collisions") or {})),
        _physics(result),
        _budget(result),
        _adaptation(result),
        section("Uncertainty", definitions(_flat(result.get("uncertainty") or {}))),
        _not_computed(result),
        section("How this was measured", definitions(_about(result))),
    ]
    return document(title, parts)


def _manifest(result):
    """What was measured; results of older versions have it in their settings."""
    comparable = (result.get("manifest") or {}).get("comparable") or {}
    return {**(result.get("settings") or {}), **comparable}


def _workdir(result):
    own = (result.get("manifest") or {}).get("own") or {}
    place = own.get("workdir") or _manifest(result).get("workdir") or ""
    return pathlib.PurePath(place).name or next(iter(result["systems"]))


def headline(result: Result) -> str:
    """What was measured and the best PSNR against copying the last frame, in words."""
    manifest, count = _manifest(result), len(result.get("clips") or [])
    context, future = manifest.get("num_context"), manifest.get("num_future")
    on = f" on {count} clip{'s' * (count != 1)}" if count else ""
    split = f" of the {manifest['split']} split" if on and "split" in manifest else ""
    sentence = ""
    if context and future:
        sentence = (
            f"From {context} frames the next {future} were predicted{on}{split}. "
        )
    elif on:
        sentence = f"Measured{on}{split}. "
    scores = mean_scores(result["systems"])
    if not any(math.isfinite(row.get("psnr", math.nan)) for row in scores.values()):
        return sentence + "PSNR was not measured."
    return sentence + headline_of(scores, [])


def summary(result: Result) -> str:
    """The rest of what was found of the first system, in a few sentences."""
    name, first = next(iter(mean_scores(result["systems"]).items()))
    future = _manifest(result).get("num_future")
    sentences = []
    lifetime = first.get("lifetime_tracked", math.nan)
    if math.isfinite(lifetime):
        sentences.append(
            f"Objects keep an IoU of 0.5 for {lifetime:.1f} of {future} frames."
        )
    collisions = result.get("collisions") or {}
    found = []
    for detector, parts in detectors_of(collisions, name).items():
        ceiling = detectors_of(collisions, TRUTH).get(detector) or {}
        f1, best = (
            number((one.get("horizon") or {}).get("f1")) for one in (parts, ceiling)
        )
        if math.isfinite(f1):
            words = f" ({best:.2f} on the true video)" * math.isfinite(best)
            found.append(f"{detector} {f1:.2f}{words}")
    if found:
        sentences.append(
            "F1 of collisions after the context, within"
            f" ±{collisions['tolerance']} raw frames: {', '.join(found)}."
        )
    gain = (result.get("test_time_training") or {}).get("mean")
    if gain is not None:
        sentences.append(f"Test-time training changes PSNR by {gain:+.2f} dB.")
    return " ".join(sentences)


def _scores(scores):
    """All but physics: one table, or some for each group."""
    shown = {
        name: {key: v for key, v in row.items() if metric_of(key).group != "physics"}
        for name, row in scores.items()
    }
    shown = {n: r for n, r in shown.items() if any(map(math.isfinite, r.values()))}
    if not shown:
        return ""
    tables = split(shown, _MAX_COLUMNS)
    content = "".join(score_table(part, name or "mean") for name, part in tables)
    return section("Results", content + table_note(shown))


def _curves(result):
    """One plot for each metric that there is over the predicted frames."""
    plots = {}
    for base in _CURVES:
        plots |= _frame_plots(result, base)
    psnr = _per_clip(result, "psnr")
    if len(result.get("clips") or []) > 1 and psnr:
        caption = "PSNR of each clip (dB), line: median"
        plots[caption] = clip_dots(psnr, xlabel=caption)
    return section("Over predicted frames", figures(plots))


def _frame_plots(result, base):
    """Caption -> drawing of `base` and its variants over predicted frames."""
    systems = result["systems"]
    keys = dict.fromkeys(k for s in systems.values() for k in s.get("per_frame", {}))
    plots = {}
    for key in keys:
        is_variant = key.startswith(f"{base}_") and key not in METRICS
        if key != base and not is_variant:
            continue
        curves = {
            name: _values(scores["per_frame"][key])
            for name, scores in systems.items()
            if scores.get("per_frame", {}).get(key)
        }
        plots[_label(key)] = psnr_curves(curves, ylabel=_label(key))
    return plots


def _per_clip(result, key):
    return {
        name: _values(scores["per_clip"][key])
        for name, scores in result["systems"].items()
        if scores.get("per_clip", {}).get(key)
    }


def _label(key):
    metric = metric_of(key)
    return f"{metric.heading} ({metric.unit})" if metric.unit else metric.heading


def _values(values):
    return [number(value) for value in values]


def _physics(result):
    """Objects put back on the floor: how they move, beside the ceiling and copying."""
    scores = groups(mean_scores(result["systems"])).get("physics")
    if not scores:
        return ""
    note = (
        '<p class="quiet">Objects of the predicted video are tracked and put back on'
        " the floor through the camera. The row of the truth is the error of that"
        " tracking itself: no prediction can be told from perfect below it. Units are"
        " those of the scene, where an object has a radius of 0.2.</p>"
    )
    plots = figures(_frame_plots(result, _POSITION))
    return section("Physics", score_table(scores, "mean over clips") + note + plots)


def _budget(result):
    """What the prediction gains where one part of the model is replaced by truth."""
    scores = mean_scores((result.get("budget") or {}).get("systems") or {})
    psnr = {name: row.get("psnr", math.nan) for name, row in scores.items()}
    start = psnr.pop("as it is", math.nan)
    gains = {n: v - start for n, v in psnr.items() if math.isfinite(v - start)}
    if not gains:
        return ""
    drawn = bars(gains, xlabel="gain in PSNR over the model as it is (dB)")
    note = (
        '<p class="quiet">One part of the model at a time is replaced by the truth, or'
        " left out; what that gains is what the part loses. Where that is a loss, the"
        " other parts have learned to make up for what this one does.</p>"
    )
    table_ = score_table(scores, "mean over clips")
    return section(
        "Error budget",
        f'<div class="results"><div>{table_}{note}</div>'
        f"<div>{figures({'error budget': drawn})}</div></div>",
    )


def _adaptation(result):
    """What test-time training gains, clip by clip, and with the number of steps."""
    found = result.get("test_time_training") or {}
    gains = found.get("per_clip") or next(
        iter(_per_clip(result, "ttt_gain").values()), []
    )
    gains = _values(gains)
    named = {
        f"{video}, from {start}": gain
        for (video, start), gain in zip(result.get("clips") or [], gains, strict=False)
        if math.isfinite(gain)
    }
    plots = {"gain of each clip": gain_plot(named, noun="clip")} if named else {}
    curve, rows = found.get("curve") or [], {}
    if curve:
        steps = [one["steps"] for one in curve]
        for key, label in (
            ("mean", "gain in PSNR (dB)"),
            ("seconds_per_clip", "seconds per clip"),
        ):
            values = _values(one.get(key) for one in curve)
            plots[label] = points(steps, values, xlabel="steps", ylabel=label)
        rows = {
            f"{one['steps']}": [
                number_text(one.get("mean"), 3),
                f"{number_text(100 * number(one.get('share_improved')), 0)} %",
                number_text(one.get("seconds_per_clip")),
            ]
            for one in curve
        }
    words = ""
    if {"mean", "share_improved", "worst", "best"} <= set(found):
        words = (
            f"{number(found['mean']):+.2f} dB on average, better on"
            f" {number(found['share_improved']):.0%} of the clips, worst"
            f" {number(found['worst']):+.2f} dB, best {number(found['best']):+.2f} dB."
        )
        words = f'<p class="quiet">{words}</p>'
    head = "<th>steps</th><th>gain in PSNR (dB)</th><th>clips improved</th>"
    head += "<th>seconds per clip</th>"
    costs = table(head, rows) if rows else ""
    return section("Test-time training", words + figures(plots) + costs)


def _not_computed(result):
    missing = result.get("not_computed") or {}
    named = {metric_of(key).heading: reason for key, reason in missing.items()}
    return section("Not computed", definitions(named))


def _about(result):
    """All that identifies the result, in one flat list."""
    manifest = result.get("manifest") or {}
    about = {k: result[k] for k in _PROVENANCE if k in result}
    for part in (manifest.get("comparable"), manifest.get("own")):
        about |= _flat(part or {})
    settings = _flat(result.get("settings") or {})
    about |= {key: value for key, value in settings.items() if key not in about}
    if "clips_sha256" in result:
        about.setdefault("clips_sha256", result["clips_sha256"])
    return {key.replace("_", " "): value for key, value in about.items()}


def _flat(tree, prefix=""):
    """Name -> text of each leaf of a nested mapping; None is nothing to tell."""
    result = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}, ")
        elif isinstance(value, str):
            result[f"{prefix}{key}"] = value
        elif value is not None:
            text = json.dumps(value)
            result[f"{prefix}{key}"] = text if len(text) < 200 else text[:199] + "…"
    return result
