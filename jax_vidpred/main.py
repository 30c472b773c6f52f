"""Command: trains an experiment, and before it whatever it requires.

    python -m jax_vidpred.main --config=configs/quickstart.py --workdir=runs/quickstart

The same line again resumes. On several hosts, the same line with --distributed on each
of them (launch/README.md).
"""

import json
import os
import pathlib
import sys
import traceback

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import app, flags
from ml_collections import config_flags

from jax_vidpred import command, experiment
from jax_vidpred.train import cluster
from jax_vidpred.train.mesh import enable_compilation_cache

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes of a run on several hosts."
)
_JOIN_TIMEOUT = flags.DEFINE_float(
    "join_timeout", 300.0, "Seconds to wait until all of them are there.", lower_bound=1
)
_PEER_TIMEOUT = flags.DEFINE_float(
    "peer_timeout", 60.0, "Seconds of silence that end the others.", lower_bound=1
)
_REQUIRES_DIR = flags.DEFINE_string(
    "requires_dir",
    None,
    "Folder for data and earlier phases; WORKDIR/requires if not given. Experiments"
    " with the same one share them.",
)


def train() -> int:
    """Runs the experiment that the flags name; returns the exit code."""
    workdir = pathlib.Path(_WORKDIR.value)
    requires_dir = pathlib.Path(_REQUIRES_DIR.value or workdir / "requires")
    enable_compilation_cache()
    config = _CONFIG.value.to_dict()
    if _DISTRIBUTED.value:
        cluster.join(timeout=_JOIN_TIMEOUT.value, peer_timeout=_PEER_TIMEOUT.value)
        cluster.check_same(
            config=json.dumps(config), version=jax.__version__, workdir=str(workdir)
        )
        cluster.check_shared(workdir)
    else:
        experiment.use_all_cores(config)
    experiment.run(config, workdir, requires_dir)
    if jax.process_index() == 0:
        print(
            f"Trained: {workdir}. Next: python -m jax_vidpred.evaluate --workdir"
            f" {workdir}, or jax_vidpred.predict with --videos FILES --out DIR"
        )
    return 0


def main(arguments: list[str]) -> int:
    """Entry point for absl."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}")
    try:
        status = command.run("main", train)
    except SystemExit as stop:  # asked to, and saved
        status = stop.code
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        cluster.wait_for_verdict()  # often it is that another process is gone
        traceback.print_exception(error)
        status = command.FAILED
    cluster.leave(status)
    return status


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    try:
        app.run(main)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A config that cannot be read, or a key on the line that it does not have:
        # absl reads the flags before main.
        print(f"main: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(command.FAILED)
