"""Test-time training: adaptation as a function on parameters.

For each video a copy of one named subtree (the flow head) goes on learning on the
video's own past, L1 between the decoded warp of frame t and frame t + 1 (Sun et al.
2020, with the warp as the self-supervised task), and is thrown away afterwards. Only
context frames enter, so nothing of the future can leak.

A system that can be adapted names the subtree, `adaptable`, and offers
`adaptation_data(params, context)`, computed once, and `adaptation_loss(params, data)`,
one number per pair of context frames.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from jax_vidpred.train.protocol import Prediction, Predictor


class Adaptable(Predictor, Protocol):
    """A predictor with a subtree that can go on learning on a single video."""

    adaptable: tuple[str, ...]  # path of the subtree in the parameters

    def adaptation_data(self, params: Any, context: Float[Array, "b t h w 3"]) -> Any:
        """Arrays [b, ...] that the tuned leaves cannot change."""
        ...

    def adaptation_loss(self, params: Any, data: Any) -> Float[Array, "k"]:
        """Loss of each pair (t, t + 1) of one video's context, in order of time."""
        ...


class Adaptation(flax.struct.PyTreeNode):
    """Result of adapting to a batch of videos.

    Attributes:
      params: the whole tree; leaves of the adapted subtree have a leading axis [b].
      held_out_before: mean squared error of the held-out frames, as predicted with the
        original parameters.
      held_out_after: the same with the returned ones; never larger.
      kept: whether the adapted parameters were kept.
    """

    params: Any
    held_out_before: Float[Array, "b"]
    held_out_after: Float[Array, "b"]
    kept: Bool[Array, "b"]


def adapt(
    system: Adaptable,
    params: Any,
    context: Float[Array, "b t h w 3"],
    *,
    num_steps: int,
    learning_rate: float = 1e-4,
    mode: str = "offline",
    window: int = 8,
    held_out: int = 2,
    min_gain: float = 0.02,
) -> Adaptation:
    """Adapts a copy of the system's subtree to each video.

    The last `held_out` frames of the context are never trained on. They judge: the
    system predicts them with the old and the new parameters, and the new ones are kept
    only where they predict better. So adapting cannot make it worse there. (The inner
    loss cannot judge: flow that merely makes up for the blur of warping lowers it, and
    spoils the prediction.)

    Args:
      system: the predictor.
      params: what `system.predict` takes.
      context: the past of each video, in [0, 1].
      num_steps: inner Adam steps; "offline" takes all on the whole context, "online"
        takes them for each arriving frame, on the last `window` pairs.
      learning_rate: of the inner loop.
      mode: "offline" or "online".
      window: pairs seen by an online step.
      held_out: frames at the end of the context that judge.
      min_gain: share of the error by which the new parameters must be better; on a few
        frames a smaller gain is chance.

    Raises:
      ValueError: unknown mode, or a context too short to hold frames out.
    """
    if context.shape[1] < held_out + 2:
        raise ValueError(
            f"test-time training holds {held_out} frames out of a context of"
            f" {context.shape[1]}; give at least {held_out + 2} context frames"
        )
    past, judged = jnp.split(context, [context.shape[1] - held_out], 1)
    pairs = past.shape[1] - 1
    if mode == "offline":
        weights = jnp.ones((num_steps, pairs))
    elif mode == "online":
        newest = jnp.repeat(jnp.arange(pairs), num_steps)[:, None]
        age = newest - jnp.arange(pairs)[None]
        weights = ((age >= 0) & (age < window)) * 1.0
    else:
        raise ValueError(f"mode {mode!r} is unknown; use offline or online")
    start = _get(params, system.adaptable)
    optimizer = optax.adam(learning_rate)

    def adapt_one(inputs):
        data, past, judged = inputs

        def loss(subtree, weight):
            own = _replace(params, system.adaptable, subtree)
            return jnp.sum(system.adaptation_loss(own, data) * weight) / weight.sum()

        def error(subtree):
            own = _replace(params, system.adaptable, subtree)
            rng = jax.random.key(0)  # the same for both, should the system draw
            predicted = system.predict(own, past[None], held_out, rng)
            return jnp.mean(jnp.square(predicted.video[0] - judged))

        def step(carry, weight):
            subtree, opt_state = carry
            gradient = jax.grad(loss)(subtree, weight)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(subtree, updates), opt_state), None

        carry = (start, optimizer.init(start))
        (tuned, _), _ = jax.lax.scan(step, carry, weights)
        before, after = error(start), error(tuned)
        kept = after < (1 - min_gain) * before
        subtree = jax.tree.map(lambda new, old: jnp.where(kept, new, old), tuned, start)
        return subtree, before, jnp.where(kept, after, before), kept

    data = system.adaptation_data(params, past)
    subtree, before, after, kept = over_videos(adapt_one, (data, past, judged))
    return Adaptation(
        params=_replace(params, system.adaptable, subtree),
        held_out_before=before,
        held_out_after=after,
        kept=kept,
    )


def predict_adapted(
    system: Adaptable,
    params: Any,
    context: Float[Array, "b t h w 3"],
    num_future: int,
    rng: jax.Array,
) -> Prediction:
    """`system.predict` with parameters from `adapt`: each video with its own."""

    def predict_one(inputs):
        subtree, frames = inputs
        own = _replace(params, system.adaptable, subtree)
        predicted = system.predict(own, frames[None], num_future, rng)
        return jax.tree.map(lambda leaf: leaf[0], predicted)

    return over_videos(predict_one, (_get(params, system.adaptable), context))


def over_videos(function: Callable, inputs: Any) -> Any:
    """Applies a function of one video to a batch, in the form that is fast here.

    Mapped over videos, the weights of the adapted head have a batch axis, and a
    convolution with batched weights becomes a grouped one, which XLA's CPU backend runs
    about seventy times slower: there the videos are taken one after the other.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(function, inputs)
    return jax.vmap(function)(inputs)


def _get(params: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        params = params[name]
    return params


def _replace(params: Any, path: tuple[str, ...], subtree: Any) -> Any:
    if not path:
        return subtree
    name, *rest = path
    return {**params, name: _replace(params[name], tuple(rest), subtree)}
