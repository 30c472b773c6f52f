"""A trained predictor as a library call: NumPy arrays in, NumPy arrays out."""

import functools
import inspect
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jax_vidpred import experiment
from jax_vidpred.data.schema import LABEL, STATE, STATE_FEATURES
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import ttt as test_time_training
from jax_vidpred.train.protocol import Prediction, Stage
from jax_vidpred.train.rngs import for_rows, for_step

_ADAPT_OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(
        test_time_training.adapt
    ).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)


class VideoPredictor:
    """Predicts how videos go on.

    Attributes:
      system, params: what was trained.
      config: its config, as plain dicts.
      label: name of the system for readers.
      frame_size: (height, width) that the system was trained with.
      frame_stride: frames of a video from one frame that it sees to the next.
      num_context, num_future: as while training evaluated it; others are possible.
    """

    def __init__(self, stage: Stage, config: Mapping[str, Any]):
        """Wraps a trained system.

        Raises:
          ValueError: the system does not predict.
        """
        self.config = config
        self.label = config["system"]["name"].replace("_", "-")
        if not hasattr(stage.system, "predict"):
            raise ValueError(
                f"the work directory holds a {self.label}, which predicts no future;"
                " give the --workdir of a temporal or joint phase"
            )
        data = config["data"]
        self.system = stage.system
        self.params = jax.device_put(dict(stage.params))
        self.frame_size = (data["height"], data["width"])
        self.frame_stride = data["clip_stride"]
        self.num_context = stage.system.num_context
        self.num_future = config["eval"]["clip_frames"] - self.num_context
        # Compiled once for each shape of the context and each choice of the rest.
        self._compiled = jax.jit(
            functools.partial(predict, stage.system),
            static_argnames=("num_future", "options"),
        )
        self._drawn = jax.jit(
            functools.partial(draw, stage.system),
            static_argnames=("num_future", "num_samples"),
        )

    @classmethod
    def load(cls, workdir: str | os.PathLike) -> "VideoPredictor":
        """The best parameters of a training run.

        Raises:
          ExperimentError, CheckpointError: no trained experiment there.
          ValueError: what was trained does not predict.
        """
        config = experiment.read_record(workdir)["config"]
        return cls(experiment.load(workdir), config)

    def predict(
        self,
        context: UInt8[np.ndarray, "*b t h w 3"] | Float[np.ndarray, "*b t h w 3"],
        num_future: int = 12,
        ttt: None | int | Mapping[str, Any] = None,
        *,
        seed: int = 0,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> Prediction:
        """Continues one video or a batch of videos.

        Args:
          context: the past, [t, h, w, 3] or [b, t, h, w, 3]: uint8, or float in [0, 1];
            other sizes than `frame_size` are scaled to it. Frames should be as far
            apart as in training: take every `frame_stride`-th frame of a CLEVRER video.
          num_future: frames to predict.
          ttt: test-time training on each video's context before it is continued: None
            or 0 for none, a number of steps, or arguments of `systems.ttt.adapt`.
          seed: of systems that draw one of many futures.
          labels: what steers a conditional system, `label_keys` of it -> [*b, n, ...]
            of the frames of the context, and of as many of those to predict as are
            known. Velocities are those of frames `frame_stride` apart, see `labels_at`.

        Returns:
          NumPy arrays, without the axis b if the context has none. With test-time
          training, `aux` says what it did: `ttt_loss_before` and `ttt_loss_after` on
          held-out frames of the context, and `ttt_kept`.

        Raises:
          ValueError: a context or number that cannot be used.
        """
        options = ttt_options(ttt)
        if options and not hasattr(self.system, "adaptable"):
            raise ValueError(f"ttt={ttt}: {self.label} names no part that can adapt")
        prediction = self._compiled(
            self.params,
            self._frames(context, num_future),
            for_step(seed, "predict", 0),
            num_future=int(num_future),
            options=options,
            labels=self._labels(labels, np.ndim(context)),
        )
        prediction = jax.device_get(prediction)
        if np.ndim(context) == 4:
            prediction = jax.tree.map(lambda leaf: leaf[0], prediction)
        return prediction

    def draw(
        self,
        context: UInt8[np.ndarray, "*b t h w 3"] | Float[np.ndarray, "*b t h w 3"],
        num_future: int = 12,
        num_samples: int = 8,
        *,
        seed: int = 0,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> Float[np.ndarray, "k *b t h w 3"]:
        """Several futures of one video or of a batch of videos, drawn in one batch.

        Args:
          num_samples: futures of each; the first ones are the same for any number.
          Others as for `predict`.

        Raises:
          ValueError: the system has one future only; otherwise as `predict`.
        """
        if not self.system.stochastic:
            raise ValueError(f"{self.label} predicts one future; use predict")
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}; wanted at least 1")
        futures = self._drawn(
            self.params,
            self._frames(context, num_future),
            for_step(seed, "predict", 0),
            num_future=int(num_future),
            num_samples=int(num_samples),
            labels=self._labels(labels, np.ndim(context)),
        )
        futures = jax.device_get(futures)
        return futures[:, 0] if np.ndim(context) == 4 else futures

    def labels_at(
        self, stride: int, labels: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Labels of frames `stride` apart, as `predict` wants them.

        A system takes the velocity of an object for how far it comes between two frames
        of its training, which are `frame_stride` apart.
        """
        if STATE not in labels or stride == self.frame_stride:
            return dict(labels)
        moves = np.array([name.startswith("v") for name in STATE_FEATURES])
        factor = np.where(moves, stride / self.frame_stride, 1).astype(np.float32)
        return {**labels, STATE: np.asarray(labels[STATE]) * factor}

    def _labels(self, labels, dimensions) -> dict[str, np.ndarray] | None:
        """Labels with the axis b, or None."""
        if labels is None:
            return None
        wanted = self.system.label_keys
        if set(labels) != set(wanted):
            raise ValueError(
                f"labels are {sorted(labels)}; {self.label} wants"
                f" {sorted(wanted) or 'none'}"
            )
        given = {key: np.asarray(array) for key, array in labels.items()}
        if LABEL in given and given[LABEL].shape[-3:-1] != self.frame_size:
            height, width = given[LABEL].shape[-3:-1]
            raise ValueError(
                f"labels[{LABEL!r}] of {height}x{width} pixels; wanted those of"
                f" {self.frame_size[0]}x{self.frame_size[1]}, as in training"
            )
        if dimensions == 5:
            return given
        return {key: array[None] for key, array in given.items()}

    def _frames(self, context, num_future) -> np.ndarray:
        """The context [b, t, h, w, 3] at the size that the system was trained with."""
        if num_future < 1:
            raise ValueError(f"num_future={num_future}; wanted at least 1 frame")
        context = np.asarray(context)
        frames = check_context(
            context if context.ndim == 5 else context[None], self.system.min_context
        )
        if frames.shape[2:4] != self.frame_size:
            frames = resize_area(frames, *self.frame_size)
        return frames


def predict(
    system: Any,
    params: Any,
    context: Array,
    rng: jax.Array,
    num_future: int,
    options: tuple[tuple[str, Any], ...] = (),
    labels: Mapping[str, Array] | None = None,
) -> Prediction:
    """`system.predict`, after test-time training where `options` ask for it."""
    context = to_float(context)
    if not options:
        steered = {} if labels is None else {"labels": labels}
        return system.predict(params, context, num_future, rng, **steered)
    adapted = test_time_training.adapt(system, params, context, **dict(options))
    prediction = test_time_training.predict_adapted(
        system, adapted.params, context, num_future, rng
    )
    report = {
        "ttt_loss_before": adapted.held_out_before,
        "ttt_loss_after": adapted.held_out_after,
        "ttt_kept": adapted.kept,
    }
    return prediction.replace(aux=prediction.aux | report)


def draw(
    system: Any,
    params: Any,
    context: Array,
    rng: jax.Array,
    num_future: int,
    num_samples: int,
    labels: Mapping[str, Array] | None = None,
) -> Float[Array, "k b t h w 3"]:
    """The videos of `predict` for `num_samples` keys.

    What does not depend on the key, as encoding the context, is done once.
    """

    def one(key):
        return predict(system, params, context, key, num_future, labels=labels).video

    return jax.vmap(one)(for_rows(rng, jnp.arange(num_samples)))


def ttt_options(ttt: None | int | Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Arguments of `systems.ttt.adapt` that can be hashed; () for none.

    Raises:
      ValueError: an unknown name or a bad number of steps.
    """
    options = dict(ttt) if isinstance(ttt, Mapping) else {"num_steps": int(ttt or 0)}
    for name in options:
        if name not in _ADAPT_OPTIONS:
            raise ValueError(
                f"ttt has {name!r}; wanted a number of steps, or names out of"
                f" {list(_ADAPT_OPTIONS)}"
            )
    if options.get("num_steps", -1) < 0:
        raise ValueError(
            f"ttt={ttt}; wanted num_steps, 0 or more (0 = no test-time training)"
        )
    return tuple(sorted(options.items())) if options["num_steps"] else ()


def check_context(context: np.ndarray, min_context: int) -> np.ndarray:
    """A context [b, t, h, w, 3] as uint8 or float32, or an error that says what it is.

    Raises:
      ValueError: another shape, too few frames, or values out of [0, 1].
    """
    if context.ndim != 5 or context.shape[-1] != 3 or 0 in context.shape:
        shape = list(context.shape)
        raise ValueError(
            f"context of shape {shape[1:] if shape[0] == 1 else shape}; wanted"
            " [t, h, w, 3] or [b, t, h, w, 3]"
        )
    if context.shape[1] < min_context:
        raise ValueError(
            f"context of {context.shape[1]} frame; wanted at least {min_context}: one"
            " alone shows no motion"
        )
    if context.dtype == np.uint8:
        return context
    if not np.issubdtype(context.dtype, np.floating):
        raise ValueError(
            f"context is {context.dtype}; wanted uint8 in 0..255 or float in [0, 1]"
        )
    context = context.astype(np.float32)
    low, high = context.min(), context.max()
    if not (low >= 0 and high <= 1):  # also where they are NaN
        raise ValueError(
            f"context has values from {low:g} to {high:g}; wanted uint8 in 0..255 or"
            " float in [0, 1]"
        )
    return context


def resize_area(
    video: UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"],
    height: int,
    width: int,
) -> Float[np.ndarray, "b t h2 w2 3"]:
    """Frames of another size by averaging areas, as the training data were made."""
    if video.dtype == np.uint8:
        video = video / np.float32(255)
    rows = _area_weights(video.shape[2], height)
    columns = _area_weights(video.shape[3], width)
    # Two matrix products: einsum would choose one with four nested loops.
    halfway = np.einsum("ih,bthwc->btiwc", rows, video, optimize=True)
    return np.einsum("jw,btiwc->btijc", columns, halfway, optimize=True)


def _area_weights(size: int, new_size: int) -> np.ndarray:
    """[new_size, size] share of each old pixel in each new one."""
    edges = np.arange(new_size + 1) * (size / new_size)
    old = np.arange(size)
    upper = np.minimum(edges[1:, None], old + 1)
    lower = np.maximum(edges[:-1, None], old)
    overlap = np.maximum(upper - lower, 0)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
