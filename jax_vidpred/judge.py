"""Predicts the clips of a data set and scores them.

A collision that the system announces counts as found within +-5 raw frames of a true
one. From which probability on it is an announcement is chosen on clips of the training
split, never on the clips that are scored.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jax_vidpred.compare import (
    compare,
    compare_reconstruction,
    flow_errors,
    last_context_flow,
)
from jax_vidpred.data import pipeline
from jax_vidpred.data.schema import COLLISION, FLOW, MASK, VIDEO
from jax_vidpred.data.source import VideoSource
from jax_vidpred.data.transforms import PADDING, ReadClips
from jax_vidpred.journal import Journal
from jax_vidpred.metrics import collision
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.train.protocol import Stage

TOLERANCE = 5  # raw frames between a true collision and an announced one
CLIPS = ("spread", "without_entries")  # which clips of a video are scored
THRESHOLD_VIDEOS = 100  # training videos, at most, that the threshold is chosen on
Report = Callable[[str, int, int], None]  # what is being done, clips done, clips in all
Batch = dict[str, np.ndarray]
Scores = dict[str, dict[str, Any]]  # system -> score -> [b] or [b, t]
Events = dict[str, list[collision.Clip]]  # system -> its annotated clips


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of the system.

    Attributes:
      num_context, num_future: frames; 0 and the length of a clip for a VAE.
      stride: raw frames from one frame of a clip to the next.
      clips: "spread" evenly over each video, or "without_entries": the first of each
        video in which no object enters unforeseen (SlotFormer's protocol).
      clips_per_video: how many are spread over a video.
      max_videos: videos, spread evenly over the split; None = all.
      ttt: arguments of `systems.ttt.adapt`, or None.
      batch_size: clips that go through the system together; changes no number.
    """

    num_context: int
    num_future: int
    stride: int
    clips: str
    clips_per_video: int
    max_videos: int | None
    ttt: dict[str, Any] | None
    batch_size: int

    @property
    def clip_frames(self) -> int:
        return self.num_context + self.num_future


def score_source(
    source: VideoSource,
    judge: Callable[[Batch], tuple[Scores, Events]],
    settings: Settings,
    journal: Journal,
    on_progress: Report = lambda *_: None,
) -> tuple[dict[str, Any], Events]:
    """Scores of all clips of a source.

    Args:
      judge: of one batch.
      journal: knows the batches that are judged already.

    Returns:
      `clips` [[video id, first raw frame], ...] and their `clips_sha256`; `systems`:
      name -> `mean` (of every score), `per_frame` (means over clips) and `per_clip`.
      And the events of all clips.

    Raises:
      DataError: a video is shorter than a clip.
    """
    clips = fixed_clips(source, settings)
    what = f"scoring {source.split}"
    rows: dict[str, dict[str, list]] = {}
    events: dict[str, list] = {}

    def judged(read):
        batch = read()
        scored, said = judge(batch)
        return {
            "scores": {
                name: {
                    key: np.asarray(values, np.float64)[batch[MASK]].tolist()
                    for key, values in columns.items()
                }
                for name, columns in scored.items()
            },
            "events": {name: _as_lists(found) for name, found in said.items()},
        }

    for done, read in batches(source, clips, settings):
        on_progress(what, done, len(clips))
        part = journal.result(f"{what} {done}", functools.partial(judged, read))
        for name, scores in part["scores"].items():
            for key, values in scores.items():
                rows.setdefault(name, {}).setdefault(key, []).append(values)
        for name, lists in part["events"].items():
            events.setdefault(name, []).extend(_from_lists(lists))
    on_progress(what, len(clips), len(clips))
    listed = [[int(source.video_ids[index]), start] for index, start in clips]
    summary = {
        "clips": listed,
        "clips_sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "systems": {
            name: _summary({k: np.concatenate(v) for k, v in columns.items()})
            for name, columns in rows.items()
        },
    }
    return summary, events


def _as_lists(clips: list[collision.Clip]) -> list:
    return [[np.asarray(field).tolist() for field in clip] for clip in clips]


def _from_lists(lists: list) -> list[collision.Clip]:
    return [collision.Clip(*map(np.array, fields)) for fields in lists]


def fixed_clips(source: VideoSource, settings: Settings) -> list[tuple[int, int]]:
    """(index of the video, first raw frame) of the clips that are scored.

    Raises:
      DataError: there are none.
      ValueError: an unknown choice.
    """
    if settings.clips not in CLIPS:
        raise ValueError(f"clips={settings.clips!r}; wanted one of {list(CLIPS)}")
    if settings.clips == "without_entries":
        return list(
            pipeline.clips_without_entries(
                source,
                clip_frames=settings.clip_frames,
                frame_stride=settings.stride,
                num_context=settings.num_context,
                max_videos=settings.max_videos,
            )
        )
    return list(
        pipeline.fixed_clips(
            source,
            keys=(VIDEO,),
            clip_frames=settings.clip_frames,
            frame_stride=settings.stride,
            clips_per_video=settings.clips_per_video,
            max_videos=settings.max_videos,
        )
    )


def batches(
    source: VideoSource, clips: list[tuple[int, int]], settings: Settings
) -> Iterator[tuple[int, Callable[[], Batch]]]:
    """Batches of one shape, with FLOW and COLLISION zero where they are not known.

    Yields:
      clips done before, and a function that reads the batch; there `known` [b] says
      whose annotation is there.
    """
    read = ReadClips(
        source, (VIDEO, FLOW, COLLISION), settings.clip_frames, settings.stride
    )

    def batch(rows):
        rows = rows + [PADDING] * (settings.batch_size - len(rows))
        index, start = np.array(rows, np.int64).T
        known = np.where(index >= 0, source.annotated[index], False)
        return {**read.map((index, start)), "known": known}

    for done in range(0, len(clips), settings.batch_size):
        rows = clips[done : done + settings.batch_size]
        yield done, functools.partial(batch, rows)


def _summary(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means of scores [n] or [n, t]; NaN (not defined there) is left out of a mean."""
    per_clip = {
        key: _nanmean(values, 1) if values.ndim == 2 else values
        for key, values in columns.items()
    }
    return {
        "mean": {key: float(_nanmean(v, 0)) for key, v in per_clip.items()},
        "per_frame": {
            key: _nanmean(values, 0).tolist()
            for key, values in columns.items()
            if values.ndim == 2
        },
        "per_clip": {key: values.tolist() for key, values in per_clip.items()},
    }


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Judge:
    """Predicts the clips of a batch and scores them."""

    def __init__(self, predictor: VideoPredictor, settings: Settings):
        self.predictor, self.settings = predictor, settings

    def __call__(self, batch: Batch) -> tuple[Scores, Events]:
        """Scores [b] or [b, t] by system, and what is said about collisions."""
        predictor, settings = self.predictor, self.settings
        context = batch[VIDEO][:, : settings.num_context]
        plain = predictor.predict(context, settings.num_future)
        predictions = {predictor.label: plain}
        if settings.ttt:
            adapted = predictor.predict(context, settings.num_future, settings.ttt)
            predictions[f"{predictor.label} + TTT"] = adapted
        flow = last_context_flow(batch[FLOW], settings.num_context)
        has_flow = "flow" in plain.aux
        if has_flow:
            own = last_context_flow(plain.aux["flow"], settings.num_context)
            flow = np.where(batch["known"][:, None, None, None], flow, own)
        elif not batch["known"].all():
            flow = None
        scores = compare(
            predictor.system,
            predictor.params,
            batch[VIDEO],
            {name: p.video for name, p in predictions.items()},
            flow,
            num_context=settings.num_context,
        )
        if has_flow:
            errors = flow_errors(
                {name: p.aux["flow"] for name, p in predictions.items()},
                batch[FLOW],
                batch["known"],
                width=predictor.frame_size[1],
            )
            for name, values in errors.items():
                scores[name] |= values
        events = {
            name: events_of(
                batch, prediction.aux["collision_probability"], settings.stride
            )
            for name, prediction in predictions.items()
            if "collision_probability" in prediction.aux
        }
        if settings.ttt:
            name = f"{predictor.label} + TTT"
            gain = scores[name]["psnr"] - scores[predictor.label]["psnr"]
            kept = predictions[name].aux["ttt_kept"]
            # Where nothing was kept, the difference is only another rounding.
            scores[name]["ttt_gain"] = np.where(kept, gain.mean(1), 0.0)
            scores[name]["ttt_kept"] = kept
        return scores, events


def training_events(
    predictor: VideoPredictor,
    source: VideoSource,
    settings: Settings,
    journal: Journal,
    on_progress: Report,
) -> list[collision.Clip]:
    """Events of clips of the training split, for choosing the threshold."""
    what = "choosing a threshold"
    settings = dataclasses.replace(settings, max_videos=THRESHOLD_VIDEOS, ttt=None)
    clips, events = fixed_clips(source, settings), []

    def found(read):
        batch = read()
        context = batch[VIDEO][:, : settings.num_context]
        aux = predictor.predict(context, settings.num_future).aux
        probability = aux["collision_probability"]
        return _as_lists(events_of(batch, probability, settings.stride))

    for done, read in batches(source, clips, settings):
        on_progress(what, done, len(clips))
        lists = journal.result(f"{what} {done}", functools.partial(found, read))
        events += _from_lists(lists)
    on_progress(what, len(clips), len(clips))
    return events


def events_of(
    batch: dict[str, np.ndarray], probability: np.ndarray, stride: int
) -> list[collision.Clip]:
    """The annotated clips of a batch as events."""
    return [
        collision.clip_events(
            probability[row], batch[COLLISION][row], stride, radius=TOLERANCE
        )
        for row in np.flatnonzero(batch["known"] & batch[MASK])
    ]


class ReconstructionJudge:
    """Scores a VAE on the frames of a clip."""

    def __init__(self, stage: Stage):
        self.stage = stage

    def __call__(self, batch: Batch) -> tuple[Scores, Events]:
        """Scores [b, t] of its reconstructions."""
        stage = self.stage
        return compare_reconstruction(stage.system, stage.params, batch[VIDEO]), {}
