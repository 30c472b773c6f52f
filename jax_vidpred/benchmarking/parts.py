"""The measurements themselves: one function for each part that can be asked for."""

import contextlib
import functools
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred import predictor
from jax_vidpred.benchmarking.phases import Phase, Row, compiled, training_call
from jax_vidpred.data import builder, pipeline, schema
from jax_vidpred.data.source import VideoSource
from jax_vidpred.data.twin.dataset import write_dataset
from jax_vidpred.data.twin.physics import simulate
from jax_vidpred.data.twin.render import Renderer
from jax_vidpred.evaluation import clips as clip_lists
from jax_vidpred.evaluation.judge import Judge
from jax_vidpred.evaluation.networks import Networks
from jax_vidpred.evaluation.settings import settings_for
from jax_vidpred.features.raft import RAFT
from jax_vidpred.stopwatch import measure
from jax_vidpred.systems import ttt
from jax_vidpred.train.flop import count_flop
from jax_vidpred.train.protocol import Stage

NUM_FUTURE = 12  # predicted frames
LONG_CONTEXT = 20  # frames, besides as many as in training
TTT_STEPS = 10
TTT_BATCH = 8  # videos, besides a single one
# Data at the size by which input pipelines are compared, besides the config's own.
DATA_SIZE, DATA_FRAMES = 128, 16
NUM_VIDEOS = 3  # that data are read from; they stay in the system's file cache
RAFT_SIZE, RAFT_UPDATES = 128, 12
RAFT_BATCHES = (1, 8)  # pairs of frames
EVALUATED_CLIPS = 4


def training_step(name: str, phase: Phase, repeats: int) -> dict[str, Row]:
    call, about = training_call(phase)
    b, t = phase.batch[schema.VIDEO].shape[:2]
    examples, unit = (b * t, "frames") if name == "vae" else (b, "clips")
    flop = about.pop("flop")
    row = measure(call, repeats=repeats, examples=examples, unit=unit, flop=flop)
    return {f"{name} training step": about | row}


def predict(phase: Phase, repeats: int) -> dict[str, Row]:
    def program(params, context):
        rng = jax.random.key(0)
        return predictor.predict(phase.system, params, context, rng, NUM_FUTURE)

    return {
        f"predict {num_context} -> {NUM_FUTURE} frames": _on_context(
            phase, program, num_context, 1, repeats
        )
        for num_context in _contexts(phase)
    }


def adapt(phase: Phase, repeats: int) -> dict[str, Row]:
    """Test-time training, one video alone and several in a batch.

    The row of the batch says what a video costs in both, `ms_per_video`.
    """
    if not hasattr(phase.system, "adaptable"):
        return {}
    function = functools.partial(ttt.adapt, phase.system, num_steps=TTT_STEPS)
    rows = {}
    for num_context in _contexts(phase):
        alone, batched = (
            _on_context(phase, function, num_context, videos, repeats)
            for videos in (1, TTT_BATCH)
        )
        batched["ms_per_video"] = {
            "alone": alone["wall_ms"]["median"],
            "batched": batched["wall_ms"]["median"] / TTT_BATCH,
        }
        name = f"adapt {TTT_STEPS} steps, {num_context} frames, batch"
        rows |= {f"{name} 1": alone, f"{name} {TTT_BATCH}": batched}
    return rows


def _contexts(phase: Phase) -> list[int]:
    return sorted({phase.system.num_context, LONG_CONTEXT})


def _on_context(phase, function, num_context, num_videos, repeats) -> Row:
    height, width = phase.batch[schema.VIDEO].shape[2:4]
    shape = (num_videos, num_context, height, width, 3)
    context = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    args = phase.params, jax.device_put(context)
    return _program(function, args, repeats, num_videos, "videos")


def _program(function, args, repeats, examples, unit) -> Row:
    program, about = compiled(function, *args)
    return about | measure(
        lambda: program(*args),
        repeats=repeats,
        examples=examples,
        unit=unit,
        flop=count_flop(function, *args),
    )


def raft(phase: Phase, repeats: int) -> dict[str, Row]:
    """Optical flow. Random weights take as long as trained ones."""
    del phase
    network = RAFT("small")
    draw = np.random.default_rng(0)

    def flow(params, image0, image1):
        return network.apply(params, image0, image1, RAFT_UPDATES)

    def program(pairs):
        shape = (pairs, RAFT_SIZE, RAFT_SIZE, 3)
        frames = [jnp.asarray(draw.uniform(-1, 1, shape), jnp.float32) for _ in "01"]
        params = jax.jit(network.init)(jax.random.key(0), *frames)
        return _program(flow, (params, *frames), repeats, pairs, "pairs")

    name = f"RAFT small, {RAFT_UPDATES} updates, {RAFT_SIZE}x{RAFT_SIZE}"
    return {f"{name}, batch {pairs}": program(pairs) for pairs in RAFT_BATCHES}


def evaluation(phase: Phase, repeats: int) -> dict[str, Row]:
    """Predicting and scoring a batch of clips of the twin as `evaluate` does.

    Frames, objects, collisions and physics; frozen networks are left out, for not every
    machine has their weights. Nothing here is one program, so `compile_seconds` is what
    the first call took longer than the others.
    """
    data, system = phase.config["data"], phase.system
    settings = settings_for(
        phase.config,
        system.num_context,
        {"num_future": NUM_FUTURE, "batch_size": EVALUATED_CLIPS},
    )
    stage = Stage(system, phase.params)
    networks = Networks({}, {}, {}, {}, {})
    judge = Judge(predictor.VideoPredictor(stage, phase.config), settings, networks)
    with _twin({**data, "frame_stride": settings.stride}) as source:
        clips = clip_lists.fixed_clips(source, settings)[:EVALUATED_CLIPS]
        _, read = next(clip_lists.batches(source, clips, settings))
        batch = read()
    began = time.perf_counter()
    judge(batch)
    first = time.perf_counter() - began
    row = measure(
        lambda: judge(batch), repeats=repeats, examples=len(clips), unit="clips"
    )
    about = {"compile_seconds": max(first - row["wall_ms"]["median"] / 1e3, 0.0)}
    return {
        f"evaluate {len(clips)} clips of {settings.clip_frames} frames": about | row
    }


def read_data(phase: Phase, repeats: int) -> dict[str, Row]:
    own = phase.config["data"]
    usual = {
        **own,
        "height": DATA_SIZE,
        "width": DATA_SIZE,
        "clip_frames": DATA_FRAMES,
        "clip_stride": 1,
    }
    return {
        **_read_clips(own, phase.system.required_keys, repeats),
        **_read_clips(usual, (schema.VIDEO,), repeats),
    }


def _read_clips(data, keys, repeats) -> dict[str, Row]:
    height, width, frames = data["height"], data["width"], data["clip_frames"]
    with _twin(data) as source:
        # In this thread, so that CPU time and clock tell what a batch costs.
        batches = iter(
            pipeline.train_batches(
                source,
                keys=keys,
                batch_size=data["batch_size"],
                clip_frames=frames,
                frame_stride=data["clip_stride"],
                num_threads=0,
                prefetch_batches=0,
            )
        )
        row = measure(
            lambda: next(batches),
            repeats=repeats,
            examples=data["batch_size"],
            unit="clips",
        )
    what = "video only" if tuple(keys) == (schema.VIDEO,) else "all keys"
    return {f"read {frames} frames of {height}x{width}, {what}": row}


@contextlib.contextmanager
def _twin(data: Mapping[str, Any]) -> Iterator[VideoSource]:
    """A few simulated videos, prepared as a config's `data` section asks."""
    size = data["height"], data["width"]
    with tempfile.TemporaryDirectory() as folder:
        videos, prepared = pathlib.Path(folder) / "twin", pathlib.Path(folder) / "made"
        write_dataset(videos, {"train": NUM_VIDEOS}, *size, num_workers=1)
        yield builder.prepare(
            videos,
            prepared,
            height=size[0],
            width=size[1],
            grid_stride=data["grid_stride"],
            frame_stride=data["frame_stride"],
        )["train"]


def render(phase: Phase, repeats: int) -> dict[str, Row]:
    data = phase.config["data"]
    annotation = simulate(np.random.SeedSequence(0), 0)
    rows = {}
    for height, width in {(data["height"], data["width"]), (DATA_SIZE, DATA_SIZE)}:
        renderer = Renderer(height, width)
        rows[f"render {height}x{width}"] = measure(
            functools.partial(renderer.render, annotation),
            repeats=repeats,
            examples=annotation.num_frames,
            unit="frames",
        )
    return rows


PARTS = {
    "data": read_data,
    "renderer": render,
    "predict": predict,
    "ttt": adapt,
    "raft": raft,
    "evaluation": evaluation,
}
NEED_PREDICTIONS = ("predict", "ttt", "evaluation")
