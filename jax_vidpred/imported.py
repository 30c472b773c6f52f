"""Work directories that are made of checkpoints of others, as training leaves them."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jax_vidpred import experiment, systems
from jax_vidpred.experiment import ExperimentError
from jax_vidpred.train.checkpoint import Checkpoints
from jax_vidpred.train.protocol import Stage
from jax_vidpred.train.state import TrainState


@contextlib.contextmanager
def new_workdir(workdir: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to fill: it becomes `workdir`, or is gone where an error is raised.

    Raises:
      ExperimentError: the work directory holds something.
    """
    workdir = pathlib.Path(workdir).absolute()
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ExperimentError(f"{workdir} holds something already; choose a new folder")
    part = workdir.with_name(workdir.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of an import that was killed
    try:
        yield part
        part.replace(workdir)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_stage(
    workdir: pathlib.Path,
    requires_dir: pathlib.Path,
    config: Mapping[str, Any],
    stages: Mapping[str, Stage],
    params: Mapping[str, Any],
) -> None:
    """A work directory as after the last step of training.

    Args:
      workdir: to write into.
      requires_dir: where the required stages lie, and where data are to be made.
      config: all sections.
      stages: that `config["requires"]` names, in `requires_dir` by these names.
      params: that would have been trained.
    """
    system = systems.create(config, stages)
    num_steps = config["train"]["num_steps"]
    state = TrainState.create(params=params, optimizer=system.optimizer)
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(
        num_steps,
        state.replace(step=np.int32(num_steps)),
        config=config,
    )
    checkpoints.close()
    record = {
        "config": config,
        "requires": {
            name: os.path.relpath(requires_dir / name, workdir) for name in stages
        },
        "data": os.path.relpath(requires_dir, workdir),
    }
    (workdir / experiment.RECORD).write_text(json.dumps(record, indent=1))


def shared_sections(
    height: int,
    width: int,
    frame_stride: int,
    *,
    grid_stride: int,
    clip_frames: int,
    clips_per_video: int,
    root: str = "",
) -> dict[str, Any]:
    """All sections of a config that do not say what the networks are.

    Args:
      height, width: of the frames, in pixels.
      frame_stride: frames of a video from one that is seen to the next.
      grid_stride: pixels per latent cell.
      clip_frames: of context and future.
      clips_per_video: that are scored.
      root: folder of the data; "" is CLEVRER's twin.
    """
    return {
        "seed": 0,
        "requires": {},
        "losses": {},
        "optim": {"learning_rate": 1e-3},
        "ema": {"decay": None},
        "data": {
            "root": root,
            # Scored are those of validation; there must be one for training.
            "twin": {"num_train": 1, "num_validation": 40, "num_test": 1, "seed": 0},
            "height": height,
            "width": width,
            "frame_stride": frame_stride,
            "grid_stride": grid_stride,
            "batch_size": 4,
            "clip_frames": clip_frames,
            "clip_stride": frame_stride,
        },
        "train": {"num_steps": 1, "log_every": 1, "accumulate": 1},
        "eval": {
            "every": 1,
            "batch_size": 4,
            "clip_frames": clip_frames,
            "clips_per_video": clips_per_video,
            "max_videos": 16,
        },
        "checkpoint": {"every": 1, "keep": 1, "best_metric": "psnr"},
        "mesh": {},
    }
