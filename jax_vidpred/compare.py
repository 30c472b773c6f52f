"""Predictions beside what costs nothing and what cannot be reached: the same scores."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jax_vidpred.metrics import suite
from jax_vidpred.ops.image import to_float
from jax_vidpred.report.table import CONSTANT_VELOCITY, COPY_LAST, VAE_CEILING
from jax_vidpred.systems import baselines

Scores = dict[str, dict[str, Array]]
AnyArray = Array | np.ndarray


def last_context_flow(
    flow: Float[AnyArray, "b k gh gw 2"], num_context: int
) -> Float[AnyArray, "b gh gw 2"]:
    """The flow from the last context frame to the one before it."""
    return flow[:, num_context - 2]


def compare(
    system: Any,
    params: Any,
    video: UInt8[AnyArray, "b n h w 3"],
    predictions: Mapping[str, Float[AnyArray, "b t h w 3"]],
    flow: Float[AnyArray, "b gh gw 2"] | None,
    num_context: int,
) -> Scores:
    """Scores of predictions, of the baselines and of the VAE ceiling.

    Args:
      system: which has predicted; one with a `vae` gets a ceiling.
      params: of the system.
      video: [b, num_context + t, h, w, 3] context and true future.
      predictions: name -> future frames.
      flow: backward flow of the last context frame for constant velocity, in pixels of
        its own grid; None leaves that baseline out.
      num_context: frames of the context.

    Returns:
      name -> scores as from `metrics.suite.frame_scores`; predictions come first.
    """
    scores = _compare(system, params, video, predictions, flow, num_context)
    names = [*predictions, CONSTANT_VELOCITY, COPY_LAST, VAE_CEILING]
    return {name: dict(scores[name]) for name in names if name in scores}


@functools.partial(jax.jit, static_argnames=("system", "num_context"))
def _compare(system, params, video, predictions, flow, num_context):
    context, future = jnp.split(to_float(video), [num_context], 1)
    num_future = future.shape[1]
    videos = dict(predictions)
    if flow is not None:
        videos[CONSTANT_VELOCITY] = baselines.constant_velocity(
            context, flow, num_future
        )
    videos[COPY_LAST] = baselines.copy_last(context, num_future)
    if hasattr(system, "vae"):
        videos[VAE_CEILING] = reconstruct(system.vae, params["vae"], future)
    return {
        name: suite.frame_scores(frames, future, context[:, -1])
        for name, frames in videos.items()
    }


def reconstruct(
    vae: Any, params: Any, video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t h w 3"]:
    """Frames, encoded and decoded; one time step at a time, so memory stays bounded."""

    def again(frames):
        return vae.decode(params, vae.encode(params, frames[:, None]))[:, 0]

    return jnp.moveaxis(jax.lax.map(again, jnp.moveaxis(video, 1, 0)), 0, 1)


@functools.partial(jax.jit, static_argnames=("system",))
def compare_reconstruction(
    system: Any, params: Any, video: UInt8[AnyArray, "b t h w 3"]
) -> Scores:
    """Scores of a VAE: every frame of the clip, encoded and decoded."""
    frames = to_float(video)
    scores = suite.frame_scores(
        reconstruct(system, params, frames), frames, frames[:, 0]
    )
    del scores["psnr_moving"]  # speaks of prediction
    return {"VAE": scores}


@functools.partial(jax.jit, static_argnames=("width",))
def flow_errors(
    flows: Mapping[str, Float[AnyArray, "b k gh gw 2"]],
    truth: Float[AnyArray, "b k gh gw 2"],
    known: Bool[AnyArray, "b"],
    width: int,
) -> Scores:
    """End-point errors on moving cells; copy-last stands for flow that is zero."""
    return {
        name: {"flow_error": suite.moving_flow_error(flow, truth, width, known)}
        for name, flow in {**flows, COPY_LAST: jnp.zeros_like(truth)}.items()
    }
