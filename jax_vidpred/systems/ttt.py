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

from jax_vidpred.ops.conv import inside_loop
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
      held_out_before: loss on the held-out pairs with the original parameters.
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
    learning_rate: float = 1e-3,
    mode: str = "offline",
    window: int = 8,
    held_out: int = 2,
) -> Adaptation:
    """Adapts a copy of the system's subtree to each video.

    The last `held_out` pairs of the context are never trained on. They judge: of all
    steps of the inner loop (the start included) the one with the lowest held-out loss
    is returned, so adapting cannot make it worse there.

    Args:
      system: the predictor.
      params: what `system.predict` takes.
      context: the past of each video, in [0, 1].
      num_steps: inner Adam steps; "offline" takes all on the whole context, "online"
        takes them for each arriving frame, on the last `window` pairs.
      learning_rate: of the inner loop.
      mode: "offline" or "online".
      window: pairs seen by an online step.
      held_out: pairs at the end of the context that judge.

    Raises:
      ValueError: unknown mode, or a context too short to hold pairs out.
    """
    pairs = context.shape[1] - 1
    if pairs <= held_out:
        raise ValueError(
            f"test-time training holds {held_out} pairs of frames out of a context of"
            f" {context.shape[1]} frames; give at least {held_out + 2} context frames"
        )
    if mode == "offline":
        masks = jnp.ones((num_steps, pairs))
    elif mode == "online":
        newest = jnp.repeat(jnp.arange(pairs - held_out), num_steps)[:, None]
        age = newest - jnp.arange(pairs)[None]
        masks = ((age >= 0) & (age < window)) * 1.0
    else:
        raise ValueError(f"mode {mode!r} is unknown; use offline or online")
    trained = jnp.arange(pairs) < pairs - held_out
    masks = masks * trained[None]
    start = _get(params, system.adaptable)
    optimizer = optax.adam(learning_rate)

    def adapt_one(data):
        def loss(subtree, mask):
            terms = system.adaptation_loss(
                _replace(params, system.adaptable, subtree), data
            )
            judged = jnp.mean(terms, where=~trained)
            return jnp.sum(terms * mask) / jnp.sum(mask), judged

        def better(best, subtree, judged):
            keep = judged < best[1]
            chosen = jax.tree.map(
                lambda new, old: jnp.where(keep, new, old), subtree, best[0]
            )
            return chosen, jnp.minimum(judged, best[1])

        def step(carry, mask):
            subtree, opt_state, best = carry
            (_, judged), gradient = jax.value_and_grad(loss, has_aux=True)(
                subtree, mask
            )
            best = better(best, subtree, judged)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(subtree, updates), opt_state, best), judged

        infinite = jnp.array(jnp.inf, context.dtype)
        carry = (start, optimizer.init(start), (start, infinite))
        (subtree, _, best), judged = jax.lax.scan(step, carry, masks)
        last = loss(subtree, trained * 1.0)[1]
        subtree, after = better(best, subtree, last)
        before = judged[0] if num_steps else last
        return subtree, before, after

    data = system.adaptation_data(params, context)
    subtree, before, after = over_videos(adapt_one, data)
    return Adaptation(
        params=_replace(params, system.adaptable, subtree),
        held_out_before=before,
        held_out_after=after,
        kept=after < before,
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
        with inside_loop():
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
