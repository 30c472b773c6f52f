"""What systems show of themselves while they are trained."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.data import schema
from jax_vidpred.ops.image import to_float
from jax_vidpred.train.protocol import Batch, Predictor
from jax_vidpred.train.state import TrainState

CONTEXT_BRIGHTNESS = 0.5  # so that one sees where the prediction begins


def beside(
    left: Float[Array, "b t h w 3"], right: Float[Array, "b t h w 3"]
) -> Float[Array, "b t h 2*w 3"]:
    """Two videos as one, the second to the right of the first."""
    return jnp.concatenate([left, right], axis=3)


def continuation(
    system: Predictor,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    num_context: int,
    **told: Any,
) -> Float[Array, "b t h 2*w 3"]:
    """The true clip beside its context, dimmed, and what the system makes follow.

    `told` are further arguments of `predict`, where the system has such.
    """
    video = to_float(batch[schema.VIDEO])
    context, future = jnp.split(video, [num_context], 1)
    params = {**state.frozen, **state.prediction_params}
    predicted = system.predict(params, context, future.shape[1], rng, **told).video
    shown = jnp.concatenate([CONTEXT_BRIGHTNESS * context, predicted], 1)
    return beside(video, shown)


def reconstruction(
    system: Any, state: TrainState, batch: Batch
) -> Float[Array, "b t h 2*w 3"]:
    """The true clip beside what a first stage decodes of what it encoded."""
    video = to_float(batch[schema.VIDEO])
    params = state.prediction_params
    return beside(video, system.decode(params, system.encode(params, video)))
