"""RIVER's refinement: what an autoencoder loses of a frame, from the frame before it.

A small net (Davtyan et al. 2023) is trained to make a true frame of the decoded one and
the true frame before. A predictor's frames are refined one after the other, each on the
refined one before.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.data import schema
from jax_vidpred.losses import reconstruction
from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.models.refine import Refiner
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import samples
from jax_vidpred.systems.perceptual import Perceptual, chosen_perceptual
from jax_vidpred.train.optim import make_optimizer
from jax_vidpred.train.protocol import (
    Batch,
    Prediction,
    Predictor,
    Scalars,
    Stage,
    System,
)
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step

_PAIR = ("previous", "frame", "target")
Pairs = tuple[
    Float[Array, "b k h w 3"], Float[Array, "b k h w 3"], Float[Array, "b k h w 3"]
]


def refine_system(*, stages: Mapping[str, Stage], **options: Any) -> System:
    """`RefinedPredictor` on a stage "predictor", `RefineSystem` on a first stage."""
    made = RefinedPredictor if "predictor" in stages else RefineSystem
    return made(stages=stages, **options)


class RefineSystem(System):
    """Trains the refinement of frames that a frozen first stage encoded and decoded.

    Args:
      model: of `models.refine.Refiner`.
      losses: weights `l2`, `l1`, `perceptual`.
      optim: of `train.optim.make_optimizer`.
      stages: one, of any name: a first stage with `encode` and `decode`.
      degraded: what is refined while training; "decoded" is all that a first stage
        alone has to give.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.
      perceptual: as of `systems.vae.VAESystem`.
    """

    required_keys = (schema.VIDEO,)
    min_frames = 2  # of a training clip

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        stages: Mapping[str, Stage],
        degraded: str = "decoded",
        ema_decay: float | None = None,
        accumulate: int = 1,
        perceptual: Perceptual | str = "",
    ):
        self._build_on(stages, degraded)
        self.net = Refiner(**model)
        self.weights = _weights(**losses)
        self.optimizer = make_optimizer(**optim)
        self.ema_decay, self.accumulate = ema_decay, accumulate
        self.perceptual = chosen_perceptual(perceptual, self.weights["perceptual"])

    def _build_on(self, stages: Mapping[str, Stage], degraded: str) -> None:
        if degraded != "decoded":
            raise ValueError(
                f"degraded={degraded!r}; without a stage `predictor` it must be"
                " 'decoded'"
            )
        (first,) = stages.values()
        self.vae = first.system
        self.frozen = {"vae": first.params}

    # --- training ---------------------------------------------------------------

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        _, t, h, w, _ = batch[schema.VIDEO].shape
        if t < self.min_frames:
            raise ValueError(
                f"clips of {t} frames; wanted at least {self.min_frames} to have a"
                " frame to refine and all that comes before it"
            )
        frame = jnp.zeros((1, h, w, 3))
        return TrainState.create(
            params={"refiner": self.net.init(rng, frame, frame)["params"]},
            optimizer=self.optimizer,
            ema=self.ema_decay is not None,
            frozen=self.frozen,
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        # Before the gradient: there each device is on its own, and what is drawn for an
        # example would differ.
        pairs = self._pairs(state.frozen, to_float(batch[schema.VIDEO]), rng)
        pairs = dict(zip(_PAIR, jax.lax.stop_gradient(pairs), strict=True))

        def loss_fn(params, batch, rng):
            del rng  # nothing is drawn
            return self._loss(params, *(_flat(batch[name]) for name in _PAIR))

        return gradient_step(
            loss_fn,
            self.optimizer,
            state,
            pairs,
            rng,
            accumulate=self.accumulate,
            ema_decay=self.ema_decay,
        )

    def _pairs(
        self, frozen: Any, video: Float[Array, "b t h w 3"], rng: jax.Array
    ) -> Pairs:
        """True frames, the next ones as they are to be refined, and as they were."""
        del rng
        target = video[:, 1:]
        return video[:, :-1], self._decoded(frozen, target), target

    def _decoded(self, params, video):
        latents = self.vae.encode(params["vae"], video)
        return jnp.clip(self.vae.decode(params["vae"], latents), 0, 1)

    def _loss(self, params, previous, frame, target):
        refined = self.net.apply({"params": params["refiner"]}, previous, frame)
        terms = {
            "l2": reconstruction.mse(refined, target).mean(),
            "l1": reconstruction.l1(refined, target).mean(),
        }
        total = self.weights["l2"] * terms["l2"] + self.weights["l1"] * terms["l1"]
        if self.weights["perceptual"]:
            terms["perceptual"] = self.perceptual(refined, target).mean()
            total += self.weights["perceptual"] * terms["perceptual"]
        # What there was to begin with: whether it is refined at all.
        return total, terms | {"l2_before": reconstruction.mse(frame, target).mean()}

    # --- evaluation -------------------------------------------------------------

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        del rng
        decoded, refined, target = self._refined_reconstruction(state, batch)
        return {
            "psnr": frame_metrics.psnr(refined, target).mean(1),
            "psnr_decoded": frame_metrics.psnr(decoded, target).mean(1),
        }

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        """The truth, what the first stage makes of it, and that refined, in a row."""
        del rng
        decoded, refined, target = self._refined_reconstruction(state, batch)
        shown = samples.beside(samples.beside(target, decoded), refined)
        return {"reconstruction": shown}

    def _refined_reconstruction(self, state, batch) -> Pairs:
        """Decoded frames, each refined on the true one before it, and the truth."""
        video = to_float(batch[schema.VIDEO])
        target = video[:, 1:]
        decoded = self._decoded(state.frozen, target)
        net = {"params": state.prediction_params["refiner"]}
        refined = self.net.apply(net, _flat(video[:, :-1]), _flat(decoded))
        return decoded, refined.reshape(target.shape), target


class RefinedPredictor(RefineSystem, Predictor):
    """A frozen predictor whose frames are refined.

    Args:
      stages: "predictor", any system that predicts.
      degraded: what is refined while training: "decoded" true frames, as RIVER does, or
        "predicted" ones, the first that the predictor makes of the true past. These
        look like what is to be refined, but take a prediction in each step.
      others: as of `RefineSystem`.
    """

    def _build_on(self, stages: Mapping[str, Stage], degraded: str) -> None:
        stage = stages["predictor"]
        self.predictor = stage.system
        has_vae = hasattr(stage.system, "vae")
        known = ("decoded", "predicted") if has_vae else ("predicted",)
        if degraded not in known:
            raise ValueError(
                f"degraded={degraded!r}; on this predictor it must be one of {known}"
            )
        self.degraded = degraded
        self.num_context = stage.system.num_context
        self.stochastic = stage.system.stochastic
        self.min_context = stage.system.min_context
        if degraded == "predicted":
            self.min_frames = self.num_context + 1
        # The first stage where evaluation looks for it, and nowhere else.
        own = dict(stage.params)
        self.frozen = {"vae": own.pop("vae")} if has_vae else {}
        self.frozen["predictor"] = own
        if has_vae:
            self.vae = stage.system.vae

    def _pairs(
        self, frozen: Any, video: Float[Array, "b t h w 3"], rng: jax.Array
    ) -> Pairs:
        if self.degraded == "decoded":
            return super()._pairs(frozen, video, rng)
        context, future = jnp.split(video, [self.num_context], 1)
        predicted = self._unrefined(frozen, context, 1, rng).video
        return context[:, -1:], predicted, future[:, :1]

    def _unrefined(self, params, context, num_future, rng) -> Prediction:
        vae = {name: params[name] for name in ("vae",) if name in params}
        own = {**params["predictor"], **vae}
        return self.predictor.predict(own, context, num_future, rng)

    def _refined(self, params, previous, prediction: Prediction) -> Prediction:
        """Refines frame after frame, the first one on `previous` [b, h, w, 3]."""
        net = {"params": params["refiner"]}

        def step(previous, frame):
            refined = jnp.clip(self.net.apply(net, previous, frame), 0, 1)
            return refined, refined

        frames = jnp.moveaxis(prediction.video, 1, 0)
        _, refined = jax.lax.scan(step, previous, frames)
        return prediction.replace(video=jnp.moveaxis(refined, 0, 1))

    def predict(
        self,
        params: Any,
        context: Float[Array, "b t h w 3"],
        num_future: int,
        rng: jax.Array,
    ) -> Prediction:
        """What the predictor makes of the context, refined; its `aux` as it was."""
        prediction = self._unrefined(params, context, num_future, rng)
        return self._refined(params, context[:, -1], prediction)

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        video = to_float(batch[schema.VIDEO])
        context, future = jnp.split(video, [self.num_context], 1)
        params = {**state.frozen, **state.prediction_params}
        before = self._unrefined(params, context, future.shape[1], rng)
        after = self._refined(params, context[:, -1], before)
        return {
            "psnr": frame_metrics.psnr(after.video, future).mean(1),
            "psnr_unrefined": frame_metrics.psnr(before.video, future).mean(1),
        }

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        shown = samples.continuation(
            self, state, batch, rng, num_context=self.num_context
        )
        return {"continuation": shown}


def _flat(video: Float[Array, "b k h w 3"]) -> Float[Array, "n h w 3"]:
    return video.reshape(-1, *video.shape[2:])


def _weights(*, l2: float, l1: float, perceptual: float) -> dict[str, float]:
    return {"l2": l2, "l1": l1, "perceptual": perceptual}
