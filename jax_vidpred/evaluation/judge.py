"""Predicts the clips of a batch and scores them, beside the baselines."""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.data.schema import FLOW, MASK, START, VIDEO, VIDEO_ID
from jax_vidpred.evaluation import objects, perceptual, samples
from jax_vidpred.evaluation.clips import EVERYTHING, Batch
from jax_vidpred.evaluation.networks import Networks
from jax_vidpred.evaluation.scores import (
    baseline_videos,
    flow_errors,
    headline_scores,
    in_order,
    last_context_flow,
    resize_frames,
    score_frames,
    score_reconstruction,
)
from jax_vidpred.evaluation.settings import Settings
from jax_vidpred.ops.flow import resize_flow
from jax_vidpred.ops.image import to_float
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.table import CONSTANT_VELOCITY, COPY_LAST
from jax_vidpred.train.protocol import Prediction, Stage

AS_IT_IS = "as it is"  # the prediction that an error budget begins with
Part = dict[str, Any]  # what is kept of a batch, as JSON can hold it
Rows = dict[str, dict[str, np.ndarray]]  # system -> metric -> [b] or [b, t]


class Judge:
    """Predicts and scores batches.

    Args:
      predictor: the system under test.
      settings: what is asked of it.
      networks: frozen ones, for the metrics that need them.
    """

    def __init__(
        self, predictor: VideoPredictor, settings: Settings, networks: Networks
    ):
        self.predictor, self.settings, self.networks = predictor, settings, networks
        self._warm: set[str] = set()
        if hasattr(predictor.system, "told_keys"):
            self._predict_told = jax.jit(
                predictor.system.predict_told, static_argnames="num_context"
            )

    def __call__(self, batch: Batch) -> Part:
        """What is known of the clips of a batch; padding is left out.

        Returns:
          `frames` and `annotations`: SHA-256 of each clip's true frames, and of what
          is known besides, if it is `known`; `scores`: system -> metric ->
          [n] or [n, t]; `budget`: the same for what is told the truth; `events`: see
          `objects`; `features`: of networks that look at whole sets of videos;
          `seconds`: that each way of predicting takes for a clip.
        """
        settings, label = self.settings, self.predictor.label
        num_context = settings.num_context
        predictions, seconds = self._predictions(batch)
        true_flow, first = batch[FLOW], num_context - 1  # step to a predicted frame
        flow = last_context_flow(true_flow, num_context)
        plain = predictions[label]
        has_flow = "flow" in plain.aux
        if has_flow:
            own = last_context_flow(plain.aux["flow"], num_context)
            flow = np.where(batch["known"][:, None, None, None], flow, own)
        beside = baseline_videos(
            self.predictor.system,
            self.predictor.params,
            batch[VIDEO],
            flow,
            size=self.predictor.frame_size,
            num_context=num_context,
        )
        videos = {name: one.video for name, one in predictions.items()}
        videos = in_order({**videos, **beside}, predictions)
        scores: Rows = score_frames(
            videos, batch[VIDEO], num_context=num_context, ssim=settings.ssim
        )
        if has_flow:
            errors = flow_errors(
                {n: one.aux["flow"][:, first:] for n, one in predictions.items()},
                true_flow[:, first:],
                batch["known"],
                width=settings.width,
            )
            for name, values in errors.items():
                scores[name] |= values
        self._add_gains(scores, predictions)
        videos = {name: np.asarray(video) for name, video in videos.items()}
        features = perceptual.add_scores(
            scores, videos, batch[VIDEO], num_context, self.networks
        )
        moved = {name: one.aux for name, one in predictions.items()}
        if has_flow:
            moved[COPY_LAST] = _no_motion(plain.aux)
        else:  # nor has constant velocity, where it is not known
            for rows in (scores, features):
                _forget(rows.get(CONSTANT_VELOCITY, {}), ~batch["known"])
        events = objects.add_scores(scores, videos, moved, batch, settings)
        if self.predictor.system.stochastic:
            truth = to_float(batch[VIDEO])
            scores[label] |= samples.scores(self._draws(batch), truth, num_context)
        kept = np.flatnonzero(batch[MASK])
        return {
            **_seen(batch, kept),
            "scores": _kept(scores, kept),
            "budget": _kept(self._budget(batch, scores[label]), kept),
            "events": events,
            "features": _kept(features, kept),
            "seconds": seconds,
        }

    def events(self, batch: Batch) -> objects.Events:
        """What is said about collisions in a batch, and nothing else."""
        settings, label = self.settings, self.predictor.label
        made = self._predict(batch)
        return objects.events({label: made.video}, {label: made.aux}, batch, settings)

    def _predictions(
        self, batch: Batch
    ) -> tuple[dict[str, Prediction], dict[str, float]]:
        """The prediction, one for each way of test-time training, and their cost."""
        label, ways = self.predictor.label, self.settings.ttt
        predictions, seconds = {}, {}
        for name, ttt in {label: None, **ttt_labels(label, ways)}.items():
            if len(ways) > 1 and name not in self._warm:
                self._predict(batch, ttt)  # compiles: not what the curve is about
                self._warm.add(name)
            begun = time.perf_counter()
            predictions[name] = self._predict(batch, ttt)
            elapsed = time.perf_counter() - begun
            seconds[name] = elapsed / len(batch[MASK])
        return predictions, seconds

    def _predict(self, batch, ttt=None) -> Prediction:
        settings = self.settings

        def predict(labels):
            return self.predictor.predict(
                batch[VIDEO][:, : settings.num_context],
                settings.num_future,
                ttt,
                seed=settings.seed,
                labels=labels,
            )

        return _at_size_of(batch, self._steered(batch, predict))

    def _steered(self, batch: Batch, make: Callable[..., Any], axis: int = 0) -> Any:
        """What `make` gives with the labels of clips that have them, without of others.

        Labels are those of the context, never of the future. `axis` is that of clips.
        """
        keys = self.predictor.system.label_keys
        labelled = batch["labelled"]
        if not keys or not labelled[batch[MASK]].any():
            return make(None)
        labels = {key: batch[key][:, : self.settings.num_context] for key in keys}
        made = make(self.predictor.labels_at(self.settings.stride, labels))
        if labelled[batch[MASK]].all():
            return made

        def choose(told, untold):
            others = [n for n in range(np.ndim(told)) if n != axis]
            return np.where(np.expand_dims(labelled, others), told, untold)

        return jax.tree.map(choose, made, make(None))

    def _draws(self, batch: Batch) -> list[np.ndarray]:
        settings = self.settings
        # Each batch draws its own: no two clips share their noise.
        own = (settings.seed, *batch[VIDEO_ID].tolist(), *batch[START].tolist())
        seed = np.random.SeedSequence([abs(number) for number in own])
        seed = int(seed.generate_state(1)[0] >> 1)

        def draw(labels):
            return self.predictor.draw(
                batch[VIDEO][:, : settings.num_context],
                settings.num_future,
                settings.num_samples,
                seed=seed,
                labels=labels,
            )

        futures = self._steered(batch, draw, axis=1)
        return [_at_size_of(batch, Prediction(video)).video for video in futures]

    def _add_gains(self, scores: Rows, predictions: Mapping[str, Prediction]) -> None:
        plain = scores[self.predictor.label]["psnr"]
        for name in ttt_labels(self.predictor.label, self.settings.ttt):
            gain = np.asarray(scores[name]["psnr"] - plain).mean(1)
            kept = predictions[name].aux["ttt_kept"]
            # Where nothing was kept, the difference is only another rounding.
            scores[name]["ttt_gain"] = np.where(kept, gain, 0.0)
            scores[name]["ttt_kept"] = kept

    def _budget(self, batch: Batch, plain: Mapping[str, np.ndarray]) -> Rows:
        """Scores of predictions that are told one part of the truth; NaN where unknown.

        Empty where the system cannot be told, or lives on another grid than the truth.
        """
        settings = self.settings
        size = (settings.height, settings.width)
        keys = getattr(self.predictor.system, "told_keys", ())
        there = bool(keys) and all(key in batch for key in keys)
        if not there or size != self.predictor.frame_size:
            return {}
        truth = {key: jnp.asarray(batch[key]) for key in keys}
        cases = self._predict_told(
            self.predictor.params,
            to_float(jnp.asarray(batch[VIDEO])),
            truth,
            num_context=settings.num_context,
        )
        context, future = np.split(to_float(batch[VIDEO]), [settings.num_context], 1)
        scores = {AS_IT_IS: {key: plain[key] for key in ("psnr", "psnr_moving")}}
        for name, video in cases.items():
            row = headline_scores(video, future, context[:, -1])
            scores[name] = {key: row[key] for key in scores[AS_IT_IS]}
        steers = set(keys) == set(self.predictor.system.label_keys)
        known = batch["labelled" if steers else "known"]
        for row in scores.values():
            _forget(row, ~known)
        return scores


class ReconstructionJudge:
    """Scores a VAE on the frames of a clip."""

    def __init__(self, stage: Stage, settings: Settings, networks: Networks):
        self.stage, self.settings, self.networks = stage, settings, networks

    def __call__(self, batch: Batch) -> Part:
        """As of `Judge`, without what only predictions have."""
        scores = score_reconstruction(
            self.stage.system,
            self.stage.params,
            batch[VIDEO],
            self.networks.distances,
            ssim=self.settings.ssim,
        )
        kept = np.flatnonzero(batch[MASK])
        return {
            **_seen(batch, kept),
            "scores": _kept(scores, kept),
        }


def ttt_labels(
    label: str, ways: tuple[Mapping[str, Any], ...]
) -> dict[str, Mapping[str, Any]]:
    """Name in tables -> arguments of `systems.ttt.adapt`."""
    if len(ways) == 1:
        return {f"{label} + TTT": ways[0]}
    return {f"{label} + TTT {way['num_steps']}": way for way in ways}


def _at_size_of(batch: Batch, prediction: Prediction) -> Prediction:
    """A prediction at the size, and on the grid, of the truth."""
    height, width = batch[VIDEO].shape[2:4]
    grid = batch[FLOW].shape[2:4]
    aux = dict(prediction.aux)
    if "flow" in aux and aux["flow"].shape[2:4] != grid:
        seen = aux["visible"]
        aux["flow"] = np.asarray(resize_flow(jnp.asarray(aux["flow"]), *grid))
        aux["visible"] = np.asarray(
            jax.image.resize(seen, (*seen.shape[:2], *grid, 1), "bilinear")
        )
    if prediction.video.shape[2:4] == (height, width):
        return prediction.replace(aux=aux)
    video = resize_frames(jnp.asarray(prediction.video), height, width)
    return prediction.replace(video=np.asarray(video), aux=aux)


def _forget(row: dict[str, np.ndarray], unknown: np.ndarray) -> None:
    """Makes scores NaN in the clips of which the truth is not known."""
    for key, value in row.items():
        mask = unknown.reshape(-1, *[1] * (np.ndim(value) - 1))
        row[key] = np.where(mask, np.nan, value)


def _no_motion(aux):
    """What copying the last frame says: nothing moves, all stays visible."""
    return {
        "flow": np.zeros_like(aux["flow"]),
        "visible": np.ones_like(aux["visible"]),
    }


def _kept(rows: Rows, kept: np.ndarray) -> dict[str, dict[str, list]]:
    return {
        name: {
            key: np.asarray(values, np.float64)[kept].tolist()
            for key, values in columns.items()
        }
        for name, columns in rows.items()
    }


def _seen(batch: Batch, kept: np.ndarray) -> dict[str, list]:
    """What the clips are, to the bit."""
    told = [key for key in EVERYTHING if key != VIDEO]
    return {
        "frames": [_sha256(batch[VIDEO][row]) for row in kept],
        "annotations": [_sha256(*(batch[key][row] for key in told)) for row in kept],
        "known": batch["known"][kept].tolist(),
        "labelled": batch["labelled"][kept].tolist(),
    }


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
