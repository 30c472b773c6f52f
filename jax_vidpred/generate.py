"""RIVER's own library call, `generate_frames`, under its authors' argument names."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.systems.river import RiverSystem, Sampling
from jax_vidpred.train.rngs import for_step

_SLACK = 1e-4  # that values may be beyond -1 and 1, for rounding


def generate_frames(
    predictor: VideoPredictor,
    observations: Float[np.ndarray, "b n c h w"],
    num_frames: int,
    steps: int = 100,
    warm_start: float = 0.0,
    past_horizon: int = -1,
    verbose: bool = False,
    *,
    seed: int = 0,
) -> Float[np.ndarray, "b k c h w"]:
    """Continues videos as `generate_frames` of RIVER's model does.

    Solved by Kutta's 3/8 rule, which torchdiffeq calls rk4. Compiled once for each
    shape of the observations and each choice of the numbers; another `seed` compiles
    nothing.

    Args:
      predictor: what `jax_vidpred.load` gives for a work directory of RIVER.
      observations: frames in [-1, 1] of the size that it was trained with, channels
        before rows, as torch has them; NumPy or anything that becomes it. One frame
        counts as two equal ones.
      num_frames: to generate.
      steps: points in time from 0 to 1 (so one step less); with a warm start the part
        of them that is left, int((1 - warm_start) * steps).
      warm_start: in [0, 1): the time at which each path begins, from the frame before
        as noisy as it is then.
      past_horizon: frames that are looked back on, the last one included; -1 is all.
        The authors' code does not limit anything here; this does.
      verbose: whether to print what is done, and how long it took.
      seed: of what is drawn; the same seed gives the same frames.

    Returns:
      n + num_frames frames in [-1, 1], clipped: reconstructions of the observations by
      the autoencoder, then what was generated.

    Raises:
      ValueError: another system than RIVER, observations of another shape or range, or
        a number that cannot be.
    """
    if not isinstance(predictor.system, RiverSystem):
        raise ValueError(f"a {predictor.label} generates no frames; use predict")
    observations = _checked(observations, predictor.frame_size)
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}; wanted at least 1")
    points = int((1 - warm_start) * steps)
    if points < 2:
        raise ValueError(
            f"steps={steps} with warm_start={warm_start} leaves {max(points, 0)} points"
            " in time; wanted at least 2"
        )
    sampling = Sampling("rk4_38", points - 1, float(warm_start), int(past_horizon))
    begin = time.perf_counter()
    frames = jax.device_get(
        _generate(
            predictor.system,
            predictor.params,
            observations,
            for_step(seed, "predict", 0),
            num_frames=int(num_frames),
            sampling=sampling.check(),
        )
    )
    if verbose:
        print(
            f"{num_frames} frames of {len(frames)} videos, {points} points in time:"
            f" {time.perf_counter() - begin:.1f} s"
        )
    return frames


@functools.partial(jax.jit, static_argnames=("system", "num_frames", "sampling"))
def _generate(system, params, observations, rng, *, num_frames, sampling):
    context = (jnp.moveaxis(observations, 2, -1) + 1) / 2
    again = system.reconstruct(params, context)
    future = system.predict(params, context, num_frames, rng, sampling).video
    return 2 * jnp.moveaxis(jnp.concatenate([again, future], 1), -1, 2) - 1


def _checked(observations, frame_size) -> Float[np.ndarray, "b n c h w"]:
    observations = np.asarray(observations)
    shape = observations.shape
    if len(shape) != 5 or shape[2:] != (3, *frame_size) or 0 in shape:
        height, width = frame_size
        raise ValueError(
            f"observations of shape {list(shape)}; wanted [b, n, 3, {height}, {width}],"
            " the size of the frames in training"
        )
    if not np.issubdtype(observations.dtype, np.floating):
        raise ValueError(f"observations are {observations.dtype}; wanted float")
    low, high = observations.min(), observations.max()
    if not (low >= -1 - _SLACK and high <= 1 + _SLACK):  # also where they are NaN
        raise ValueError(
            f"observations have values from {low:g} to {high:g}; wanted [-1, 1]: uint8"
            " / 127.5 - 1"
        )
    return observations.astype(np.float32)
