"""Objects, collisions and physics of predicted clips: whose annotation is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.data.schema import (
    COLLISION,
    FLOW,
    FRAME_SECONDS,
    MASK,
    MAX_OBJECTS,
    PAIRS,
    PRESENT,
    SEGMENTS,
    STATE,
    VIDEO,
    VISIBLE,
)
from jax_vidpred.evaluation.clips import Batch
from jax_vidpred.evaluation.settings import Settings
from jax_vidpred.metrics import (
    appearance,
    collision,
    consistency,
    kinematics,
    masks,
    tracks,
)
from jax_vidpred.metrics.physics import Tracks, physics_card
from jax_vidpred.metrics.silhouettes import unhidden_positions
from jax_vidpred.ops.image import to_float
from jax_vidpred.report.table import TRUTH

HEAD, KINEMATICS = "head", "kinematics"  # what announces collisions
# Score of each frame, and of each clip; NaN where the annotation is not known.
FRAME_SCORES = (
    *("iou_tracked", "miou_tracked", "ari_tracked", "fg_ari_tracked"),
    *("box_recall_tracked", "physics_position_error", "physics_speed_error"),
    "physics_position_error_found",
)
CLIP_SCORES = (
    *("lifetime_tracked", "physics_momentum_error", "physics_impulse_error"),
    *("physics_restitution_error", "physics_interpenetration"),
    *("physics_vanished", "physics_appeared"),
)
Rows = dict[str, dict[str, np.ndarray]]
Events = dict[str, dict[str, list]]  # system -> detector -> clips, as JSON can hold


def add_scores(
    scores: Rows,
    videos: Mapping[str, np.ndarray],
    moved: Mapping[str, Mapping[str, np.ndarray]],
    batch: Batch,
    settings: Settings,
) -> Events:
    """Adds FRAME_SCORES, CLIP_SCORES and `background_consistency`.

    Where flow is known, `iou_carried` and `lifetime_carried` too: of the masks of the
    last context frame, carried along it.

    Objects are found in predicted frames by the same tracker as in the true ones, whose
    scores are the row TRUTH: no prediction can be expected to do better.

    Args:
      scores: system -> metric -> [b] or [b, t].
      videos: system -> predicted frames [b, t, h, w, 3].
      moved: system -> its `flow` and `visible`, see `schema`.
      batch: with EVERYTHING, and `known` [b].
      settings: of the evaluation.

    Returns:
      what each system says about collisions in the clips whose annotation is known.
    """
    rows = np.flatnonzero(batch["known"] & batch[MASK])
    shown = {**videos, TRUTH: to_float(batch[VIDEO][:, settings.num_context :])}
    segments = {
        name: np.zeros(frames.shape[:4], np.uint8) for name, frames in shown.items()
    }
    clips = [_clip(batch, row, shown, settings) for row in rows]
    b, t = len(batch[MASK]), settings.num_future
    for name in shown:
        columns = scores.setdefault(name, {})
        columns |= {key: np.full((b, t), np.nan) for key in FRAME_SCORES}
        columns |= {key: np.full(b, np.nan) for key in CLIP_SCORES}
        for row, clip in zip(rows, clips, strict=True):
            values, segments[name][row] = clip[name]["scores"], clip[name]["segments"]
            for key, value in values.items():
                columns[key][row] = value
        columns |= _background(shown[name], segments[name], batch, settings)
    true = {"flow": batch[FLOW], "visible": batch[VISIBLE]}
    for name, aux in {**moved, TRUTH: true}.items():
        if "flow" in aux:
            scores[name] |= _carried(aux, batch, settings)
    return {
        name: {
            KINEMATICS: [clip[name]["contacts"] for clip in clips],
            **_head_events(moved.get(name, {}), batch, settings),
        }
        for name in shown
    }


def events(
    videos: Mapping[str, np.ndarray],
    moved: Mapping[str, Mapping[str, np.ndarray]],
    batch: Batch,
    settings: Settings,
) -> Events:
    """What `add_scores` returns, without any scoring; arguments as there."""
    shown = {**videos, TRUTH: to_float(batch[VIDEO][:, settings.num_context :])}
    rows = np.flatnonzero(batch["known"] & batch[MASK])
    return {
        name: {
            KINEMATICS: [_follow(batch, row, frames[row], settings)[2] for row in rows],
            **_head_events(moved.get(name, {}), batch, settings),
        }
        for name, frames in shown.items()
    }


def _follow(
    batch: Batch, row: int, frames: np.ndarray, settings: Settings
) -> tuple[np.ndarray, Tracks, list]:
    """Segments of a clip's predicted frames, tracks of all of it, and its contacts."""
    known = batch[SEGMENTS][row, : settings.num_context]
    context = to_float(batch[VIDEO][row, : settings.num_context])
    found = appearance.track(context, known, frames)
    whole = np.concatenate([known, found])
    track = Tracks(*unhidden_positions(whole, MAX_OBJECTS))
    contact = kinematics.find_contacts(*track, settings.stride * FRAME_SECONDS)
    said = collision.pair_events(*contact, batch[PAIRS][row], settings.stride)
    return found, track, _as_lists(said)


def _clip(
    batch: Batch, row: int, shown: Mapping[str, np.ndarray], settings: Settings
) -> dict[str, dict[str, Any]]:
    """Scores, segments and contacts of one clip, system by system."""
    num_context = settings.num_context
    known, true = np.split(batch[SEGMENTS][row], [num_context])
    counted = masks.visible_labels(known[-1], MAX_OBJECTS)
    contacts = np.argwhere(np.triu(batch[PAIRS][row], 1))
    result, seen = {}, None
    for name in (TRUTH, *(name for name in shown if name != TRUTH)):
        found, track, said = _follow(batch, row, shown[name][row], settings)
        seen = track.found if seen is None else seen
        card = physics_card(
            track,
            batch[STATE][row],
            batch[PRESENT][row],
            seen,
            counted,
            contacts,
            seconds=settings.stride * FRAME_SECONDS,
            num_context=num_context,
        )
        del card["interpenetration_true"]  # TRUTH has the tracker's own
        result[name] = {
            "scores": {
                **mask_scores(found, true, counted),
                **_named(card),
            },
            "segments": found,
            "contacts": said,
        }
    return result


def mask_scores(
    predicted: np.ndarray, true: np.ndarray, counted: np.ndarray
) -> dict[str, Any]:
    """Scores of the masks of one clip, uint8 [t, h, w], over the objects that count.

    Returns:
      the entries of FRAME_SCORES and CLIP_SCORES that end in "_tracked".
    """
    iou = masks.mean_iou(masks.identity_iou(predicted, true, MAX_OBJECTS), counted)
    matched = masks.hungarian_iou(predicted, true, MAX_OBJECTS)
    return {
        "iou_tracked": iou,
        "miou_tracked": masks.mean_iou(matched, counted),
        "ari_tracked": masks.adjusted_rand_index(predicted, true, MAX_OBJECTS),
        "fg_ari_tracked": masks.foreground_rand_index(predicted, true, MAX_OBJECTS),
        "box_recall_tracked": masks.box_recall(predicted, true, counted),
        "lifetime_tracked": masks.lifetime(iou),
    }


def _named(card: Mapping[str, Any]) -> dict[str, Any]:
    """A physics card under the names of metrics; errors of contacts as their mean."""
    named = {f"physics_{key}": np.asarray(value) for key, value in card.items()}
    return {
        key: value if key in FRAME_SCORES else nanmean(value.reshape(1, -1), 1)[0]
        for key, value in named.items()
    }


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is a finite number; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _carried(
    aux: Mapping[str, np.ndarray], batch: Batch, settings: Settings
) -> dict[str, np.ndarray]:
    """IoU of the context's masks, carried along a system's own flow."""
    start = settings.num_context - 1
    last, true = batch[SEGMENTS][:, start], batch[SEGMENTS][:, settings.num_context :]
    flow, visible = (jnp.asarray(aux[key][:, start:]) for key in ("flow", "visible"))
    carried = np.asarray(
        _carry(jnp.asarray(last), flow, visible, num_objects=MAX_OBJECTS)
    )
    ious = [
        masks.mean_iou(
            masks.identity_iou(found, segments, MAX_OBJECTS),
            masks.visible_labels(first, MAX_OBJECTS),
        )
        for found, segments, first in zip(carried, true, last, strict=True)
    ]
    lifetimes = np.array([masks.lifetime(iou) for iou in ious])
    return {
        "iou_carried": np.where(batch["known"][:, None], np.stack(ious), np.nan),
        "lifetime_carried": np.where(batch["known"], lifetimes, np.nan),
    }


_carry = jax.jit(tracks.carry, static_argnames="num_objects")


@jax.jit
def _background_score(last, video, occupied):
    whole = jnp.concatenate([last[:, None], video], 1)
    return consistency.free_background_consistency(whole, occupied)


def _background(video, segments, batch, settings) -> dict[str, np.ndarray]:
    """Consistency of what the video itself shows no object on."""
    start = settings.num_context - 1
    occupied = np.concatenate([batch[SEGMENTS][:, start, None], segments], 1) > 0
    last = to_float(jnp.asarray(batch[VIDEO][:, start]))
    score = _background_score(last, jnp.asarray(video), jnp.asarray(occupied))
    return {"background_consistency": np.where(batch["known"], score, np.nan)}


def _head_events(
    aux: Mapping[str, np.ndarray], batch: Batch, settings: Settings
) -> dict[str, list]:
    """What a collision head, where there is one, says about the annotated clips."""
    if "collision_probability" not in aux:
        return {}
    said = [
        collision.clip_events(
            aux["collision_probability"][row],
            batch[COLLISION][row],
            settings.stride,
            radius=collision.TOLERANCE,
        )
        for row in np.flatnonzero(batch["known"] & batch[MASK])
    ]
    return {HEAD: [_as_lists(clip) for clip in said]}


def _as_lists(clip: collision.Clip) -> list:
    return [np.asarray(field).tolist() for field in clip]


def from_lists(fields: Sequence[Sequence]) -> collision.Clip:
    """A clip's events as they were before they became JSON."""
    *times, pairs, true_pairs = fields
    return collision.Clip(
        *map(np.array, times),
        pairs=np.array(pairs, int).reshape(-1, 2),
        true_pairs=np.array(true_pairs, int).reshape(-1, 2),
    )
