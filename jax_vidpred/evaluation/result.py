"""From what is known of each batch to the result: means, sections, what is missing."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jax_vidpred.evaluation import objects
from jax_vidpred.evaluation.judge import Part, ttt_labels
from jax_vidpred.evaluation.perceptual import FVD_FRAMES
from jax_vidpred.evaluation.settings import Settings
from jax_vidpred.metrics import collision, fvd, uncertainty
from jax_vidpred.report.table import TRUTH


def rows_of(parts: Sequence[Part], key: str) -> dict[str, dict[str, np.ndarray]]:
    """Rows of all clips, of "scores", "budget" or "features" of each part."""
    rows: dict[str, dict[str, list]] = {}
    for part in parts:
        for name, columns in part.get(key, {}).items():
            for metric, values in columns.items():
                rows.setdefault(name, {}).setdefault(metric, []).extend(values)
    return {
        name: {metric: np.array(values, float) for metric, values in columns.items()}
        for name, columns in rows.items()
    }


def summary(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Means of scores [n] or [n, t]; NaN (not defined there) is left out of a mean.

    A score that is defined nowhere is left out.
    """
    columns = {key: v for key, v in columns.items() if np.isfinite(v).any()}
    per_clip = {
        key: objects.nanmean(values, 1) if values.ndim == 2 else values
        for key, values in columns.items()
    }
    return {
        "mean": {key: float(objects.nanmean(v, 0)) for key, v in per_clip.items()},
        "per_frame": {
            key: objects.nanmean(values, 0).tolist()
            for key, values in columns.items()
            if values.ndim == 2
        },
        "per_clip": {key: values.tolist() for key, values in per_clip.items()},
    }


def summaries(rows: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """`summary` of each system of which something is known."""
    found = {name: summary(columns) for name, columns in rows.items()}
    return {name: one for name, one in found.items() if one["mean"]}


def joint_hash(parts: Sequence[Part], key: str) -> str:
    """SHA-256 of those of all clips, in order: exactly what was scored on.

    `key` is "frames", or "annotations" for what is known besides.
    """
    digest = hashlib.sha256()
    for part in parts:
        for one in part[key]:
            digest.update(bytes.fromhex(one))
    return digest.hexdigest()


def events_of(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list]]:
    """System -> detector -> its clips, of parts that hold `objects.Events`."""
    events: dict[str, dict[str, list]] = {}
    for part in parts:
        for name, detectors in part.items():
            for detector, clips in detectors.items():
                known = events.setdefault(name, {}).setdefault(detector, [])
                known.extend(map(objects.from_lists, clips))
    return events


def collisions_section(
    events: Mapping[str, Mapping[str, list]],
    training: Mapping[str, Mapping[str, list]],
    settings: Settings,
    systems: dict[str, dict[str, dict]],
    known: Bool[np.ndarray, "n"],
) -> dict[str, Any]:
    """F1, precision, recall, average precision, timing of all detectors.

    Adds to the systems `collision_f1` (of the head where there is one, after the
    context, within TOLERANCE) and each clip's counts that it comes from.

    Args:
      events: of the scored clips.
      training: of clips of the training split, of the system under test and of TRUTH;
        on these thresholds are chosen. Test-time training takes those of the system it
        adapts, the baselines those of TRUTH. Empty: nothing is chosen.
      settings: of the evaluation.
      systems: `summaries`, to be added to.
      known: clips that are annotated; `events` are theirs.
    """
    first = (settings.num_context - 1) * settings.stride
    begins = {"whole_clip": 0, "horizon": first}
    own = next((name for name in training if name != TRUTH), TRUTH)
    num_training = len(training.get(TRUTH, {}).get(objects.KINEMATICS, []))
    result: dict[str, Any] = {}
    calibration = {}
    for name, detectors in events.items():
        chosen = training.get(own if name.startswith(own) else TRUTH, {})
        for detector, clips in detectors.items():
            options = {"begins": begins, "tolerance": collision.TOLERANCE}
            chosen_on = chosen.get(detector, [])
            parts = collision.part_scores(clips, chosen_on, **options)
            if detector == objects.KINEMATICS:
                typed = collision.part_scores(clips, chosen_on, typed=True, **options)
                for part, scores in parts.items():
                    scores["typed"] = typed[part]
            if detector == objects.HEAD:
                calibration[name] = _calibration(clips)
            result.setdefault(name, {})[detector] = parts
        main = objects.HEAD if objects.HEAD in detectors else objects.KINEMATICS
        _add_counts(systems[name], detectors[main], result[name][main], first, known)
    return {
        "tolerance": collision.TOLERANCE,
        "threshold_chosen_on": f"{num_training} clips of the training split",
        "raw_frames_from": begins,
        "systems": result,
        "calibration": calibration,
    }


def _add_counts(system, clips, parts, first, known):
    horizon = parts["horizon"]
    system["mean"]["collision_f1"] = horizon["f1"]
    if np.isnan(horizon["threshold"]):
        return
    counts = np.full((len(known), 3), np.nan)
    counts[known] = collision.clip_counts(
        [collision.after(clip, first) for clip in clips], threshold=horizon["threshold"]
    )
    for key, column in zip(("matched", "predicted", "true"), counts.T, strict=True):
        system["per_clip"][f"collision_{key}"] = column.tolist()


def ttt_section(
    systems: dict[str, dict[str, dict]],
    parts: Sequence[Part],
    label: str,
    settings: Settings,
) -> dict[str, Any]:
    """What test-time training gains in PSNR over clips, for each number of steps.

    The shares and extremes are those of the last way that was tried; `curve` has all,
    with the seconds that adapting to a clip takes (median over batches).
    """
    curve, told = [], {}
    for name, way in ttt_labels(label, settings.ttt).items():
        per_clip = systems[name]["per_clip"]
        gain = np.array(per_clip["ttt_gain"])
        cost = [part["seconds"][name] - part["seconds"][label] for part in parts]
        told = {
            "mean": float(gain.mean()),
            "share_improved": float((gain > 0).mean()),
            "worst": float(gain.min()),
            "best": float(gain.max()),
            "share_kept": float(systems[name]["mean"].pop("ttt_kept")),
            "per_clip": gain.tolist(),
        }
        point = {key: told[key] for key in ("mean", "share_improved", "share_kept")}
        curve.append(
            {
                "steps": way["num_steps"],
                **point,
                "seconds_per_clip": float(np.median(cost)),
            }
        )
    # With one way alone the first batch holds the compilation.
    return {**told, "curve": curve} if len(curve) > 1 else told


def fvd_section(
    features: Mapping[str, Mapping[str, np.ndarray]], systems: dict[str, dict]
) -> dict[str, str]:
    """Adds FVD, its interval's ends and FVD_inf to the systems' means.

    Returns:
      what could not be computed, and why.
    """
    missing = {}
    for network, true in features.get(TRUTH, {}).items():
        real = true.reshape(-1, true.shape[-1])
        key = fvd.metric_key(network, FVD_FRAMES, len(real))
        for name, columns in features.items():
            if name == TRUTH:
                continue
            made = columns[network].reshape(real.shape)
            if not np.isfinite(made).all():  # of a baseline that is not always known
                continue
            mean = systems[name]["mean"]
            try:
                mean[key] = fvd.fvd(real, made)
                interval = fvd.fvd_interval(real, made)
                mean[f"{key}_low"], mean[f"{key}_high"] = interval
            except ValueError as error:
                missing[key] = str(error)
                continue
            try:
                mean[f"{key}_extrapolated"] = fvd.fvd_extrapolated(real, made)
            except ValueError as error:
                missing[f"{key}_extrapolated"] = str(error)
    return missing


def _calibration(clips: Sequence[collision.Clip]) -> dict[str, Any]:
    """Of what is announced with a probability p, does the share p come true?

    An announcement (a peak) comes true if there is a collision within TOLERANCE.
    """
    said = np.concatenate([[], *(clip.scores for clip in clips)])
    true = [
        bool(np.any(np.abs(clip.truth - time) <= collision.TOLERANCE))
        for clip in clips
        for time in clip.peaks
    ]
    bins = uncertainty.reliability(said, np.array(true, bool))
    columns = {key: values.tolist() for key, values in bins._asdict().items()}
    return {"ece": bins.ece, **columns}
