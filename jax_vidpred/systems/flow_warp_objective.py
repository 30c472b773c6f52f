"""The loss terms of the flow-warp system: what its roll-out is compared with."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jax_vidpred.data import schema
from jax_vidpred.losses import collision, flow, matching, occlusion
from jax_vidpred.losses import reconstruction as rec
from jax_vidpred.ops.warp import warp

# Positions and speeds are a few units: this brings object states to about [-1, 1].
STATE_SCALE = 3.0
# Mean change of a latent's channels, in standard deviations. Video coding alone makes
# still cells change by about 0.07.
CHANGED = 0.3
TERMS = (
    "latent",
    "flow",
    "visible",
    "warped",
    "decoded",
    "residual",
    "collision",
    "state",
)


class Objective:
    """The terms of the objective; each is a scalar, a mean over examples."""

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        focal: Mapping[str, float],
        collision_tolerance: int,
        decoded_frames: int,
        num_context: int,
    ):
        if sorted(weights) != sorted(TERMS):
            raise ValueError(
                f"losses.weights names {sorted(weights)}, wanted {sorted(TERMS)}"
                " (0 switches a term off)"
            )
        self.weights = dict(weights)
        self.active = [name for name in TERMS if weights[name]]
        self.focal = dict(focal)
        self.tolerance = collision_tolerance
        self.decoded_frames = decoded_frames
        self.num_context = num_context
        self.decodes = bool(weights["warped"] or weights["decoded"])

    def on_latents(self, rollout, latents, batch, steps):
        terms = {}
        following = latents[:, 1:]
        if self.weights["latent"]:
            # Against the last context frame: there copying it would be wrong.
            seen = latents[:, self.num_context - 1, None]
            changed = jnp.mean(jnp.abs(following - seen), -1) > CHANGED
            terms["latent"] = rec.balanced_l1(rollout.latent, following, changed, steps)
        if self.weights["flow"]:
            terms["flow"] = flow.balanced_endpoint_error(
                rollout.flow, batch[schema.FLOW], steps
            )
        if self.weights["visible"]:
            entropy = occlusion.visibility_cross_entropy(
                rollout.visible_logit, batch[schema.VISIBLE]
            )
            terms["visible"] = rec.mean_over_steps(entropy, steps)
        if self.weights["residual"]:
            # From the composition: next = visible * warp + residual.
            moved = warp(latents[:, :-1], batch[schema.FLOW])
            target = following - batch[schema.VISIBLE] * moved
            terms["residual"] = rec.masked_l1(rollout.residual, target, steps)
        return {name: term.mean() for name, term in terms.items()}

    def on_pixels(self, rollout, video, steps, decode, rng):
        """L1 of decoded latents, on a few random steps of the clip."""
        chosen = jax.random.choice(
            rng, video.shape[1] - 1, (self.decoded_frames,), replace=False
        )
        truth, counts = video[:, 1:][:, chosen], steps[:, chosen]
        terms = {}
        for name, latent in (("warped", rollout.warped), ("decoded", rollout.latent)):
            if self.weights[name]:
                frames = decode(latent[:, chosen])
                terms[name] = rec.masked_l1(frames, truth, counts).mean()
        return terms

    def collision(self, logit, batch, steps):
        label = collision.widen(batch[schema.COLLISION], self.tolerance)
        loss = collision.focal_loss(logit, label, **self.focal)
        return rec.mean_over_steps(loss, steps).mean()

    def state(self, objects, batch, steps):
        loss = matching.unordered_state_loss(
            objects.present_logit,
            objects.state,
            batch[schema.STATE][:, 1:] / STATE_SCALE,
            batch[schema.PRESENT][:, 1:],
        )
        return rec.mean_over_steps(loss, steps).mean()
