"""Video prediction in JAX: how does this video go on?

    import jax_vidpred

    vidpred = jax_vidpred.load("runs/quickstart")
    prediction = vidpred.predict(context, num_future=12, ttt=10)

For models of RIVER there is `jax_vidpred.generate_frames` besides. Importing the
package is cheap; these import what they need.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from jax_vidpred.generate import generate_frames as generate_frames
    from jax_vidpred.predictor import VideoPredictor


def load(workdir: str | os.PathLike) -> "VideoPredictor":
    """The predictor that a training run has left in its work directory.

    Raises:
      ExperimentError, CheckpointError, ValueError: nothing there that predicts; the
        message says how to go on.
    """
    from jax_vidpred.predictor import VideoPredictor

    return VideoPredictor.load(workdir)


def __getattr__(name: str) -> typing.Any:
    if name == "generate_frames":
        from jax_vidpred.generate import generate_frames

        return generate_frames
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
