"""Checkpoints of the PyTorch reference (ozyurtf/continual-learning): they predict here.

What they were trained with stays, or the weights would mean nothing: the composition
(the residual replaces instead of adding), the flow's reach of one latent cell, the mask
on the grid of the earlier frame, the direction of the flow that was taught, no scaling
of the latents. What only its prediction does is mended, see `ReferenceSystem`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jax_vidpred.data import schema
from jax_vidpred.features import weights
from jax_vidpred.features.weights import Network, Tensors, WeightsError
from jax_vidpred.losses import reconstruction as rec
from jax_vidpred.models.reference import OBJECT_VALUES, ReferenceTemporal
from jax_vidpred.models.vae import VAE
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import baselines, samples
from jax_vidpred.systems.vae import VAESystem
from jax_vidpred.train.protocol import Batch, Prediction, Predictor, Scalars, Stage
from jax_vidpred.train.state import TrainState

STRIDE = 8  # pixels per latent cell
ROLLOUTS = ("corrected", "faithful")

# --- names of the parameters, there and here ------------------------------------------

_SEQUENCES = (
    ("encoder", "encoder/Conv", 3),
    ("decoder", "decoder/ConvTranspose", 3),
    ("flow_head", "flow_head/Conv", 2),
    ("occ_head", "occlusion_head/Conv", 2),
    ("residual_head", "residual_head/Conv", 2),
    ("state_head", "state_head/Dense", 2),
    ("collision_head", "collision_head/Dense", 2),
)
_LAYERS = {"input_proj": "input_projection", "conv_lstm.gates": "cell/gates"} | {
    # An activation stands between any two layers.
    f"{theirs}.net.{2 * number}": f"{ours}_{number}"
    for theirs, ours, count in _SEQUENCES
    for number in range(count)
}
_PATHS = {f"{theirs}.weight": f"{ours}/kernel" for theirs, ours in _LAYERS.items()} | {
    f"{theirs}.bias": f"{ours}/bias" for theirs, ours in _LAYERS.items()
}
_NAMES = {path: name for name, path in _PATHS.items()}


def vae_model(tensors: Tensors) -> dict[str, Any]:
    """Arguments of `models.vae.VAE` for a state dict of the VAE.

    Raises:
      WeightsError: it is of another network.
    """
    channels = _size(tensors, "decoder.net.0.weight", 0)
    return {"preset": "reference", "latent_channels": channels, "stride": STRIDE}


def temporal_model(tensors: Tensors) -> dict[str, Any]:
    """Arguments of `ReferenceTemporal` for a state dict of the temporal model.

    Raises:
      WeightsError: it is of another network.
    """
    return {
        "latent_channels": _size(tensors, "input_proj.weight", 1),
        "features": _size(tensors, "input_proj.weight", 0),
        "head_features": _size(tensors, "flow_head.net.0.weight", 0),
        "collision_features": _size(tensors, "collision_head.net.0.weight", 0),
        "max_objects": _size(tensors, "state_head.net.2.weight", 0) // OBJECT_VALUES,
    }


def vae_params(tensors: Tensors) -> dict[str, Any]:
    """Parameters of `models.vae.VAE` from a state dict of the VAE.

    Raises:
      WeightsError: a name or a shape is not that of the network.
    """
    frames = jnp.zeros((1, STRIDE, STRIDE, 3))
    return _params(tensors, VAE(**vae_model(tensors)), frames)


def temporal_params(tensors: Tensors) -> dict[str, Any]:
    """Parameters of `ReferenceTemporal` from a state dict of the temporal model.

    Raises:
      WeightsError: a name or a shape is not that of the network.
    """
    model = temporal_model(tensors)
    latents = jnp.zeros((1, 1, 1, 1, model["latent_channels"]))
    return _params(tensors, ReferenceTemporal(**model), latents)


def export_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state dict for the reference's VAE or temporal model: its names, its layout.

    The inverse of `vae_params` and of `temporal_params`, bit for bit. Written by
    `safetensors.numpy.save_file`, torch reads it without this package.

    Args:
      params: of `models.vae.VAE` with preset "reference", or of `ReferenceTemporal`.

    Raises:
      WeightsError: they are of another network.
    """
    exported = {}
    for path, value in weights.flatten(params).items():
        if path not in _NAMES:
            raise WeightsError(
                f"{path} has no place in the reference's networks; give the parameters"
                " of its VAE or of its temporal model"
            )
        array = np.asarray(value)
        if array.ndim > 1:  # (space..., in, out) -> (out, in, space...)
            array = np.moveaxis(array, (-1, -2), (0, 1))
        exported[_NAMES[path]] = np.ascontiguousarray(_turned(_NAMES[path], array))
    return exported


def _params(tensors, module, example):
    like = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    turned = {name: _turned(name, array) for name, array in tensors.items()}
    # A name that is not known stays what it is, for `to_tree` to complain about.
    return weights.to_tree(turned, lambda name: _PATHS.get(name, name), like)


def _turned(name: str, array: np.ndarray) -> np.ndarray:
    """A transposed convolution between torch's form and ours; its own inverse.

    Torch has (in, out) where other convolutions have (out, in), and the kernel turned
    by half a turn, see `ops.conv.conv_transpose2d`.
    """
    if not (name.startswith("decoder.") and array.ndim == 4):
        return array
    return array.swapaxes(0, 1)[..., ::-1, ::-1]


def _size(tensors, name, axis):
    shape = tensors[name].shape if name in tensors else ()
    if axis >= len(shape):
        raise WeightsError(
            f"{name} is missing, or no kernel: another network, or a part of one"
        )
    return shape[axis]


NETWORKS = (
    Network(
        name="reference_vae",
        title="VAE of the PyTorch reference (ozyurtf/continual-learning)",
        published=(),
        marks=(
            {
                "encoder.net.0.weight": (32, 3, 4, 4),
                "encoder.net.4.weight": (None, 64, 4, 4),
                "decoder.net.0.weight": (None, 64, 4, 4),
                "decoder.net.4.weight": (32, 3, 4, 4),
            },
        ),
        to_params=vae_params,
    ),
    Network(
        name="reference_temporal",
        title="temporal model of the PyTorch reference (ozyurtf/continual-learning)",
        published=(),
        marks=(
            {
                "input_proj.weight": (None, None, 1, 1),
                "conv_lstm.gates.weight": (None, None, 3, 3),
                "flow_head.net.2.weight": (2, None, 3, 3),
                "occ_head.net.2.weight": (1, None, 3, 3),
            },
        ),
        to_params=temporal_params,
    ),
)

# --- the system -----------------------------------------------------------------------


class ReferenceSystem(Predictor):
    """Predicts with an imported checkpoint; it is not trained here.

    `rollout="faithful"` does what the reference does: the last context frame is seen
    twice, as if all stood still for a step, and every predicted latent goes through
    decoder and encoder before the next step sees it. "corrected" sees every frame once,
    as in training, and carries predicted latents on as they are. (Networks trained like
    the reference's on the twin, 64x64, 20 frames to 12: 29.0 dB instead of 28.2, all of
    it by leaving decoder and encoder out.)

    Neither names collisions or objects: the reference's own recipe leaves these heads
    untrained (all their losses have weight 0), and a file does not say how it was
    trained. `models.reference.ReferenceTemporal` reads them.

    Args:
      model: of `models.reference.ReferenceTemporal`.
      num_context: frames that are given, unless more or fewer are.
      stages: "vae", with the reference's VAE.
      rollout: "corrected" or "faithful".
      losses, optim, ema_decay, accumulate: of training; not used.
    """

    adaptable = ("temporal", "flow_head")
    required_keys = (schema.VIDEO,)

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        num_context: int,
        stages: Mapping[str, Stage],
        rollout: str = "corrected",
        losses: Mapping[str, Any] | None = None,
        optim: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        accumulate: int = 1,
    ):
        del losses, optim, ema_decay, accumulate
        if rollout not in ROLLOUTS:
            raise ValueError(f"rollout={rollout!r} is unknown; use one of {ROLLOUTS}")
        self.vae: VAESystem = stages["vae"].system
        self.frozen = {"vae": stages["vae"].params}
        self.net = ReferenceTemporal(**model)
        if self.net.latent_channels != self.vae.latent_channels:
            raise ValueError(
                f"a temporal model of {self.net.latent_channels} latent channels does"
                f" not go with a VAE of {self.vae.latent_channels}; give the VAE"
                " that it was trained with"
            )
        self.num_context = num_context
        self.rollout = rollout
        self.optimizer = optax.identity()

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        del batch
        latents = jnp.zeros((1, 1, 1, 1, self.net.latent_channels))
        params = {"temporal": self.net.init(rng, latents)["params"]}
        return TrainState.create(
            params=params, optimizer=self.optimizer, frozen=self.frozen
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        raise ValueError(
            "imported checkpoints of the reference predict and are evaluated, but not"
            " trained; train the system flow_warp instead (configs/temporal.py)"
        )

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        video = to_float(batch[schema.VIDEO])
        context, future = jnp.split(video, [self.num_context], 1)
        params = {**state.frozen, **state.params}
        predicted = self.predict(params, context, future.shape[1], rng).video
        return baselines.psnr_beside_copy_last(predicted, context, future)

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
        latent cells, `visible` in [0, 1]: the share of the warped content.
        """
        del rng
        vae, net = params["vae"], {"params": params["temporal"]}
        faithful = self.rollout == "faithful"

        def go_on(carry, _):
            memory, latent = carry
            frame = self.vae.decode(vae, latent)
            if faithful:
                latent = self.vae.encode(vae, frame[:, None])[:, 0]
            memory, step = self.net.apply(net, memory, latent, method="step")
            return (memory, step.latent), (frame, step)

        seen = latents = self.vae.encode(vae, context)
        if faithful:
            seen = jnp.concatenate([latents, latents[:, -1:]], 1)
        memory, past = self._watch(net, seen)
        (_, latent), (frames, future) = jax.lax.scan(
            go_on, (memory, past.latent[-1]), length=num_future - 1
        )
        frames = jnp.concatenate([frames, self.vae.decode(vae, latent)[None]])
        # Of the first new frame only the last word counts.
        known = latents.shape[1] - 1
        steps = jax.tree.map(
            lambda old, new: jnp.concatenate([old[:known], old[-1:], new]), past, future
        )
        return Prediction(
            video=_by_video(frames),
            aux={"flow": _by_video(steps.flow), "visible": _by_video(steps.mask)},
        )

    def _watch(self, net, latents):
        """Memory after the latents, and what every step said, time first."""
        b, _, h, w, _ = latents.shape
        memory = self.net.apply(net, b, h, w, method="initial")

        def see(memory, latent):
            return self.net.apply(net, memory, latent, method="step")

        return jax.lax.scan(see, memory, jnp.moveaxis(latents, 1, 0))

    # --- test-time training -----------------------------------------------------

    def adaptation_data(
        self, params: Any, context: Float[Array, "b t h w 3"]
    ) -> dict[str, Array]:
        """What the inner loop needs and the flow head cannot change."""
        latents = self.vae.encode(params["vae"], context)[:, :-1]
        _, steps = self._watch({"params": params["temporal"]}, latents)
        hidden = _by_video(steps.hidden)
        return {"latent": latents, "hidden": hidden, "frame": context[:, 1:]}

    def adaptation_loss(self, params: Any, data: dict[str, Array]) -> Float[Array, "k"]:
        """L1 between the decoded warp of frame t and frame t + 1, for one video."""
        net = {"params": params["temporal"]}
        flow = self.net.apply(net, data["hidden"], method="flow")
        warped = self.net.apply(net, data["latent"], flow, method="warp")
        frames = self.vae.decode(params["vae"], warped)
        return rec.l1(frames, data["frame"])


def _by_video(steps: Float[Array, "t b *rest"]) -> Float[Array, "b t *rest"]:
    return jnp.moveaxis(steps, 0, 1)
