"""What a trained system costs: parameters, a training step, a prediction."""

from typing import Any

import jax
import numpy as np

from jax_vidpred.benchmarking.phases import training_call, untrained
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.stopwatch import measure

REPEATS = 9  # fewer where calls take long, see `measure`


def measure_costs(
    predictor: VideoPredictor, num_context: int, num_future: int
) -> dict[str, Any]:
    """Size and speed of a system on this machine, on videos of noise.

    Args:
      predictor: a trained system.
      num_context, num_future: frames of the prediction that is measured, of one video.

    Returns:
      `parameters` that are trained, and those that are kept `frozen`;
      `train_step_ms`, of a batch of `batch_size` clips of `clip_frames` frames;
      `predict_ms`; both medians without what compiling takes, which is told apart
      (`train_compile_seconds`); `gflop`, of a training step; `device`.
    """
    data = predictor.config["data"]
    phase = untrained(predictor.config, predictor.system)
    step, about = training_call(phase)
    trained = measure(step, repeats=REPEATS, examples=data["batch_size"], unit="clips")
    size = (num_context, *predictor.frame_size, 3)
    context = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    predicted = measure(
        lambda: predictor.predict(context, num_future),
        repeats=REPEATS,
        examples=1,
        unit="videos",
    )
    return {
        "parameters": _count(phase.state.params),
        "frozen": _count(phase.state.frozen),
        "train_step_ms": trained["wall_ms"]["median"],
        "batch_size": data["batch_size"],
        "clip_frames": data["clip_frames"],
        "gflop": about["flop"] / 1e9,
        "train_compile_seconds": about["compile_seconds"],
        "predict_ms": predicted["wall_ms"]["median"],
        "frames": [num_context, num_future],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
