"""RIVER: flow matching on the next latent, sparsely conditioned (Davtyan et al. 2023).

A vector field is trained to carry noise to the latent of a frame, given the frame
before it (the reference) and one random earlier frame (the condition). To sample, its
ordinary differential equation is solved; every evaluation of the field draws another
earlier frame, so that all of the past is heard at the price of one frame.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jax_vidpred.data import schema
from jax_vidpred.models.river import VectorField
from jax_vidpred.ops import solvers, transport
from jax_vidpred.ops.augment import colour_jitter
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import baselines, samples
from jax_vidpred.train import rngs
from jax_vidpred.train.optim import make_optimizer
from jax_vidpred.train.protocol import Batch, Prediction, Predictor, Scalars, Stage
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import gradient_step

ALL_OF_THE_PAST = -1


class Sampling(NamedTuple):
    """How a future is drawn.

    Attributes:
      method: of `ops.solvers`; rk4_38 is RIVER's own.
      num_steps: of the solver, for each frame.
      warm_start: in [0, 1): the latent before, as noisy as it is at that time, is where
        the path begins, which is so much shorter.
      past_horizon: frames of the past that the condition is drawn from, the reference
        included; ALL_OF_THE_PAST has no limit.
    """

    method: str = "rk4_38"
    num_steps: int = 100
    warm_start: float = 0.0
    past_horizon: int = ALL_OF_THE_PAST

    def check(self) -> "Sampling":
        """Itself.

        Raises:
          ValueError: a value that cannot be.
        """
        solvers.tableau(self.method)
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps}; wanted at least 1")
        if not 0 <= self.warm_start < 1:
            raise ValueError(f"warm_start={self.warm_start}; wanted 0 or more, below 1")
        if self.past_horizon < 2 and self.past_horizon != ALL_OF_THE_PAST:
            raise ValueError(
                f"past_horizon={self.past_horizon}; wanted at least 2 frames (the"
                f" reference and one before it), or {ALL_OF_THE_PAST} for all"
            )
        return self


class RiverSystem(Predictor):
    """Trains the vector field on latents of a frozen autoencoder, and samples futures.

    Args:
      model: of `models.river.VectorField` (the latent channels come from the first
        stage).
      losses: `sigma`, the noise that is left at the end of a path.
      optim: of `train.optim.make_optimizer`.
      num_context: true frames that a prediction starts from while training.
      sampling: of `Sampling`, for predictions that do not say otherwise.
      stages: the first stage, "vqgan" or "vae".
      cache_latents: whether training reads latents that were encoded once, rounded to
        half precision, instead of frames.
      augment: strengths of `ops.augment.colour_jitter` on the frames of training; None
        for none.
      ema_decay: of the averaged parameters, None for none.
      accumulate: parts that a batch is worked on in, see `gradient_step`.
    """

    required_keys = (schema.VIDEO,)
    stochastic = True
    min_context = 1

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        losses: Mapping[str, Any],
        optim: Mapping[str, Any],
        num_context: int,
        sampling: Mapping[str, Any],
        stages: Mapping[str, Stage],
        cache_latents: bool = False,
        augment: Mapping[str, float] | None = None,
        ema_decay: float | None = None,
        accumulate: int = 1,
    ):
        if cache_latents and augment:
            raise ValueError(
                "cache_latents=True with augment: latents that are encoded once have"
                " the colours of their frames; leave one of them out"
            )
        (first,) = stages.values()
        self.vae: Any = first.system
        self.latent_channels, self.stride = self.vae.latent_channels, self.vae.stride
        self.frozen = {"vae": first.params}
        self.cache_latents = cache_latents
        self.seen = schema.LATENT if cache_latents else schema.VIDEO
        self.train_keys = (self.seen,)
        self.net = VectorField(latent_channels=self.latent_channels, **model)
        self.loss = functools.partial(_flow_matching_terms, **losses)
        self.sigma = losses["sigma"]
        self.optimizer = make_optimizer(**optim)
        self.num_context = num_context
        self.sampling = Sampling(**sampling).check()
        self.augment = augment
        self.ema_decay, self.accumulate = ema_decay, accumulate

    # --- training ---------------------------------------------------------------

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        seen = batch[self.seen]
        t = seen.shape[1]
        if t < 3:
            raise ValueError(
                f"clips of {t} frames; RIVER wants at least 3: a frame, the one before"
                " it, and an earlier one"
            )
        stride = 1 if self.cache_latents else self.stride
        h, w = seen.shape[2] // stride, seen.shape[3] // stride
        latent = jnp.zeros((1, h, w, self.latent_channels))
        ones = jnp.ones(1)
        variables = self.net.init(
            rng, latent, latent, latent, ones.astype(jnp.int32), ones
        )
        return TrainState.create(
            params={"field": variables["params"]},
            optimizer=self.optimizer,
            ema=self.ema_decay is not None,
            frozen=self.frozen,
        )

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def loss_fn(params, batch, rng):
            keys = rngs.for_rows(rng, batch[schema.ROW])
            num_frames = batch[self.seen].shape[1]
            chosen = _choose_frames(rngs.fold_in_each(keys, "frames"), num_frames)
            target, reference, condition = self._latents(
                state.frozen, batch, chosen, rngs.fold_in_each(keys, "augment")
            )
            terms = self.loss(
                target,
                rngs.fold_in_each(keys, "path"),
                lambda latent, time: self.net.apply(
                    {"params": params["field"]},
                    latent,
                    reference,
                    condition,
                    chosen.reference - chosen.condition,
                    time,
                    rngs.fold_in_each(keys, "dropout"),
                ),
            )
            return terms.mean(), {}

        return gradient_step(
            loss_fn,
            self.optimizer,
            state,
            batch,
            rng,
            accumulate=self.accumulate,
            ema_decay=self.ema_decay,
        )

    def _latents(self, frozen, batch, chosen, keys):
        """Latents of the three frames that were chosen of each clip: [3][b, ...].

        Only these are decompressed to floats and encoded.
        """
        frames = batch[self.seen]
        row = jnp.arange(len(frames))
        few = jnp.stack([frames[row, index] for index in chosen], 1)
        if not self.cache_latents:
            few = to_float(few)
            if self.augment:
                few = colour_jitter(few, keys, **self.augment)
            few = self.vae.encode(frozen["vae"], few)
        return jnp.moveaxis(jax.lax.stop_gradient(few), 1, 0)

    @functools.cached_property
    def encode_frames(self) -> Any:
        """uint8 [n, h, w, 3] -> latents [n, gh, gw, c], compiled: for `train_keys`."""

        @jax.jit
        def encode(params, frames):
            return self.vae.encode(params, to_float(frames)[None])[0]

        return functools.partial(encode, self.frozen["vae"])

    # --- evaluation and prediction ----------------------------------------------

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"]]:
        video = to_float(batch[schema.VIDEO])
        context, future = jnp.split(video, [self.num_context], 1)
        params = {**state.frozen, **state.prediction_params}
        predicted = self.predict(params, context, future.shape[1], rng)
        return baselines.psnr_beside_copy_last(predicted.video, context, future)

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
        sampling: Sampling | None = None,
    ) -> Prediction:
        """Continues the context by one of the futures that the model thinks possible.

        A context of one frame counts as two equal ones. Several futures of a context
        are several keys (`jax.vmap` over them encodes the context once).

        Args:
          sampling: how it is drawn; as the config says when None.
        """
        sampling = (sampling or self.sampling).check()
        latents = self.vae.encode(params["vae"], context)
        if latents.shape[1] == 1:
            latents = jnp.repeat(latents, 2, axis=1)
        following = roll_out(
            functools.partial(self.net.apply, {"params": params["field"]}),
            latents,
            num_future,
            rngs.for_rows(rng, jnp.arange(len(latents))),
            sampling,
            sigma=self.sigma,
        )
        return Prediction(video=self._frames(params, following))

    def reconstruct(
        self, params: Any, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t h w 3"]:
        """Frames in [0, 1] as the first stage gives them back, no prediction."""
        latents = self.vae.encode(params["vae"], video)
        return self._frames(params, jnp.moveaxis(latents, 1, 0))

    def _frames(self, params, latents):
        """[b, t, h, w, 3] of latents [t, b, ...]."""
        # One time step after the other: the memory of decoding does not grow with them.
        frames = jax.lax.map(
            lambda latent: self.vae.decode(params["vae"], latent), latents
        )
        return jnp.clip(jnp.moveaxis(frames, 0, 1), 0, 1)


class Chosen(NamedTuple):
    """Numbers of three frames of each clip: target = reference + 1 > condition + 1."""

    target: Int[Array, "b"]
    reference: Int[Array, "b"]
    condition: Int[Array, "b"]


def _choose_frames(keys: PRNGKeyArray, num_frames: int) -> Chosen:
    """Any frame from the third on, and any frame before the one before it."""

    def choose(key):
        first, second = jax.random.split(key)
        target = jax.random.randint(first, (), 2, num_frames)
        return target, jax.random.randint(second, (), 0, target - 1)

    target, condition = jax.vmap(choose)(keys)
    return Chosen(target, target - 1, condition)


def _flow_matching_terms(target, keys, velocity, *, sigma: float):
    """Mean squared error of the velocity at a random place of each path: [b].

    Lipman et al. 2023, eq. 23.

    Args:
      target: latents, [b, h, w, c].
      keys: [b], of noise and time.
      velocity: (latent, time) -> velocity.
      sigma: noise that is left at the end.
    """

    def draw(key):
        first, second = jax.random.split(key)
        noise = jax.random.normal(first, target.shape[1:])
        return noise, jax.random.uniform(second)

    noise, time = jax.vmap(draw)(keys)
    latent = transport.on_path(noise, target, time, sigma=sigma)
    error = velocity(latent, time) - transport.path_velocity(noise, target, sigma=sigma)
    return jnp.mean(jnp.square(error), axis=range(1, error.ndim))


def roll_out(
    field: Any,
    latents: Float[Array, "b t h w c"],
    num_future: int,
    keys: PRNGKeyArray,
    sampling: Sampling,
    *,
    sigma: float,
) -> Float[Array, "k b h w c"]:
    """Draws the latents of `num_future` further frames, one after the other.

    One loop over frames and one over solver steps: compiled in the same time whatever
    their numbers.

    Args:
      field: of `models.river.VectorField`: (latent, reference, condition, distance,
        time) -> velocity.
      latents: of the context, at least two.
      num_future: frames to add.
      keys: [b], of all that is drawn for an example.
      sampling: how.
      sigma: noise that is left at the end of a path.
    """
    b, t = latents.shape[:2]
    row = jnp.arange(b)
    horizon = sampling.past_horizon
    if horizon == ALL_OF_THE_PAST:
        horizon = t + num_future
    times = solvers.even_times(sampling.warm_start, 1.0, sampling.num_steps)
    empty = jnp.zeros((b, num_future, *latents.shape[2:]), latents.dtype)
    shape = latents.shape[2:]

    def next_frame(past, count):
        # `past` has room for all frames; the first `count` of them are known.
        reference = jax.lax.dynamic_index_in_dim(past, count - 1, 1, keepdims=False)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(own)
        begin = transport.on_path(
            noise, reference, jnp.full(b, sampling.warm_start), sigma=sigma
        )

        def velocity(latent, time, number):
            def draw(key):
                low = jnp.maximum(count - horizon, 0)
                return jax.random.randint(key, (), low, count - 1)

            index = jax.vmap(draw)(rngs.fold_in_each(own, number))
            return field(
                latent,
                reference,
                past[row, index],
                count - 1 - index,
                jnp.full(b, time),
            )

        latent = solvers.integrate(velocity, begin, times, method=sampling.method)
        past = jax.lax.dynamic_update_index_in_dim(past, latent, count, 1)
        return past, latent

    past = jnp.concatenate([latents, empty], 1)
    return jax.lax.scan(next_frame, past, t + jnp.arange(num_future))[1]
