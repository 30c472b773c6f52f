"""Building blocks of a system's `train_step`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jax_vidpred.data.schema import ROW
from jax_vidpred.train.optim import find_learning_rate
from jax_vidpred.train.protocol import Batch, Scalars
from jax_vidpred.train.state import TrainState


def gradient_step(
    loss_fn: Callable[[Any, Batch, jax.Array], tuple[Float[Array, ""], Scalars]],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> tuple[TrainState, Scalars]:
    """One update of `state.params` down the gradient of `loss_fn`.

    Args:
      loss_fn: parameters, batch, key -> (loss, named scalars to log), both means over
        the examples of the batch; called for parts of it. The batch has ROW besides:
        what is drawn for each example is drawn by `rngs.for_rows`.
      optimizer: the one that made `state.opt_state`.
      state: before the update.
      batch: arrays [b, ...].
      rng: for `loss_fn`.
      accumulate: parts that the batch is cut into and that are worked on one after the
        other, to need the memory of one; their gradients and scalars are averaged.
      ema_decay: of the moving average of the parameters; None keeps no average. The
        decay warms up as (1 + step) / (10 + step), so that the random start is
        forgotten early.

    Returns:
      The state after the update, one step on, and the scalars of `loss_fn` with
      `loss`, `gradient_norm` (before clipping), `update_norm`, `parameter_norm` and,
      for an optimiser of `optim.py`, `learning_rate`.

    Raises:
      ValueError: `ema_decay` without an average in the state, or the reverse; a batch
        that cannot be cut into so many parts.
    """
    return update_step(
        jax.value_and_grad(loss_fn, has_aux=True),
        optimizer,
        state,
        batch,
        rng,
        accumulate=accumulate,
        ema_decay=ema_decay,
    )


def update_step(
    gradient_fn: Callable[[Any, Batch, jax.Array], tuple[tuple[Array, Scalars], Any]],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> tuple[TrainState, Scalars]:
    """`gradient_step` along a gradient that is not that of one loss.

    Args:
      gradient_fn: parameters, batch, key -> ((loss, named scalars), gradients), what
        `jax.value_and_grad(loss_fn, has_aux=True)` gives. It sees the examples of one
        device; `mean_over_devices` tells it about the others.
      The rest, results and errors: as of `gradient_step`.
    """
    if (ema_decay is None) != (state.ema is None):
        raise ValueError(
            f"ema_decay={ema_decay}, but the state was made"
            f" {'without' if state.ema is None else 'with'} an average;"
            " pass TrainState.create(..., ema=ema_decay is not None)"
        )

    def gradient(params, batch, rng):
        return _mean_over_parts(
            lambda part: gradient_fn(params, part, rng), batch, accumulate
        )

    size = next(iter(batch.values())).shape[0]
    batch = {**batch, ROW: jnp.arange(size)}
    (loss, scalars), gradients = _on_each_device(gradient, state.params, batch, rng)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, ema, params)
    scalars = {
        **scalars,
        "loss": loss,
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(params),
    }
    learning_rate = find_learning_rate(opt_state)
    if learning_rate is not None:
        scalars["learning_rate"] = learning_rate
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema=ema
    )
    return state, scalars


def mean_over_devices(values: Any) -> Any:
    """Mean over all devices of arrays that each made from its examples.

    For a loss or gradient function that needs a mean over the whole batch (the whole
    part, where a batch is worked on in parts) to go on with. Where examples are not
    split, the values as they are.
    """
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.pmean(values, axes) if axes else values


def _on_each_device(
    function: Callable[..., Any], params: Any, batch: Batch, rng: jax.Array
) -> Any:
    """Mean of what a function of (params, batch, rng) gives on the part of each device.

    Each device computes with its own examples and parameters that are whole; only the
    result is exchanged. Left to itself, XLA sums the gradient over devices in each turn
    of a loop over time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(params, batch, rng)
    axes, everywhere = tuple(mesh.axis_names), PartitionSpec()
    return jax.shard_map(
        lambda *arguments: mean_over_devices(function(*arguments)),
        in_specs=(everywhere, PartitionSpec(axes), everywhere),
        out_specs=everywhere,
        check_vma=False,
    )(params, batch, rng)


def _mean_over_parts(function: Callable[[Batch], Any], batch: Batch, count: int) -> Any:
    """Mean of what a function gives for each of `count` parts of a batch."""
    if count == 1:
        return function(batch)
    size = next(iter(batch.values())).shape[0]
    if size % count:
        raise ValueError(
            f"train.accumulate={count} does not divide a batch of {size} examples;"
            " choose a divisor"
        )
    # Every count-th example: so the devices together have the same examples in a part,
    # however many they are.
    parts = {
        key: array.reshape(size // count, count, *array.shape[1:]).swapaxes(0, 1)
        for key, array in batch.items()
    }

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    first = {key: array[0] for key, array in parts.items()}
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / count, total)
