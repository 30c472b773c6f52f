"""Phase 1: the frame VAE.

Loss: L1 + weight * annealed KL + weight * perceptual(prediction, target). A running
mean and variance of the latents are kept among the parameters, so that later stages see
latents of zero mean and unit variance.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_vidpred.data import schema
from jax_vidpred.losses import kl, reconstruction
from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.models.flow_warp import over_images
from jax_vidpred.models.vae import VAE
from jax_vidpred.ops import schedules
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import latent_scale, samples
from jax_vidpred.systems.perceptual import Perceptual, chosen_perceptual
from jax_vidpred.train import rngs
from jax_vidpred.train.optim import make_optimizer
from jax_vidpred.train.protocol import Batch, Scalars, System
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step


class VAESystem(System):
    """Trains a VAE on single frames (every frame of a clip is one example).

    Args:
      model: of `models.vae.VAE`.
      losses: weights `l1`, `kl`, `perceptual`, and `annealing`, the arguments of
        `ops.schedules.kl_weight`.
      optim: of `train.optim.make_optimizer`.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.
      perceptual: distance of two image batches per example, or the name of a frozen
        network (`systems.perceptual.NAMES`); needed when its weight is not 0.
    """

    required_keys = (schema.VIDEO,)

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        ema_decay: float | None = None,
        accumulate: int = 1,
        perceptual: Perceptual | str = "",
    ):
        self.vae = VAE(**model)
        self.latent_channels, self.stride = self.vae.latent_channels, self.vae.stride
        self.optimizer = make_optimizer(**optim)
        self.ema_decay, self.accumulate = ema_decay, accumulate
        self.loss = VAELoss(self.vae, **losses, function=perceptual)

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        frames = jnp.zeros((1, *batch[schema.VIDEO].shape[2:]), jnp.float32)
        params = {
            "net": self.vae.init(rng, frames)["params"],
            **latent_scale.initial(self.latent_channels),
        }
        return TrainState.create(
            params=params, optimizer=self.optimizer, ema=self.ema_decay is not None
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def loss_fn(params, batch, rng):
            video, rows = to_float(batch[schema.VIDEO]), batch[schema.ROW]
            total, scalars, latent = self.loss(
                params["net"], video, rows, rng, state.step
            )
            return total, scalars | {"moments": latent_scale.moments(latent)}

        old = state.params
        state, scalars = gradient_step(
            loss_fn,
            self.optimizer,
            state,
            batch,
            rng,
            accumulate=self.accumulate,
            ema_decay=self.ema_decay,
        )
        moments = scalars.pop("moments")
        statistics = latent_scale.follow(old, moments, state.step)
        state = state.replace(params=state.params | statistics)
        if state.ema is not None:
            state = state.replace(ema=state.ema | statistics)
        return state, scalars

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        del rng
        video = to_float(batch[schema.VIDEO])
        latents = self.encode(state.prediction_params, video)
        again = self.decode(state.prediction_params, latents)
        return {
            "psnr": frame_metrics.psnr(again, video).mean(1),
            "ssim": frame_metrics.ssim(again, video).mean(1),
            "latent_deviation": jnp.std(latents, axis=(1, 2, 3, 4)),
        }

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        del rng
        return {"reconstruction": samples.reconstruction(self, state, batch)}

    def encode(
        self, params: Any, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t gh gw c"]:
        """Mean latents of frames in [0, 1], scaled to zero mean and unit variance."""

        def mean(images):
            return self.vae.apply(
                {"params": params["net"]}, images, method="encode"
            ).mean

        return latent_scale.scaled(params, over_images(mean, video))

    def decode(
        self, params: Any, latents: Float[Array, "*b gh gw c"]
    ) -> Float[Array, "*b h w 3"]:
        """Frames of scaled latents, about [0, 1], not clipped."""

        def frames(latent):
            return self.vae.apply({"params": params["net"]}, latent, method="decode")

        return over_images(frames, latent_scale.unscaled(params, latents))


class VAELoss:
    """The training objective of a VAE, also used while it is fine-tuned jointly."""

    def __init__(
        self,
        vae: VAE,
        *,
        l1: float,
        kl: float,
        annealing: Mapping[str, Any],
        perceptual: float = 0.0,
        function: Perceptual | str = "",
    ):
        self.vae = vae
        self.weights = {"l1": l1, "kl": kl, "perceptual": perceptual}
        self.annealing = dict(annealing)
        self.function = chosen_perceptual(function, perceptual)

    def __call__(
        self,
        params: Any,
        video: Float[Array, "b t h w 3"],
        rows: Int[Array, "b"],
        rng: jax.Array,
        step: Array,
    ) -> tuple[Float[Array, ""], Scalars, Float[Array, "n gh gw c"]]:
        """Loss, its named terms, and the mean latents (unscaled) of the n = b t frames.

        `rows` are the numbers of the clips in the whole batch: each draws for itself.
        """
        variables, length = {"params": params}, video.shape[1]
        frames = video.reshape(-1, *video.shape[2:])
        frame_rows = jnp.repeat(rows, length) * length
        frame_rows += jnp.tile(jnp.arange(length), len(rows))
        posterior = self.vae.apply(variables, frames, method="encode")
        latent = posterior.sample(rngs.for_rows(rng, frame_rows))
        again = self.vae.apply(variables, latent, method="decode")
        beta = schedules.kl_weight(step, **self.annealing)
        terms = {
            "l1": reconstruction.l1(again, frames).mean(),
            "kl": kl.kl_divergence(posterior.mean, posterior.logvar).mean(),
        }
        total = self.weights["l1"] * terms["l1"]
        total += beta * self.weights["kl"] * terms["kl"]
        if self.weights["perceptual"]:
            terms["perceptual"] = self.function(again, frames).mean()
            total += self.weights["perceptual"] * terms["perceptual"]
        return total, terms | {"kl_factor": beta}, posterior.mean
