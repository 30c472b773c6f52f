"""First stage of RIVER: a vector-quantised frame autoencoder (VQ-VAE, VQGAN).

Loss: L1 + weight * perceptual + commitment * |z - sg(code)|^2, and with a codebook that
is trained by gradient |sg(z) - code|^2 besides. With a discriminator of patches it is a
VQGAN (Esser et al. 2021). Codes follow the moving average of their latents by default;
codes that nothing is near to are put beside codes that are much used.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.data import schema
from jax_vidpred.losses import adversarial, quantization, reconstruction
from jax_vidpred.metrics import frame as frame_metrics
from jax_vidpred.models.flow_warp import over_images
from jax_vidpred.models.layers.compute import compute_dtype
from jax_vidpred.models.layers.discriminator import PatchDiscriminator
from jax_vidpred.models.vq import VQ
from jax_vidpred.ops import quantize
from jax_vidpred.ops.image import to_float
from jax_vidpred.ops.quantize import CodeUse
from jax_vidpred.systems import latent_scale, samples
from jax_vidpred.systems.perceptual import Perceptual, chosen_perceptual
from jax_vidpred.train import rngs
from jax_vidpred.train.adversarial import Game, Generated, adversarial_step
from jax_vidpred.train.optim import DISCRIMINATOR, make_optimizer, pair_optimizers
from jax_vidpred.train.protocol import Batch, Scalars, System
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step


class VQGANSystem(System):
    """Trains a vector-quantised autoencoder on single frames.

    Args:
      model: of `models.vq.VQ`.
      losses: weights `l1`, `perceptual`, `commitment` and `adversarial`; with the last
        one 0 there is no discriminator.
      optim: of `train.optim.make_optimizer`, for both where there are two.
      discriminator: of `models.layers.discriminator.PatchDiscriminator`, and `start`,
        the step from which it plays.
      codebook: "average" (codes follow the moving average of their latents) or
        "gradient".
      code_decay: of that average.
      revive_below: a code is dead, and put elsewhere, if its average share of the
        latents is below this part of an equal share; 0 leaves codes where they are.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.
      perceptual: as of `systems.vae.VAESystem`.
    """

    required_keys = (schema.VIDEO,)

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        discriminator: Mapping[str, Any],
        codebook: str = "average",
        code_decay: float = 0.99,
        revive_below: float = 0.03,
        ema_decay: float | None = None,
        accumulate: int = 1,
        perceptual: Perceptual | str = "",
    ):
        if codebook not in ("average", "gradient"):
            raise ValueError(f"codebook={codebook!r}; use average or gradient")
        self.net = VQ(**model)
        self.latent_channels, self.stride = self.net.latent_channels, self.net.stride
        self.weights = _weights(**losses)
        self.optimizer = make_optimizer(**optim)
        self.game = None
        if self.weights["adversarial"]:
            self.game, self.optimizer = self._against(optim, **discriminator)
        self.codebook, self.code_decay = codebook, code_decay
        self.revive_below = revive_below
        self.ema_decay, self.accumulate = ema_decay, accumulate
        self.perceptual = chosen_perceptual(perceptual, self.weights["perceptual"])

    def _against(self, optim, *, start: int, **discriminator):
        """The game that is played with a discriminator, and the optimiser of both."""
        self.discriminator = PatchDiscriminator(
            **discriminator, dtype=compute_dtype(self.net.dtype)
        )
        game = Game(
            generate=self._generate,
            reconstruct=self._reconstruct,
            discriminate=lambda params, images: self.discriminator.apply(
                {"params": params}, images
            ),
            generator_loss=adversarial.generator_hinge,
            discriminator_loss=adversarial.discriminator_hinge,
            weight=self.weights["adversarial"],
            start=start,
            adaptive_weight=adversarial.adaptive_weight,
            last_kernel=("net", *self.net.last_kernel),
        )
        num_steps = optim["num_steps"]
        if start >= num_steps:
            raise ValueError(
                f"discriminator.start={start} is not below train.num_steps={num_steps};"
                " start earlier"
            )
        # Scales are by the generator's parts.
        theirs = {**optim, "num_steps": num_steps - start, "scales": None}
        pair = pair_optimizers(self.optimizer, make_optimizer(**theirs), start=start)
        return game, pair

    # --- training ---------------------------------------------------------------

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        frames = jnp.zeros((1, *batch[schema.VIDEO].shape[2:]), jnp.float32)
        net = self.net.init(rng, frames)["params"]
        codebook = net["codebook"]
        params = {
            "net": net,
            **latent_scale.initial(self.latent_channels),
            "code_share": jnp.full(len(codebook), 1.0 / len(codebook)),
            "code_total": codebook / len(codebook),
        }
        if self.game:
            drawn = self.discriminator.init(rngs.fold_in(rng, DISCRIMINATOR), frames)
            params[DISCRIMINATOR] = drawn["params"]
        return TrainState.create(
            params=params, optimizer=self.optimizer, ema=self.ema_decay is not None
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def loss_fn(params, batch, rng):
            made = self._generate(params, batch, rng)
            loss, terms = self._reconstruct(made.fake, made.real)
            return loss + made.loss, made.scalars | terms

        old = state.params
        options = dict(accumulate=self.accumulate, ema_decay=self.ema_decay)
        step = functools.partial(gradient_step, loss_fn)
        if self.game:
            step = functools.partial(adversarial_step, self.game)
        state, scalars = step(self.optimizer, state, batch, rng, **options)
        use, moments = scalars.pop("use"), scalars.pop("moments")
        followed = latent_scale.follow(old, moments, state.step)
        spread = jnp.sqrt(scalars["commitment"])
        scalars["perplexity"] = quantize.perplexity(use.share)
        average, codebook, scalars["dead_codes"] = self._codes(
            state, old, use, spread, rngs.fold_in(rng, "revive")
        )
        followed |= {"code_share": average.share, "code_total": average.total}

        def with_statistics(params):
            codes = codebook
            if self.codebook == "gradient":  # moved only what is put elsewhere
                before = state.params["net"]["codebook"]
                stays = (codebook == before).all(1, keepdims=True)
                codes = jnp.where(stays, params["net"]["codebook"], codebook)
            net = params["net"] | {"codebook": codes}
            return params | followed | {"net": net}

        ema = None if state.ema is None else with_statistics(state.ema)
        return state.replace(params=with_statistics(state.params), ema=ema), scalars

    def _generate(self, params, batch, rng):
        """What the autoencoder makes of a batch, and what its codes cost."""
        del rng  # nothing is drawn
        video = to_float(batch[schema.VIDEO])
        frames = video.reshape(-1, *video.shape[2:])
        net = {"params": params["net"]}
        latent = self.net.apply(net, frames, method="encode")
        passed, index = self.net.apply(net, latent, method="quantize")
        code = params["net"]["codebook"][index]
        commitment = quantization.commitment(latent, code).mean()
        loss = self.weights["commitment"] * commitment
        if self.codebook == "gradient":
            loss += quantization.codebook(latent, code).mean()
        latent = jax.lax.stop_gradient(latent)
        return Generated(
            fake=self.net.apply(net, passed, method="decode"),
            real=frames,
            loss=loss,
            scalars={
                "commitment": commitment,
                "use": quantize.code_use(latent, index, self.net.num_codes),
                "moments": latent_scale.moments(latent),
            },
        )

    def _reconstruct(self, fake, real):
        terms = {"l1": reconstruction.l1(fake, real).mean()}
        total = self.weights["l1"] * terms["l1"]
        if self.weights["perceptual"]:
            terms["perceptual"] = self.perceptual(fake, real).mean()
            total += self.weights["perceptual"] * terms["perceptual"]
        return total, terms

    def _codes(self, state, old, batch_use, spread, rng):
        """Average use and codebook after a step; how many codes were dead."""
        codebook = state.params["net"]["codebook"]
        # The first batch decides where the codes are; its latents need them there.
        decay = jnp.where(state.step == 1, 0.0, self.code_decay)
        average = CodeUse(old["code_share"], old["code_total"])
        use = quantize.follow(average, batch_use, decay)
        if self.codebook == "average":
            codebook = quantize.centroids(use, codebook)
        if not self.revive_below:
            return use, codebook, jnp.zeros(())
        return quantize.revive(
            use, codebook, rng, below=self.revive_below, spread=spread
        )

    # --- evaluation, and what later stages use ----------------------------------

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        del rng
        video = to_float(batch[schema.VIDEO])
        params = state.prediction_params
        again = self.decode(params, self.encode(params, video))
        return {
            "psnr": frame_metrics.psnr(again, video).mean(1),
            "ssim": frame_metrics.ssim(again, video).mean(1),
        }

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        del rng
        return {"reconstruction": samples.reconstruction(self, state, batch)}

    def encode(
        self, params: Any, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t gh gw c"]:
        """Latents of frames in [0, 1], not quantised, of zero mean and unit variance.

        As in latent diffusion (Rombach et al. 2022) the codes are a part of `decode`:
        what later stages predict varies smoothly.
        """

        def latent(images):
            return self.net.apply({"params": params["net"]}, images, method="encode")

        return latent_scale.scaled(params, over_images(latent, video))

    def decode(
        self, params: Any, latents: Float[Array, "*b gh gw c"]
    ) -> Float[Array, "*b h w 3"]:
        """Frames of the codes nearest to scaled latents, about [0, 1], not clipped."""

        def frames(latent):
            net = {"params": params["net"]}
            code, _ = self.net.apply(net, latent, method="quantize")
            return self.net.apply(net, code, method="decode")

        return over_images(frames, latent_scale.unscaled(params, latents))


def _weights(
    *, l1: float, perceptual: float, commitment: float, adversarial: float
) -> dict[str, float]:
    return {
        "l1": l1,
        "perceptual": perceptual,
        "commitment": commitment,
        "adversarial": adversarial,
    }
