"""Building blocks of a system's `train_step`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jax_vidpred.train.optim import find_learning_rate
from jax_vidpred.train.protocol import Scalars
from jax_vidpred.train.state import TrainState


def gradient_step(
    loss_fn: Callable[[Any], tuple[Float[Array, ""], Scalars]],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    *,
    ema_decay: float | None = None,
) -> tuple[TrainState, Scalars]:
    """One update of `state.params` down the gradient of `loss_fn`.

    Args:
      loss_fn: parameters -> (loss, named scalars to log).
      optimizer: the one that made `state.opt_state`.
      state: before the update.
      ema_decay: of the moving average of the parameters; None keeps no average. The
        decay warms up as (1 + step) / (10 + step), so that the random start is
        forgotten early.

    Returns:
      The state after the update, one step on, and the scalars of `loss_fn` with
      `loss`, `gradient_norm` (before clipping), `update_norm`, `parameter_norm` and,
      for an optimiser of `optim.py`, `learning_rate`.

    Raises:
      ValueError: `ema_decay` without an average in the state, or the reverse.
    """
    if (ema_decay is None) != (state.ema is None):
        raise ValueError(
            f"ema_decay={ema_decay}, but the state was made"
            f" {'without' if state.ema is None else 'with'} an average;"
            " pass TrainState.create(..., ema=ema_decay is not None)"
        )
    (loss, scalars), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
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
