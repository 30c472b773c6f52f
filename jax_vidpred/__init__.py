"""Video prediction in JAX: how does this video go on?

    import jax_vidpred

    vidpred = jax_vidpred.load("runs/quickstart")
    prediction = vidpred.predict(context, num_future=12, ttt=10)

Importing the package is cheap; `load` imports what it needs.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from jax_vidpred.predictor import VideoPredictor


def load(workdir: str | os.PathLike) -> "VideoPredictor":
    """The predictor that a training run has left in its work directory.

    Raises:
      ExperimentError, CheckpointError, ValueError: nothing there that predicts; the
        message says how to go on.
    """
    from jax_vidpred.predictor import VideoPredictor

    return VideoPredictor.load(workdir)
