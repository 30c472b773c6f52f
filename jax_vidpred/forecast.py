"""One video and its predicted future: made, kept in files, turned into a report."""

import dataclasses
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jax_vidpred.annotated import (
    Setting,
    edited_labels,
    known_labels,
    last_flow,
    read_annotation,
    true_collisions,
)
from jax_vidpred.data.schema import (
    FRAMES_PER_SECOND,
    DataError,
)
from jax_vidpred.data.video_io import read_video, write_gif, write_mp4, write_whole
from jax_vidpred.evaluation.scores import score_beside_baselines
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.panels import VideoReport, panel_video
from jax_vidpred.report.table import BEST_OF
from jax_vidpred.train.protocol import Prediction

PLAYED_HEIGHT = 256  # pixels; smaller frames are enlarged in the mp4, for the eye
GIF_FRAMES_PER_SECOND = 8  # slow motion
STEERED = ", steered"  # ends the name of a prediction by edited labels


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A video and how it was predicted to go on.

    Attributes:
      name: of the video, and of the files.
      made_from: what decides about the result; a later run with the same uses it again.
      context: [c, h, w, 3].
      truth: [n, h, w, 3], the true future as far as the file knows it, n <= num_future.
      predictions: name of a system -> [num_future, h, w, 3]; the first is the main one.
      aux: what the main system says besides, by name; see its `predict`.
      scores: name of a system or baseline -> score -> number, or a list with one per
        frame of `truth`; empty where there is no truth.
      collisions_true: frames of the clip, 0 = the first; None where they are not known.
    """

    name: str
    made_from: Mapping[str, Any]
    context: UInt8[np.ndarray, "c h w 3"]
    truth: UInt8[np.ndarray, "n h w 3"]
    predictions: Mapping[str, UInt8[np.ndarray, "t h w 3"]]
    aux: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, Any]]
    collisions_true: list[int] | None

    def save(self, folder: pathlib.Path) -> None:
        """Writes NAME.mp4, NAME.gif and, when these are whole, NAME.npz.

        Raises:
          DataError: the folder cannot be written.
        """
        # What an earlier run left of these files is not whole from here on.
        (folder / f"{self.name}.npz").unlink(missing_ok=True)
        prediction = next(iter(self.predictions.values()))
        seen = np.concatenate([self.context, prediction])
        factor = max(1, PLAYED_HEIGHT // seen.shape[1])
        write_mp4(
            folder / f"{self.name}.mp4",
            seen.repeat(factor, 1).repeat(factor, 2),
            fps=FRAMES_PER_SECOND / self.made_from["stride"],
        )
        write_gif(
            folder / f"{self.name}.gif",
            panel_video(self.report(), height=160),
            fps=GIF_FRAMES_PER_SECOND,
        )
        told = {
            "made_from": self.made_from,
            "systems": list(self.predictions),
            "scores": self.scores,
            "collisions_true": self.collisions_true,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            context=self.context,
            truth=self.truth,
            **dict(
                zip(
                    _prediction_keys(self.predictions),
                    self.predictions.values(),
                    strict=True,
                )
            ),
            **{f"aux_{key}": value for key, value in self.aux.items()},
            about=np.array(json.dumps(told)),
        )
        write_whole(folder / f"{self.name}.npz", buffer.getvalue())

    @classmethod
    def load(
        cls, folder: pathlib.Path, name: str, made_from: Mapping[str, Any]
    ) -> "Forecast | None":
        """What `save` wrote; None if it is not there, not whole, or made otherwise."""
        if not all((folder / f"{name}.{kind}").exists() for kind in ("mp4", "gif")):
            return None
        try:
            with np.load(folder / f"{name}.npz") as stored:
                arrays = {key: stored[key] for key in stored.files}
            told = json.loads(str(arrays.pop("about")))
            if told["made_from"] != json.loads(json.dumps(made_from)):
                return None
            return cls(
                name=name,
                made_from=made_from,
                context=arrays.pop("context"),
                truth=arrays.pop("truth"),
                predictions={
                    system: arrays.pop(key)
                    for system, key in zip(
                        told["systems"],
                        _prediction_keys(told["systems"]),
                        strict=True,
                    )
                },
                aux={key.removeprefix("aux_"): value for key, value in arrays.items()},
                scores=told["scores"],
                collisions_true=told["collisions_true"],
            )
        except (OSError, ValueError, LookupError, zipfile.BadZipFile, EOFError):
            return None

    def report(self) -> VideoReport:
        """For the page."""
        num_future = len(next(iter(self.predictions.values())))
        known = len(self.truth)
        missing = [float("nan")] * (num_future - known)
        return VideoReport(
            name=self.name,
            context=self.context,
            predictions=self.predictions,
            truth=self.truth if known == num_future else None,
            flow=self.aux.get("flow"),
            visible=self.aux.get("visible"),
            psnr={n: row["psnr"] + missing for n, row in self.scores.items()},
            collision_probability=self.aux.get("collision_probability"),
            collisions_true=self.collisions_true,
            changed_from=self._changed_from(),
            num_samples=self.made_from.get("num_samples", 1),
            note=self._note(num_future),
        )

    def _changed_from(self) -> str:
        main, *others = self.predictions
        return others[0] if main.endswith(STEERED) else ""

    def _note(self, num_future: int) -> str:
        notes = []
        if self._changed_from():
            notes.append(
                "Steered: the objects were told to do something else than they did, so"
                " the truth is no measure of it."
            )
        if len(self.truth) < num_future:
            notes.append(
                f"The file knows {len(self.truth) or 'none'} of the {num_future}"
                " predicted frames."
            )
        if "ttt_kept" in self.aux:
            note = "Test-time training found nothing better than the model as it was"
            if self.aux["ttt_kept"]:
                before, after = (
                    float(self.aux[f"ttt_loss_{when}"]) for when in ("before", "after")
                )
                note = "Test-time training brought the error on held-out context frames"
                note += f" from {before:.2g} to {after:.2g}"
                means = [np.mean(row["psnr"]) for row in self.scores.values()]
                if means:
                    gain = means[0] - means[1]
                    note += f"; the prediction changed by {gain:+.2f} dB"
            notes.append(note + ".")
        return " ".join(notes)


def make_forecast(
    path: pathlib.Path,
    name: str,
    predictor: VideoPredictor,
    setting: Setting,
    made_from: Mapping[str, Any],
    labels: pathlib.Path | None = None,
) -> Forecast:
    """Reads a video and predicts how it goes on after the context.

    A system that is steered by object states gets those of the context where the video
    has an annotation.

    Args:
      path: of the video.
      name: of the video, and of the files.
      predictor: makes the prediction.
      setting: what is predicted, from what.
      made_from: kept with it.
      labels: file of `data.edits`: the main prediction is steered by it then, and the
        one that is not is beside it.

    Raises:
      DataError: it cannot be read, or is shorter than the context.
      ValueError: several samples of a system that has one future.
    """
    frames = _read(path, predictor.frame_size, setting)
    context, truth = np.split(frames, [setting.num_context])
    annotation = read_annotation(path)
    seen = known_labels(predictor, annotation, setting, setting.num_context)
    if setting.num_samples > 1:
        futures = predictor.draw(
            context, setting.num_future, setting.num_samples, labels=seen
        )
        names = (predictor.label, *_later_futures(setting.num_samples))
        made = {n: Prediction(video) for n, video in zip(names, futures, strict=True)}
    else:
        plain = predictor.predict(context, setting.num_future, labels=seen)
        made = {predictor.label: plain}
    if labels:
        wanted = edited_labels(predictor, labels, annotation, setting)
        steered = predictor.predict(context, setting.num_future, labels=wanted)
        made = {f"{predictor.label}{STEERED}": steered, **made}
    if setting.ttt:
        adapted = predictor.predict(context, setting.num_future, setting.ttt)
        made = {f"{predictor.label} + TTT": adapted, **made}
    scores = {}
    if len(truth):
        compared = score_beside_baselines(
            predictor.system,
            predictor.params,
            frames[None],
            {n: p.video[None, : len(truth)] for n, p in made.items()},
            last_flow(annotation, made[predictor.label].aux, setting),
            num_context=setting.num_context,
        )
        scores = {
            system: {key: np.asarray(values)[0].tolist() for key, values in row.items()}
            for system, row in compared.items()
        }
    if scores and setting.num_samples > 1:
        scores = _best_future(scores, predictor.label, setting.num_samples)
    return Forecast(
        name=name,
        made_from=made_from,
        context=context,
        truth=truth,
        predictions={n: _as_uint8(p.video) for n, p in made.items()},
        aux=next(iter(made.values())).aux,
        scores=scores,
        collisions_true=true_collisions(annotation, setting),
    )


def _later_futures(num_samples):
    """Names of the futures that are drawn after the first."""
    return [f"future {number}" for number in range(2, num_samples + 1)]


def _best_future(scores, label, num_samples):
    """Scores with those of the best future by PSNR instead of all later ones."""
    futures = [label, *_later_futures(num_samples)]
    best = max(futures, key=lambda name: np.mean(scores[name]["psnr"]))
    beside = {name: row for name, row in scores.items() if name not in futures}
    return {
        label: scores[label],
        f"{BEST_OF}{num_samples}": scores[best],
        **beside,
    }


def _read(path, size, setting):
    wanted = setting.num_context + setting.num_future
    last = setting.start + (wanted - 1) * setting.stride
    video = read_video(path, size=size, max_frames=last + 1)
    frames = video[setting.start :: setting.stride]
    if len(frames) < setting.num_context:
        least = setting.start + (setting.num_context - 1) * setting.stride + 1
        raise DataError(
            f"{path}: {len(video)} frames, but --num_context {setting.num_context} with"
            f" --stride {setting.stride} from --start {setting.start} wants at least"
            f" {least}; lower one of them or leave the video out"
        )
    return frames


def _as_uint8(video):
    return np.rint(np.clip(video, 0, 1) * 255).astype(np.uint8)


def _prediction_keys(systems):
    """Names in the npz file: of the main prediction, then of what stands beside it."""
    main, *others = systems
    if others == _later_futures(len(systems)):
        beside = range(2, len(systems) + 1)
    else:
        beside = ["unsteered" if main.endswith(STEERED) else "without_ttt"]
    return ["prediction", *(f"prediction_{one}" for one in beside)]


def source_stamp(path: pathlib.Path) -> dict[str, Any]:
    """What changes when a file changes."""
    stat = os.stat(path)
    return {
        "source": str(path.absolute()),
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
    }
