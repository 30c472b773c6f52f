"""The conditional VAE: futures that a label steers and a draw varies.

Loss: mean squared error + weight * annealed KL, over a clip that is rolled out from its
first frame with teacher forcing.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_vidpred.data import schema
from jax_vidpred.losses import reconstruction as rec
from jax_vidpred.losses.kl import kl_divergence
from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.models.cvae import CVAE
from jax_vidpred.ops import schedules, state_maps
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import baselines, samples
from jax_vidpred.systems.teacher_forcing import TeacherForcing, draw_coins
from jax_vidpred.train import rngs
from jax_vidpred.train.optim import make_optimizer
from jax_vidpred.train.protocol import Batch, Prediction, Predictor, Scalars
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step

LABEL_KEYS = {
    "states": (schema.STATE, schema.PRESENT),
    "images": (schema.LABEL,),
    "none": (),
}
# Of each kind, with the last one, which is 1 where a label is given at all.
_CHANNELS = {"states": len(state_maps.CHANNELS) + 1, "images": 4, "none": 1}


class CVAESystem(Predictor):
    """The conditional video predictor.

    Args:
      model: of `models.cvae.CVAE`.
      losses: `reconstruction` ("mse"), the weight `kl` (beta), and `annealing`, the
        arguments of `ops.schedules.kl_weight`. Both terms are means over all elements.
      optim: of `train.optim.make_optimizer`.
      num_context: frames that evaluation continues; the model itself starts from the
        last of them.
      teacher_forcing: of `systems.teacher_forcing.TeacherForcing`.
      labels: "states" (maps of the objects' positions), "images" (a picture for each
        frame) or "none".
      label_dropout: share of training clips whose label is withheld, so that the model
        also predicts without one.
      frame_stride: frames of the video from one frame of a clip to the next; says how
        far objects go at constant velocity.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.

    Attributes:
      label_keys: of a batch, what `predict` takes as labels.
      told_keys: the same, what `predict_told` is told of.
    """

    stochastic = True
    min_context = 1

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        num_context: int,
        teacher_forcing: Mapping[str, Any],
        labels: str = "states",
        label_dropout: float = 0.1,
        frame_stride: int = 2,
        ema_decay: float | None = None,
        accumulate: int = 1,
    ):
        if labels not in LABEL_KEYS:
            raise ValueError(
                f"labels {labels!r} are unknown; use one of {', '.join(LABEL_KEYS)}"
            )
        self.labels = labels
        self.label_keys = self.told_keys = LABEL_KEYS[labels]
        self.required_keys = (schema.VIDEO, *self.label_keys)
        self.net = CVAE(**model)
        if labels == "images":
            self.net = self.net.copy(label_stride=self.net.stride)
        self.loss = CVAELoss(**losses)
        self.optimizer = make_optimizer(**optim)
        self.num_context = num_context
        self.teacher_forcing = TeacherForcing(**teacher_forcing)
        self.label_dropout = label_dropout
        self.seconds_per_frame = schema.FRAME_SECONDS * frame_stride
        self.ema_decay, self.accumulate = ema_decay, accumulate

    # --- training ---------------------------------------------------------------

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        frames = jnp.zeros((1, 2, *batch[schema.VIDEO].shape[2:]))
        variables = self.net.init(
            rng,
            frames,
            self._no_label(frames, 1),
            jnp.ones((1, 1), bool),
            rngs.for_rows(rng, jnp.arange(1)),
        )
        return TrainState.create(
            params=variables["params"],
            optimizer=self.optimizer,
            ema=self.ema_decay is not None,
            extra=self.teacher_forcing.initial(),
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def loss_fn(params, batch, rng):
            return self._loss(params, batch, rng, state)

        return gradient_step(
            loss_fn,
            self.optimizer,
            state,
            batch,
            rng,
            accumulate=self.accumulate,
            ema_decay=self.ema_decay,
        )

    def _loss(self, params, batch, rng, state):
        video, rows = to_float(batch[schema.VIDEO]), batch[schema.ROW]
        num_steps = video.shape[1] - 1
        ratio = self.teacher_forcing.ratio(state)
        coins = draw_coins(rngs.fold_in(rng, "coins"), rows, num_steps, ratio)
        rollout = self.net.apply(
            {"params": params},
            video,
            self._training_labels(video, batch, rngs.fold_in(rng, "labels")),
            coins.at[:, 0].set(True),
            rngs.for_rows(rngs.fold_in(rng, "draws"), rows),
        )
        total, scalars = self.loss(rollout, video[:, 1:], state.step)
        return total, scalars | {"teacher_forcing_ratio": ratio}

    def _training_labels(self, video, batch, rng):
        """The true labels of all frames but the first, withheld from some clips."""
        if self.labels == "none":
            return self._no_label(video, video.shape[1] - 1)
        given = draw_coins(rng, batch[schema.ROW], 1, 1.0 - self.label_dropout)
        maps = self._maps(batch, video)
        return maps * given.reshape(-1, *[1] * (maps.ndim - 1))

    def after_evaluation(
        self, state: TrainState, summary: dict[str, float]
    ) -> TrainState:
        return self.teacher_forcing.after_evaluation(state, summary)

    # --- labels -----------------------------------------------------------------

    def _grid(self, video):
        """Height and width of the labels that the model is given."""
        side = self.net.stride // self.net.label_stride
        return video.shape[2] // side, video.shape[3] // side

    def _no_label(self, video, num_frames):
        grid = self._grid(video)
        return jnp.zeros((len(video), num_frames, *grid, _CHANNELS[self.labels]))

    def _maps(
        self, labels: Mapping[str, Array], video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b k gh gw d"]:
        """What the model is given for all labelled frames but the first."""
        if self.labels == "images":
            maps = to_float(labels[schema.LABEL])[:, 1:]
        else:
            state, present = labels[schema.STATE], labels[schema.PRESENT]
            maps = state_maps.render_states(state, present, *self._grid(video))
        return jnp.concatenate([maps, jnp.ones_like(maps[..., :1])], -1)

    def _future_labels(self, labels, context, num_future):
        """As `_maps` of the frames to predict, from what is known of context and them.

        States are continued at constant velocity; no picture is made up.
        """
        if labels is None:
            return self._no_label(context, num_future)
        if set(labels) != set(self.label_keys):
            raise ValueError(
                f"labels are {sorted(labels)}, this system wants"
                f" {sorted(self.label_keys)}, or None"
            )
        length, start = context.shape[1], context.shape[1] - 1
        for key, known in labels.items():
            if known.shape[1] < length:
                raise ValueError(
                    f"labels[{key!r}] has {known.shape[1]} frames; wanted those of the"
                    f" {length} of the context at least"
                )
        end = length + num_future
        if self.labels == "states":
            states = state_maps.extend_constant_velocity(
                labels[schema.STATE],
                labels[schema.PRESENT],
                end,
                self.seconds_per_frame,
            )
            labels = dict(zip(self.label_keys, states, strict=True))
        labels = {key: known[:, start:end] for key, known in labels.items()}
        maps = self._maps(labels, context)
        missing = self._no_label(context, num_future - maps.shape[1])
        return jnp.concatenate([maps, missing], 1)

    # --- evaluation and prediction ----------------------------------------------

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        video = to_float(batch[schema.VIDEO])
        context, future = jnp.split(video, [self.num_context], 1)

        def predict(labels):
            params = state.prediction_params
            return self.predict(params, context, future.shape[1], rng, labels).video

        seen, told = self._labels_of(batch)
        metrics = baselines.psnr_beside_copy_last(predict(seen), context, future)
        if self.label_keys:
            metrics["psnr_told"] = frame_metrics.psnr(predict(told), future).mean(1)
        return metrics

    def _labels_of(self, batch):
        """Labels of the context alone, and of the future too; None where none exist."""
        if not self.label_keys:
            return None, None
        told = {key: batch[key] for key in self.label_keys}
        seen = {key: labels[:, : self.num_context] for key, labels in told.items()}
        return seen, told

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        def shown(labels):
            return samples.continuation(
                self, state, batch, rng, num_context=self.num_context, labels=labels
            )

        seen, told = self._labels_of(batch)
        videos = {"continuation": shown(seen)}
        return videos | {"told": shown(told)} if self.label_keys else videos

    def predict(
        self,
        params: Any,
        context: Float[Array, "b t h w 3"],
        num_future: int,
        rng: jax.Array,
        labels: Mapping[str, Array] | None = None,
    ) -> Prediction:
        """Continues the last frame of the context; each `rng` gives another future.

        Args:
          params: as trained.
          context: frames in [0, 1].
          num_future: frames to predict.
          rng: each video draws by its own key, and the first frames are the same
            however many follow.
          labels: arrays of a batch by `label_keys`, of the frames of the context or of
            the first of those that follow too. States that are not given go on at
            constant velocity; frames without a picture are predicted without a label.
            None: all of them are.

        Raises:
          ValueError: other keys, or labels of fewer frames than the context has.
        """
        video = self.net.apply(
            {"params": params},
            context[:, -1],
            self._future_labels(labels, context, num_future),
            rngs.for_rows(rng, jnp.arange(len(context))),
            method="generate",
        )
        return Prediction(video)

    def predict_told(
        self,
        params: Any,
        video: Float[Array, "b n h w 3"],
        truth: Mapping[str, Array],
        num_context: int,
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        """Predictions that are told the labels of the future, and no label at all.

        Args:
          params: as for `predict`.
          video: context and true future.
          truth: its labels, of all frames.
          num_context: frames at the start that are the context.

        Returns:
          name of what was told -> future frames, drawn alike.
        """
        context, num_future = video[:, :num_context], video.shape[1] - num_context
        cases = {"true labels": truth, "no label": None}
        rng = jax.random.key(0)
        return {
            name: self.predict(params, context, num_future, rng, labels).video
            for name, labels in cases.items()
        }


class CVAELoss:
    """The negative evidence lower bound, up to constants and the weight of its terms.

    For a clip that is rolled out from its first frame (Sohn et al. 2015, eq. 5, with a
    prior that does not see the condition).
    """

    def __init__(self, *, reconstruction: str, kl: float, annealing: Mapping[str, Any]):
        distances = {"mse": rec.mse, "l1": rec.l1}
        if reconstruction not in distances:
            raise ValueError(
                f"losses.reconstruction={reconstruction!r} is unknown; use mse or l1"
            )
        self.name, self.distance = reconstruction, distances[reconstruction]
        self.weight, self.annealing = kl, dict(annealing)

    def __call__(
        self, rollout: Any, future: Float[Array, "b k h w 3"], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Scalars]:
        """Loss and its named terms, for a `models.cvae.Rollout` and the true frames."""
        beta = schedules.kl_weight(step, **self.annealing)
        distance = self.distance(rollout.frames, future).mean()
        divergence = kl_divergence(rollout.mean, rollout.logvar).mean()
        total = distance + beta * self.weight * divergence
        return total, {self.name: distance, "kl": divergence, "kl_factor": beta}
