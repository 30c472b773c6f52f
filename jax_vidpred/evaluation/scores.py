"""Predictions beside what costs nothing and what cannot be reached: the same scores."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jax_vidpred.metrics import perceptual, suite
from jax_vidpred.ops.image import area_mean, to_float
from jax_vidpred.report.table import CONSTANT_VELOCITY, COPY_LAST, VAE_CEILING
from jax_vidpred.systems import baselines

Scores = dict[str, dict[str, Array]]
AnyArray = Array | np.ndarray


def last_context_flow(
    flow: Float[AnyArray, "b k gh gw 2"], num_context: int
) -> Float[AnyArray, "b gh gw 2"] | None:
    """The flow from the last context frame to the one before it; None of one frame."""
    return flow[:, num_context - 2] if num_context > 1 else None


@functools.partial(jax.jit, static_argnames=("system", "size", "num_context"))
def baseline_videos(
    system: Any,
    params: Any,
    video: UInt8[AnyArray, "b n h w 3"],
    flow: Float[AnyArray, "b gh gw 2"] | None,
    *,
    size: tuple[int, int],
    num_context: int,
) -> dict[str, Float[Array, "b t h w 3"]]:
    """The baselines' futures and the VAE ceiling, at the size of the video.

    Args:
      system: which predicts; one with a `vae` gets a ceiling.
      params: of the system.
      video: [b, num_context + t, h, w, 3] context and true future.
      flow: backward flow of the last context frame for constant velocity, in pixels of
        its own grid; None leaves that baseline out.
      size: (height, width) of the frames that the system works on.
      num_context: frames of the context.
    """
    context, future = jnp.split(to_float(video), [num_context], 1)
    num_future = future.shape[1]
    videos = {COPY_LAST: baselines.copy_last(context, num_future)}
    if flow is not None:
        videos[CONSTANT_VELOCITY] = baselines.constant_velocity(
            context, flow, num_future
        )
    if hasattr(system, "vae"):
        own = resize_frames(future, *size)
        again = reconstruct(system.vae, params["vae"], own)
        videos[VAE_CEILING] = resize_frames(again, *future.shape[2:4])
    return videos


def resize_frames(
    video: Float[Array, "b t h w 3"], height: int, width: int
) -> Float[Array, "b t h2 w2 3"]:
    """Frames of another size: shrunk by averaging areas, enlarged bilinearly."""
    b, t, h, w, c = video.shape
    if (h, w) == (height, width):
        return video
    if height <= h and width <= w:
        return area_mean(video, height, width)
    return jax.image.resize(video, (b, t, height, width, c), "bilinear")


def score_beside_baselines(
    system: Any,
    params: Any,
    video: UInt8[AnyArray, "b n h w 3"],
    predictions: Mapping[str, Float[AnyArray, "b t h w 3"]],
    flow: Float[AnyArray, "b gh gw 2"] | None,
    num_context: int,
) -> Scores:
    """Scores of predictions, of the baselines and of the VAE ceiling.

    Args:
      predictions: name -> future frames.
      others: as for `baseline_videos`.

    Returns:
      name -> scores as from `metrics.suite.headline_scores`; predictions come first.
    """
    size = video.shape[2:4]
    beside = baseline_videos(
        system, params, video, flow, size=size, num_context=num_context
    )
    videos = in_order({**predictions, **beside}, predictions)
    context, future = jnp.split(to_float(jnp.asarray(video)), [num_context], 1)
    return {
        name: dict(headline_scores(frames, future, context[:, -1]))
        for name, frames in videos.items()
    }


def in_order(by_system: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """The same, predictions first, then the baselines, then the ceiling."""
    names = [*first, CONSTANT_VELOCITY, COPY_LAST, VAE_CEILING]
    return {name: by_system[name] for name in names if name in by_system}


def score_frames(
    videos: Mapping[str, Float[AnyArray, "b t h w 3"]],
    video: UInt8[AnyArray, "b n h w 3"],
    *,
    num_context: int,
    ssim: str,
) -> Scores:
    """`metrics.suite.frame_scores` of each against a video with its context."""
    context, future = jnp.split(to_float(jnp.asarray(video)), [num_context], 1)
    steps = _true_steps(future, context[:, -1])
    return {
        name: dict(_frame_scores(frames, future, context[:, -1], steps, ssim=ssim))
        for name, frames in videos.items()
    }


# Compiled once, whatever the number of systems.
_true_steps = jax.jit(suite.true_steps)
_frame_scores = jax.jit(suite.frame_scores, static_argnames="ssim")
headline_scores = jax.jit(suite.headline_scores)


def reconstruct(
    vae: Any, params: Any, video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t h w 3"]:
    """Frames, encoded and decoded; one time step at a time, so memory stays bounded."""

    def again(frames):
        return vae.decode(params, vae.encode(params, frames[:, None]))[:, 0]

    return jnp.moveaxis(jax.lax.map(again, jnp.moveaxis(video, 1, 0)), 0, 1)


def score_reconstruction(
    system: Any,
    params: Any,
    video: UInt8[AnyArray, "b t h w 3"],
    distances: Mapping[str, perceptual.Distance],
    *,
    ssim: str,
) -> Scores:
    """Scores of a VAE: every frame of the clip, encoded and decoded.

    Args:
      distances: name -> LPIPS, as far as its weights are there.
      ssim: preset of `metrics.frame.SSIM_PRESETS`.
    """
    frames = to_float(jnp.asarray(video))
    again = _reconstruct(system, params, frames)
    scores = dict(_fidelity(again, frames, ssim=ssim))
    for name, distance in distances.items():
        scores[name] = perceptual.lpips(again, frames, distance)
    return {"VAE": scores}


_reconstruct = jax.jit(reconstruct, static_argnames="vae")
_fidelity = jax.jit(suite.fidelity, static_argnames="ssim")


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
