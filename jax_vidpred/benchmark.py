"""Command: how fast everything is, as a table and as JSON.

    python -m jax_vidpred.benchmark --config configs/quickstart.py --out benchmark.json

Times the data pipeline, the renderer, the training step of every phase that the config
names or requires, prediction and test-time training: median and quartiles of single
calls, compile time apart. Models get random inputs of the config's shapes and have
random parameters, which take as long as trained ones. On a machine that others use too,
read `cpu_ms`; for one core put `taskset --cpu-list 0` before the line.
"""

import argparse
import functools
import json
import os
import pathlib
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
import rich.table

from jax_vidpred import command, experiment, predictor, systems
from jax_vidpred.data import builder, pipeline, schema
from jax_vidpred.data.source import STEP_KEYS, record_fields
from jax_vidpred.data.twin.dataset import available_cores, write_dataset
from jax_vidpred.data.twin.physics import simulate
from jax_vidpred.data.twin.render import Renderer
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.stopwatch import count_flop, measure
from jax_vidpred.systems import ttt
from jax_vidpred.train import rngs
from jax_vidpred.train.mesh import born_sharded, make_mesh, put_batch, replicated
from jax_vidpred.train.protocol import Stage, System
from jax_vidpred.train.state import TrainState

PHASES = ("vae", "temporal", "joint")  # of a config's chain of requirements
PARTS = ("data", "renderer", *PHASES, "predict", "ttt")
NUM_FUTURE = 12  # predicted frames
LONG_CONTEXT = 20  # frames, besides as many as in training
TTT_STEPS = 10
TTT_BATCH = 8  # videos, besides a single one
# Data at the size by which input pipelines are compared, besides the config's own.
DATA_SIZE, DATA_FRAMES = 128, 16
NUM_VIDEOS = 3  # that data are read from; they stay in the system's file cache

Row = dict[str, Any]


class Phase(NamedTuple):
    """A system as it is before its first step."""

    config: Mapping[str, Any]
    system: System
    batch: dict[str, np.ndarray]
    state: TrainState

    @property
    def params(self) -> dict[str, Any]:
        return {**self.state.frozen, **self.state.prediction_params}


def run(
    config: Mapping[str, Any],
    *,
    parts: Sequence[str] = PARTS,
    repeats: int = 20,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Row]:
    """Measures parts of what a config describes.

    Args:
      config: as plain dicts; phases that it requires are measured too.
      parts: out of `PARTS`; what the config has not (a VAE predicts nothing) is left
        out.
      repeats: measured calls of each.
      on_progress: called with the part, parts done, and parts in all.

    Returns:
      For each measurement what `stopwatch.measure` gives, and `compile_seconds` where
      there was something to compile.

    Raises:
      ValueError: an unknown part, a number that is too small, or a bad config.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"--parts {','.join(unknown)}; choose from {','.join(PARTS)}")
    if repeats < 1:
        raise ValueError(f"--repeats {repeats}; wanted at least 1")
    phases = dict(zip(PHASES, build_phases(config), strict=False))
    last = list(phases.values())[-1]
    if not hasattr(last.system, "predict"):
        parts = [part for part in parts if part not in ("predict", "ttt")]
    parts = [part for part in parts if part not in PHASES or part in phases]
    rows = {}
    for done, part in enumerate(parts):
        on_progress(part, done, len(parts))
        if part in phases:
            rows |= _training_step(part, phases[part], repeats)
        else:
            rows |= _PARTS[part](last, repeats)
    on_progress("done", len(parts), len(parts))
    return rows


def read_config(path: str) -> dict[str, Any]:
    """The config of `FILE.py` or `FILE.py:VARIANT` as plain dicts.

    Raises:
      ValueError, OSError: no such file or variant.
    """
    file, _, variant = path.partition(":")
    get_config = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise ValueError(
            f"{file} has no get_config(); give a file like those of configs/"
        )
    return (get_config(variant) if variant else get_config()).to_dict()


def build_phases(config: Mapping[str, Any]) -> list[Phase]:
    """The phases that a config requires, in order, and its own."""
    phases, stages = [], {}
    for name, required in config["requires"].items():
        if required:
            phases += build_phases(required)
            stages[name] = Stage(phases[-1].system, phases[-1].params)
    system = systems.create(config, stages)
    batch = random_batch(config["data"], system.required_keys)
    mesh = make_mesh(**config["mesh"])
    key = rngs.for_step(config["seed"], "init", 0)
    state = born_sharded(system.init, mesh, key, put_batch(batch, mesh))
    return [*phases, Phase(config, system, batch, state)]


def random_batch(
    data: Mapping[str, Any], keys: Sequence[str], seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch in the shape that a config's `data` section asks for, of noise.

    Args:
      data: the section.
      keys: of the batch, from `data.schema`.
      seed: of the noise.
    """
    draw = np.random.default_rng(seed)
    b, t = data["batch_size"], data["clip_frames"]
    fields = record_fields(data["height"], data["width"], data["grid_stride"])

    def noise(key):
        shape = (b, t - (key in STEP_KEYS), *fields[key].shape)
        if key == schema.VIDEO:
            values = draw.integers(0, 256, shape)
        elif key in (schema.PRESENT, schema.COLLISION, schema.SEGMENTS):
            values = draw.integers(0, 2, shape)
        elif key == schema.VISIBLE:
            values = draw.uniform(0, 1, shape)
        else:
            values = draw.normal(0, 1, shape)
        return values.astype(fields[key].given)

    return {key: noise(key) for key in keys}


def compiled(function: Callable, *args: Any, donate: tuple = ()) -> tuple[Any, Row]:
    """The compiled function, and its `compile_seconds` (tracing included)."""
    began = time.perf_counter()
    program = jax.jit(function, donate_argnums=donate).lower(*args).compile()
    return program, {"compile_seconds": time.perf_counter() - began}


def training_call(phase: Phase) -> tuple[Callable[[], Any], Row]:
    """A call that takes one training step as the loop does, and `compile_seconds`."""
    system, state = phase.system, phase.state
    mesh = make_mesh(**phase.config["mesh"])
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    batch = put_batch(phase.batch, mesh)

    def step(state, frozen, batch, key):
        rng = rngs.fold_in(key, state.step)
        after, scalars = system.train_step(state.replace(frozen=frozen), batch, rng)
        return after.replace(frozen={}), scalars

    frozen = state.frozen
    # A copy, for the step takes its buffers and the phase keeps its own.
    now = jax.tree.map(lambda leaf: leaf.copy(), state.replace(frozen={}))
    program, about = compiled(step, now, frozen, batch, key, donate=(0,))
    flop = count_flop(step, now, frozen, batch, key)

    def call():
        nonlocal now
        now, scalars = program(now, frozen, batch, key)
        return now, scalars

    return call, {**about, "flop": flop}


def _training_step(name: str, phase: Phase, repeats: int) -> dict[str, Row]:
    call, about = training_call(phase)
    b, t = phase.batch[schema.VIDEO].shape[:2]
    examples, unit = (b * t, "frames") if name == "vae" else (b, "clips")
    flop = about.pop("flop")
    row = measure(call, repeats=repeats, examples=examples, unit=unit, flop=flop)
    return {f"{name} training step": about | row}


def _predict(phase: Phase, repeats: int) -> dict[str, Row]:
    def program(num_context):
        def predict(params, context):
            return predictor.predict(
                phase.system, params, context, jax.random.key(0), NUM_FUTURE
            )

        return _on_context(phase, predict, num_context, 1, repeats)

    return {
        f"predict {num_context} -> {NUM_FUTURE} frames": program(num_context)
        for num_context in _contexts(phase)
    }


def _ttt(phase: Phase, repeats: int) -> dict[str, Row]:
    if not hasattr(phase.system, "adaptable"):
        return {}
    adapt = functools.partial(ttt.adapt, phase.system, num_steps=TTT_STEPS)
    return {
        f"adapt {TTT_STEPS} steps, {num_context} frames, batch {videos}": _on_context(
            phase, adapt, num_context, videos, repeats
        )
        for num_context in _contexts(phase)
        for videos in (1, TTT_BATCH)
    }


def _contexts(phase: Phase) -> list[int]:
    return sorted({phase.system.num_context, LONG_CONTEXT})


def _on_context(phase, function, num_context, num_videos, repeats) -> Row:
    height, width = phase.batch[schema.VIDEO].shape[2:4]
    shape = (num_videos, num_context, height, width, 3)
    context = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    args = phase.params, jax.device_put(context)
    program, about = compiled(function, *args)
    return about | measure(
        lambda: program(*args),
        repeats=repeats,
        examples=num_videos,
        unit="videos",
        flop=count_flop(function, *args),
    )


def _data(phase: Phase, repeats: int) -> dict[str, Row]:
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
    with tempfile.TemporaryDirectory() as folder:
        videos, prepared = pathlib.Path(folder) / "twin", pathlib.Path(folder) / "made"
        write_dataset(videos, {"train": NUM_VIDEOS}, height, width, num_workers=1)
        source = builder.prepare(
            videos,
            prepared,
            height=height,
            width=width,
            grid_stride=data["grid_stride"],
            frame_stride=data["frame_stride"],
        )["train"]
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


def _renderer(phase: Phase, repeats: int) -> dict[str, Row]:
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


_PARTS = {"data": _data, "renderer": _renderer, "predict": _predict, "ttt": _ttt}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.benchmark",
        description="Measure how fast data, training, prediction and adaptation are.",
    )
    add = parser.add_argument
    add("--config", default="configs/quickstart.py", help="FILE.py or FILE.py:VARIANT")
    add("--parts", default=",".join(PARTS), help="of %(default)s, with commas")
    add("--repeats", type=int, default=20, help="measured calls of each")
    add("--out", help="JSON file (else the JSON goes to stdout)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("benchmark", lambda: _main(options, arguments))


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    config = read_config(options.config)
    experiment.use_all_cores(config)
    with command.progress() as show:
        rows = run(
            config,
            parts=options.parts.split(","),
            repeats=options.repeats,
            on_progress=lambda _, done, total: show("Measuring", done, total),
        )
    report = {
        **command.provenance("jax_vidpred.benchmark", arguments),
        "cores": available_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # Where programs are kept, compile_seconds may be those of reading them.
        "compilation_cache": jax.config.jax_compilation_cache_dir,
        "measurements": rows,
    }
    command.console().print(table(rows))
    text = json.dumps(command.without_nan(report), indent=1)
    if options.out:
        write_whole(pathlib.Path(options.out), text.encode())
        command.say(f"Written: {options.out}")
    else:
        print(text)
    return 0


def table(rows: Mapping[str, Row]) -> rich.table.Table:
    """The measurements, one a line."""
    shown = rich.table.Table(box=None)
    shown.add_column("median of single calls", no_wrap=True)
    for column in ("compile s", "ms", "CPU ms", "per second", "GFLOP/s"):
        shown.add_column(column, justify="right")
    for name, row in rows.items():
        rate = row["gflop_per_second"]
        shown.add_row(
            name,
            f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "",
            f"{row['wall_ms']['median']:.1f}",
            f"{row['cpu_ms']['median']:.1f}",
            f"{row['examples_per_second']:.1f} {row['unit']}",
            f"{rate:.0f}" if rate else "",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
