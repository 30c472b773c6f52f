"""The optimiser: AdamW, warm-up and decay, clipping, a learning rate per subtree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Top-level name of a discriminator's parameters; all others are the generator's.
DISCRIMINATOR = "discriminator"


class LearningRateState(NamedTuple):
    """Remembers the learning rate of the last update, so that it can be logged."""

    count: jax.Array
    learning_rate: jax.Array


def make_schedule(
    *, learning_rate: float, warmup_steps: int, num_steps: int, schedule: str
) -> optax.Schedule:
    """Linear warm-up from 0, then `schedule`.

    Args:
      learning_rate: the highest one.
      warmup_steps: of the warm-up.
      num_steps: of all, warm-up included.
      schedule: "constant"; "cosine", or "polynomial", the square root of what is left,
        down to 0.

    Raises:
      ValueError: unknown schedule, or a warm-up that is longer than the run.
    """
    if not 0 <= warmup_steps < num_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} must be at least 0 and below"
            f" num_steps={num_steps}"
        )
    if schedule == "cosine":
        decay = optax.cosine_decay_schedule(learning_rate, num_steps - warmup_steps)
    elif schedule == "constant":
        decay = optax.constant_schedule(learning_rate)
    elif schedule == "polynomial":
        decay = optax.polynomial_schedule(
            learning_rate, 0.0, power=0.5, transition_steps=num_steps - warmup_steps
        )
    else:
        raise ValueError(
            f'schedule={schedule!r}: must be "cosine", "constant" or "polynomial"'
        )
    if not warmup_steps:
        return decay
    # Update 0 already moves: its rate is learning_rate / (warmup_steps + 1).
    warmup = optax.linear_schedule(
        learning_rate / (warmup_steps + 1), learning_rate, warmup_steps
    )
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    b2: float = 0.999,
    clip_norm: float = 1.0,
    scales: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with what every run here needs.

    Args:
      learning_rate: the highest one.
      num_steps: of the run; a schedule that falls ends there.
      warmup_steps: of linear warm-up.
      schedule: of `make_schedule`.
      weight_decay: decoupled, on arrays of two and more axes only: biases and the
        scales of norms are left alone.
      b2: decay of Adam's mean of squares. With b2 <= 1 - (1 - b1)^2 = 0.99 nothing
        moves further than the learning rate in a step (Kingma and Ba 2015, section
        2.1): one odd batch cannot throw a network off.
      clip_norm: bound of the gradient's global norm, before Adam.
      scales: factor on the learning rate by top-level name of the parameters. Factor
        0 freezes a subtree; its gradient does not count in the norm that is clipped.

    Raises:
      ValueError: a bad value; at `init` also for a name that is not in the parameters.
    """
    rate = make_schedule(
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        num_steps=num_steps,
        schedule=schedule,
    )
    scales = dict(scales or {})
    stages = [
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b2=b2),
        optax.add_decayed_weights(weight_decay, mask=_has_axes),
        _scale_by_rate(rate),
    ]
    if scales:
        frozen = {name: float(factor != 0) for name, factor in scales.items()}
        stages = [_scale_subtrees(frozen), *stages, _scale_subtrees(scales)]
    return optax.chain(*stages)


class PairState(NamedTuple):
    """States of two optimisers; the first one's learning rate is the one that is found.

    Attributes:
      generator: of the generator's.
      discriminator: of the discriminator's.
    """

    generator: Any
    discriminator: Any


def pair_optimizers(
    generator: optax.GradientTransformation,
    discriminator: optax.GradientTransformation,
    *,
    start: int = 0,
) -> optax.GradientTransformation:
    """One optimiser for the subtree DISCRIMINATOR and one for everything else.

    Neither sees the other's gradient: a norm that is clipped is that of its own.

    Args:
      generator: for all but DISCRIMINATOR.
      discriminator: for DISCRIMINATOR.
      start: number of the first update that moves the discriminator. Until then its
        optimiser stands still, and its schedule begins there: its num_steps are those
        that are left. Were Adam fed zeros instead, it would divide by a mean of squares
        that is far too small: its first steps would be up to six learning rates long.

    Raises:
      ValueError: at `init`, parameters without DISCRIMINATOR.
    """
    late = optax.conditionally_mask(discriminator, lambda step: step >= start)

    def init(params):
        if DISCRIMINATOR not in params:
            raise ValueError(
                f"the parameters have {sorted(params)}; name those of the"
                f" discriminator {DISCRIMINATOR!r}"
            )
        others, own = split_discriminator(params)
        return PairState(generator.init(others), late.init(own))

    def update(updates, state, params):
        (others, own), (before, own_before) = map(
            split_discriminator, (updates, params)
        )
        others, first = generator.update(others, state.generator, before)
        own, second = late.update(own, state.discriminator, own_before)
        return others | {DISCRIMINATOR: own}, PairState(first, second)

    return optax.GradientTransformation(init, update)


def split_discriminator(tree: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What is the generator's of a tree by name, and what is the discriminator's."""
    others = {name: value for name, value in tree.items() if name != DISCRIMINATOR}
    return others, tree[DISCRIMINATOR]


def find_learning_rate(opt_state: Any) -> jax.Array | None:
    """Learning rate of the last update, None when the optimiser keeps none."""
    found = [
        node.learning_rate
        for node in jax.tree.leaves(opt_state, is_leaf=_is_rate_state)
        if _is_rate_state(node)
    ]
    return found[0] if found else None


def _is_rate_state(node: Any) -> bool:
    return isinstance(node, LearningRateState)


def _has_axes(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _scale_by_rate(rate: optax.Schedule) -> optax.GradientTransformation:
    def init(params):
        del params
        count = jnp.zeros((), jnp.int32)
        return LearningRateState(count, jnp.asarray(rate(count), jnp.float32))

    def update(updates, state, params=None):
        del params
        now = jnp.asarray(rate(state.count), jnp.float32)
        updates = jax.tree.map(lambda u: (-now).astype(u.dtype) * u, updates)
        return updates, LearningRateState(state.count + 1, now)

    return optax.GradientTransformation(init, update)


def _scale_subtrees(scales: Mapping[str, float]) -> optax.GradientTransformation:
    def init(params):
        unknown = sorted(set(scales) - set(params))
        if unknown:
            raise ValueError(
                f"optimiser scales for {unknown}: the parameters have"
                f" {sorted(params)}; use those names"
            )
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        scaled = {
            name: _scale(subtree, scales.get(name, 1.0))
            for name, subtree in updates.items()
        }
        return type(updates)(scaled), state

    return optax.GradientTransformation(init, update)


def _scale(tree: Any, factor: float) -> Any:
    if factor == 0:  # a product with 0 would keep a NaN
        return jax.tree.map(jnp.zeros_like, tree)
    return jax.tree.map(lambda leaf: factor * leaf, tree)
