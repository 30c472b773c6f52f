"""Phases 2 and 3, the main system: predict in the latent space by warping.

Phase 2 trains the temporal model on latents of a frozen VAE; phase 3 (`train_vae`) goes
on with both, keeping the VAE's own losses. One clip is `num_context` true frames and up
to `num_future` further ones, in which teacher forcing decides step by step whether the
model sees the truth or its own prediction.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_vidpred.data import schema
from jax_vidpred.losses import balance, flow
from jax_vidpred.losses import reconstruction as rec
from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.models.flow_warp import FlowWarp, Told
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import baselines, samples
from jax_vidpred.systems.carried_detail import decode_with_detail
from jax_vidpred.systems.flow_warp_objective import STATE_SCALE, Objective
from jax_vidpred.systems.teacher_forcing import TeacherForcing, draw_coins
from jax_vidpred.systems.vae import VAESystem
from jax_vidpred.train import rngs
from jax_vidpred.train.optim import make_optimizer
from jax_vidpred.train.protocol import (
    Batch,
    Prediction,
    Predictor,
    Scalars,
    Stage,
)
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step


class FlowWarpSystem(Predictor):
    """The flow-warp predictor.

    Args:
      model: of `models.flow_warp.FlowWarp` (the latent channels come from the VAE).
      losses: `weights` of latent, flow, visible, warped, decoded, residual, collision,
        state (0 = not computed); `focal` (alpha, gamma); `collision_tolerance` in
        steps; `decoded_frames`, how many random steps of a clip are decoded for the
        pixel losses.
      optim: of `train.optim.make_optimizer`; in the joint phase scale the VAE there.
      num_context: true frames at the start of a clip.
      num_future: predicted frames of a training clip, at most.
      min_future: the number is drawn anew each step from min_future..num_future.
      teacher_forcing: of `systems.teacher_forcing.TeacherForcing`.
      balance: "fixed", or "uncertainty" for learned log-scales.
      carry_detail: whether prediction also moves what the VAE loses of the last frame,
        and leaves pixels of it alone where hardly anything changes.
      train_vae: the joint phase.
      stages: "vae", or to go on from an earlier phase "temporal".
      vae_loss_weight: factor on the VAE's own loss in the joint phase.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.
    """

    adaptable = ("temporal", "flow_head")
    told_keys = (schema.FLOW, schema.VISIBLE)  # what `predict_told` is told of

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        num_context: int,
        num_future: int,
        min_future: int,
        teacher_forcing: Mapping[str, Any],
        stages: Mapping[str, Stage],
        balance: str = "fixed",
        carry_detail: bool = True,
        train_vae: bool = False,
        vae_loss_weight: float = 1.0,
        ema_decay: float | None = None,
        accumulate: int = 1,
    ):
        if "temporal" in stages:
            self.vae: VAESystem = stages["temporal"].system.vae
            self.initial = dict(stages["temporal"].params)
        else:
            self.vae = stages["vae"].system
            self.initial = {"vae": stages["vae"].params}
        self.frozen = {} if train_vae else {"vae": self.initial["vae"]}
        self.net = FlowWarp(latent_channels=self.vae.latent_channels, **model)
        self.losses = Objective(**losses, num_context=num_context)
        self.optimizer = make_optimizer(**optim)
        self.num_context, self.num_future = num_context, num_future
        self.min_future = min_future
        if not 1 <= min_future <= num_future:
            raise ValueError(
                f"min_future={min_future} must lie in 1..num_future={num_future}"
            )
        self.teacher_forcing = TeacherForcing(**teacher_forcing)
        self.balance = balance
        if balance not in ("fixed", "uncertainty"):
            raise ValueError(
                f"balance {balance!r} is unknown; use fixed or uncertainty"
            )
        self.carry_detail = carry_detail
        self.train_vae, self.vae_loss_weight = train_vae, vae_loss_weight
        self.ema_decay, self.accumulate = ema_decay, accumulate
        keys = {
            "flow": (schema.FLOW,),
            "visible": (schema.VISIBLE,),
            "residual": (schema.FLOW, schema.VISIBLE),
            "collision": (schema.COLLISION,),
            "state": (schema.STATE, schema.PRESENT),
        }
        needed = [k for term in keys if self.losses.weights[term] for k in keys[term]]
        self.required_keys = tuple(dict.fromkeys([schema.VIDEO, *needed]))

    # --- training ---------------------------------------------------------------

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        _, _, h, w, _ = batch[schema.VIDEO].shape
        stride = self.vae.stride
        grid = (1, 1, h // stride, w // stride, self.vae.latent_channels)
        params = {"temporal": self.initial.get("temporal")}
        if params["temporal"] is None:
            variables = self.net.init(rng, jnp.zeros(grid), jnp.ones((1, 1), bool))
            params["temporal"] = variables["params"]
        if self.train_vae:
            params["vae"] = self.initial["vae"]
        if self.balance == "uncertainty":
            params["balance"] = {t: jnp.zeros(()) for t in self.losses.active}
        return TrainState.create(
            params=params,
            optimizer=self.optimizer,
            ema=self.ema_decay is not None,
            extra=self.teacher_forcing.initial(),
            frozen=self.frozen,
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def loss_fn(params, batch, rng):
            return self._loss({**state.frozen, **params}, batch, rng, state)

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
        video = to_float(batch[schema.VIDEO])
        latents = self.vae.encode(params["vae"], video)
        ratio = self.teacher_forcing.ratio(state)
        use_truth, steps = self._draw_roll_out(
            rng, batch[schema.ROW], video.shape[1] - 1, ratio
        )
        net = {"params": params["temporal"]}
        rollout = self.net.apply(net, latents[:, :-1], use_truth, method="rollout")
        # Targets are constants: else the joint phase could shrink the latent space.
        target = jax.lax.stop_gradient(latents)
        terms = self.losses.on_latents(rollout, target, batch, steps)
        if self.losses.weights["collision"]:
            logit = self.net.apply(net, rollout.hidden, method="collision_logit")
            terms["collision"] = self.losses.collision(logit, batch, steps)
        if self.losses.weights["state"]:
            objects = self.net.apply(net, rollout.hidden, method="objects")
            terms["state"] = self.losses.state(objects, batch, steps)
        if self.losses.decodes:

            def decode(z):
                return self.vae.decode(params["vae"], z)

            chosen = rngs.fold_in(rng, "decode")
            terms |= self.losses.on_pixels(rollout, video, steps, decode, chosen)
        scalars = {f"loss_{name}": value for name, value in terms.items()}
        weights = {name: self.losses.weights[name] for name in terms}
        if self.balance == "uncertainty":
            total = balance.uncertainty_sum(terms, weights, params["balance"])
        else:
            total = balance.weighted_sum(terms, weights)
        if self.train_vae:
            noise, rows = rngs.fold_in(rng, "vae"), batch[schema.ROW]
            loss, parts, _ = self.vae.loss(
                params["vae"]["net"], video, rows, noise, state.step
            )
            total += self.vae_loss_weight * loss
            scalars |= {f"vae_{name}": value for name, value in parts.items()}
        return total, scalars | {"teacher_forcing_ratio": ratio}

    def _draw_roll_out(
        self,
        rng: jax.Array,
        rows: Int[Array, "b"],
        num_steps: int,
        ratio: Float[Array, ""],
    ) -> tuple[Bool[Array, "b k"], Float[Array, "b k"]]:
        """Which steps see the truth, and which count in the loss."""
        k = jnp.broadcast_to(jnp.arange(num_steps), (len(rows), num_steps))
        coins = draw_coins(rngs.fold_in(rng, "coins"), rows, num_steps, ratio)
        horizon = jax.random.randint(
            rngs.fold_in(rng, "horizon"), (), self.min_future, self.num_future + 1
        )
        counts = k < self.num_context - 1 + horizon
        return (k < self.num_context) | coins, counts * 1.0

    def after_evaluation(
        self, state: TrainState, summary: dict[str, float]
    ) -> TrainState:
        return self.teacher_forcing.after_evaluation(state, summary)

    # --- evaluation and prediction ----------------------------------------------

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        video = to_float(batch[schema.VIDEO])
        context, future = jnp.split(video, [self.num_context], 1)
        params = {**state.frozen, **state.prediction_params}
        predicted = self.predict(params, context, future.shape[1], rng)
        copied = baselines.copy_last(context, future.shape[1])
        moving = frame_metrics.moving_pixels(future, context[:, -1])

        def moving_psnr(prediction):
            error = jnp.square(jnp.clip(prediction, 0, 1) - future) * moving
            share = jnp.maximum(moving.sum((1, 2, 3, 4)) * 3, 1)
            mean = error.sum((1, 2, 3, 4)) / share
            return -10 * jnp.log10(jnp.maximum(mean, 1e-10))

        metrics = {
            "psnr": frame_metrics.psnr(predicted.video, future).mean(1),
            "psnr_copy_last": frame_metrics.psnr(copied, future).mean(1),
            "psnr_moving": moving_psnr(predicted.video),
            "psnr_moving_copy_last": moving_psnr(copied),
        }
        if schema.FLOW in self.required_keys:
            truth = batch[schema.FLOW]
            moving = flow.is_moving(truth) * 1.0
            for name, field in (("flow", predicted.aux["flow"]), ("zero", 0 * truth)):
                error = flow.endpoint_error(field, truth, moving)
                metrics[f"endpoint_error_{name}"] = error
        return metrics

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        shown = samples.continuation(
            self, state, batch, rng, num_context=self.num_context
        )
        return {"continuation": shown}

    def predict(
        self,
        params: Any,
        context: Float[Array, "b t h w 3"],
        num_future: int,
        rng: jax.Array,
    ) -> Prediction:
        """Continues the context; the model is deterministic, `rng` is not used.

        aux, for each of the t - 1 + num_future transitions: `flow` [.., gh, gw, 2] in
        latent cells, `visible` in [0, 1], `collision_probability` [b, ..], and
        `object_state`, `object_probability` of unordered slots.
        """
        del rng
        b, t = context.shape[:2]
        latents = self.vae.encode(params["vae"], context)
        future = jnp.zeros((b, num_future - 1, *latents.shape[2:]))
        inputs = jnp.concatenate([latents, future], 1)
        use_truth = jnp.broadcast_to(jnp.arange(inputs.shape[1]) < t, inputs.shape[:2])
        net = {"params": params["temporal"]}
        rollout, collision_logit, objects = self.net.apply(net, inputs, use_truth)

        visible = jax.nn.sigmoid(rollout.visible_logit)
        return Prediction(
            video=self._frames(params, latents, context, rollout, visible),
            aux={
                "flow": rollout.flow,
                "visible": visible,
                "collision_probability": jax.nn.sigmoid(collision_logit),
                "object_state": objects.state * STATE_SCALE,
                "object_probability": jax.nn.sigmoid(objects.present_logit),
            },
        )

    def predict_told(
        self,
        params: Any,
        video: Float[Array, "b n h w 3"],
        truth: Mapping[str, Array],
        num_context: int,
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        """Predictions in which one part of the model after the other is the truth.

        What each gains over the prediction as it is, is what that part loses. With the
        true latent every frame is predicted from the true one before it, so nothing
        adds up over time; without residual the latent is only moved.

        Args:
          params: as for `predict`.
          video: context and true future.
          truth: FLOW [b, n - 1, gh, gw, 2] and VISIBLE [b, n - 1, gh, gw, 1] of it, on
            the latent grid.
          num_context: frames at the start that are the context.

        Returns:
          name of what was told -> future frames.
        """
        latents = self.vae.encode(params["vae"], video)[:, :-1]
        k = jnp.arange(latents.shape[1])
        own = jnp.broadcast_to(k < num_context, latents.shape[:2])
        cases = {
            "true flow": (own, Told(flow=truth[schema.FLOW])),
            "true visibility": (own, Told(visible=truth[schema.VISIBLE])),
            "true latent": (jnp.ones_like(own), Told()),
            "no residual": (own, Told(residual=jnp.zeros_like(latents))),
        }
        net = {"params": params["temporal"]}
        context, seen = video[:, :num_context], latents[:, :num_context]
        predictions = {}
        for name, (use_truth, told) in cases.items():
            rollout = self.net.apply(net, latents, use_truth, told, method="rollout")
            visible = told.visible
            if visible is None:
                visible = jax.nn.sigmoid(rollout.visible_logit)
            predictions[name] = self._frames(params, seen, context, rollout, visible)
        return predictions

    def _frames(self, params, latents, context, rollout, visible):
        """Frames of a rollout, from the latents and frames of the context on."""
        start = context.shape[1] - 1
        return decode_with_detail(
            lambda latent: self.vae.decode(params["vae"], latent),
            latents[:, -1],
            context[:, -1],
            rollout.latent[:, start:],
            rollout.flow[:, start:],
            visible[:, start:],
            carry_detail=self.carry_detail,
        )

    # --- test-time training -----------------------------------------------------

    def adaptation_data(
        self, params: Any, context: Float[Array, "b t h w 3"]
    ) -> dict[str, Array]:
        """What the inner loop needs and the tuned leaves cannot change.

        The trunk sees only real latents here, so its hidden states are computed once
        for all steps of the inner loop.
        """
        latents = self.vae.encode(params["vae"], context)
        inputs = latents[:, :-1]
        use_truth = jnp.ones(inputs.shape[:2], bool)
        net = {"params": params["temporal"]}
        rollout = self.net.apply(net, inputs, use_truth, method="rollout")
        return {"latent": inputs, "hidden": rollout.hidden, "frame": context[:, 1:]}

    def adaptation_loss(self, params: Any, data: dict[str, Array]) -> Float[Array, "k"]:
        """L1 between the decoded warp of frame t and frame t + 1, for one video."""
        net = {"params": params["temporal"]}
        flow_field = self.net.apply(net, data["hidden"], method="flow")
        warped = self.net.apply(net, data["latent"], flow_field, method="warp")
        frames = self.vae.decode(params["vae"], warped)
        return rec.l1(frames, data["frame"])
