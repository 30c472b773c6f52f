"""Collisions that a system gets right: a table of detectors against tolerances."""

from collections.abc import Mapping
from typing import Any

from jax_vidpred.report.page import escape, table
from jax_vidpred.report.table import BASELINES, number_text

_PARTS = {
    "horizon": "after the context: predicted",
    "whole_clip": "of the whole clip: seen or predicted",
}


def detectors_of(collisions: Mapping[str, Any], name: str) -> dict[str, Any]:
    """detector -> part -> scores of a system; older results know only "head"."""
    found = (collisions.get("systems") or {}).get(name) or {}
    is_old = any("f1" in part for part in found.values())
    return {"head": found} if is_old else found


def collision_tables(collisions: Mapping[str, Any]) -> str:
    """HTML: a table for each part of the clips, detectors against tolerances.

    Args:
      collisions: of a result of `evaluate`; may be empty.
    """
    parts = {part: {} for part in _PARTS}
    tolerances = set()
    for name in collisions.get("systems") or {}:
        for detector, found in detectors_of(collisions, name).items():
            for part, scores in found.items():
                by_tolerance = scores.get("by_tolerance") or {
                    str(collisions["tolerance"]): scores
                }
                tolerances |= set(by_tolerance)
                parts.setdefault(part, {})[f"{name}, {detector}"] = scores
    tolerances = sorted(tolerances, key=float)
    content = ""
    for part, by_detector in parts.items():
        if not by_detector:
            continue
        words = f"Collisions {_PARTS.get(part, part)}"
        head = f"<th>{escape(words)}</th>"
        head += "".join(f"<th>±{escape(t)} frames</th>" for t in tolerances)
        head += "<th>average precision</th><th>timing error (frames)</th>"
        head += "<th>pair right too</th><th>true events</th>"
        rows = {
            name: _collision_row(scores, tolerances, str(collisions["tolerance"]))
            for name, scores in by_detector.items()
        }
        quiet = [n for n in rows if n.split(", ")[0] in BASELINES]
        content += table(head, rows, quiet)
    chosen = collisions.get("threshold_chosen_on")
    chosen = f" Thresholds were chosen on {escape(chosen)}." if chosen else ""
    calibration = [
        f"{escape(name)} {number_text(found.get('ece'), 3)}"
        for name, found in (collisions.get("calibration") or {}).items()
    ]
    if calibration:
        chosen += f" Calibration error of the head: {', '.join(calibration)}."
    note = (
        '<p class="quiet">F1, below it precision / recall. Frames are raw ones. Head:'
        " what the model says; kinematics: jumps in the velocity of tracked objects."
        " The rows of the truth are what a detector finds on the true video: its"
        f" ceiling.{chosen}</p>"
    )
    return content + note if content else ""


def _collision_row(scores, tolerances, tolerance):
    by_tolerance = scores.get("by_tolerance") or {tolerance: scores}
    row = []
    for one in tolerances:
        found = by_tolerance.get(one, {})
        f1, precision, recall = (
            number_text(found.get(key)) for key in ("f1", "precision", "recall")
        )
        small = f'<br><span class="quiet">{precision} / {recall}</span>'
        row.append(f1 + small * (f1 != "–"))
    row.append(number_text(scores.get("average_precision")))
    row.append(number_text(scores.get("timing_error")))
    row.append(number_text((scores.get("typed") or {}).get("f1")))
    row.append(number_text(scores.get("true"), 0))
    return row
