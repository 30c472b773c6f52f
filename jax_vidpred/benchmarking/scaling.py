"""The collectives of training steps on eight devices, without having them.

    python -m jax_vidpred.benchmarking.scaling CONFIG

prints them as JSON: the number of a CPU's devices is fixed when JAX starts, so this is
a process of its own. The steps are compiled and not run.

XLA's compiler for CPUs is asked. Under `fsdp` it all-reduces the gradients whole, where
a reduce-scatter would do with half the bytes, and collects each parameter by itself.
Compilers for GPUs have passes that do better in both.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from jax_vidpred.benchmarking.collectives import Collective, collectives, totals
from jax_vidpred.benchmarking.phases import (
    PHASES,
    build_phases,
    read_config,
    training_program,
)
from jax_vidpred.benchmarking.projection import project

NUM_DEVICES = 8
MESHES = {
    "data parallel": {"data": NUM_DEVICES, "fsdp": 1},
    "fsdp": {"data": 1, "fsdp": NUM_DEVICES},
}
_FLAGS = (
    f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    # Of machine code, which nobody runs: it has no part in what is exchanged.
    " --xla_backend_optimization_level=0"
)
# Of eight devices on few cores some would wait for ever for a thread.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PJRT_NPROC": "16"}


def measure_scaling(path: str) -> dict[str, dict[str, Any]]:
    """What each training step of a config exchanges, and what that leads to.

    Args:
      path: of the config, as for `phases.read_config`. Each device gets as many
        examples as the config gives to all.

    Returns:
      "PHASE, MESH" -> `gflop` of a device and step; `sent` in a step, see
      `collectives.totals`; `projection`, see `projection.project`.

    Raises:
      ValueError: the process that compiles has failed.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
    line = [sys.executable, "-m", "jax_vidpred.benchmarking.scaling", path]
    made = subprocess.run(
        line,
        env={**os.environ, **_ENVIRONMENT, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(
            f"the steps cannot be compiled for {NUM_DEVICES} devices: {last}"
        )
    rows = {}
    for name, row in json.loads(made.stdout).items():
        sent = [Collective(**one) for one in row["sent"]]
        rows[name] = {
            "gflop": row["flop"] / 1e9,
            "sent": totals(sent),
            "projection": project(row["flop"], sent),
        }
    return rows


def _widened(config: Mapping[str, Any], mesh: Mapping[str, int]) -> dict[str, Any]:
    """The config, and what it requires, for NUM_DEVICES times as many examples."""
    data = config["data"]
    return {
        **config,
        "mesh": {**config["mesh"], **mesh},
        "data": {**data, "batch_size": data["batch_size"] * NUM_DEVICES},
        "requires": {
            name: required and _widened(required, mesh)
            for name, required in config["requires"].items()
        },
    }


def _compile_all(path: str) -> dict[str, dict[str, Any]]:
    config, rows = read_config(path), {}
    for mesh_name, mesh in MESHES.items():
        phases = build_phases(_widened(config, mesh))
        for name, phase in zip(PHASES, phases, strict=False):
            program, _, about = training_program(phase)
            sent = collectives(program.as_text())
            rows[f"{name}, {mesh_name}"] = {
                "flop": about["flop"] / NUM_DEVICES,
                "sent": [dataclasses.asdict(one) for one in sent],
            }
    return rows


if __name__ == "__main__":
    print(json.dumps(_compile_all(sys.argv[1])))
