"""What a config describes, ready to be measured: random inputs, random parameters."""

import runpy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_vidpred import systems
from jax_vidpred.data import schema
from jax_vidpred.data.source import STEP_KEYS, record_fields
from jax_vidpred.train import rngs
from jax_vidpred.train.flop import flop_of_program
from jax_vidpred.train.mesh import Layout, make_layout
from jax_vidpred.train.protocol import Stage, System
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.training_step import traced_step

PHASES = ("vae", "temporal", "joint")  # of a config's chain of requirements

Row = dict[str, Any]


class Phase(NamedTuple):
    """A system as it is before its first step."""

    config: Mapping[str, Any]
    system: System
    batch: dict[str, np.ndarray]
    state: TrainState
    layout: Layout

    @property
    def params(self) -> dict[str, Any]:
        return {**self.state.frozen, **self.state.prediction_params}


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
    return [*phases, untrained(config, system)]


def untrained(config: Mapping[str, Any], system: System) -> Phase:
    """A system before its first step, with a batch of noise to train on."""
    keys = system.train_keys or system.required_keys
    batch = random_batch(config["data"], [key for key in keys if key != schema.LATENT])
    if schema.LATENT in keys:
        data = config["data"]
        grid = (data["height"] // system.stride, data["width"] // system.stride)
        shape = (data["batch_size"], data["clip_frames"], *grid, system.latent_channels)
        noise = np.random.default_rng(0).normal(size=shape)
        batch[schema.LATENT] = noise.astype(np.float32)
    layout = make_layout(**config["mesh"])
    key = rngs.for_step(config["seed"], "init", 0)
    state = layout.born(system.init, key, layout.put_batch(batch))
    return Phase(config, system, batch, state, layout)


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


def compiled(function: Callable, *args: Any) -> tuple[Any, Row]:
    """The compiled function, and its `compile_seconds` (tracing included)."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return program, {"compile_seconds": time.perf_counter() - began}


def training_program(phase: Phase) -> tuple[Any, tuple, Row]:
    """One training step, compiled as the loop does it.

    Returns:
      the program: (state, frozen parameters, batch, key) -> (state, scalars); arguments
      for it, of which it takes the state's buffers; `compile_seconds` and `flop` of a
      step of all devices.
    """
    # A copy, for the step takes its buffers and the phase keeps its own.
    now = jax.tree.map(lambda leaf: leaf.copy(), phase.state.replace(frozen={}))
    key = jax.device_put(jax.random.key(0), phase.layout.replicated)
    args = now, phase.state.frozen, phase.layout.put_batch(phase.batch), key
    began = time.perf_counter()
    traced = traced_step(phase.system, phase.state, *args[2:], phase.layout)
    program = traced.lower().compile()
    seconds = time.perf_counter() - began
    flop = flop_of_program(traced.jaxpr)
    return program, args, {"compile_seconds": seconds, "flop": flop}


def training_call(phase: Phase) -> tuple[Callable[[], Any], Row]:
    """A call that takes one training step, and `training_program`'s numbers."""
    program, (now, *rest), about = training_program(phase)

    def call():
        nonlocal now
        now, scalars = program(now, *rest)
        return now, scalars

    return call, about
