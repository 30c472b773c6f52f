"""Command: trains an experiment, and before it whatever it requires.

    python -m jax_vidpred.main --config=configs/quickstart.py --workdir=runs/quickstart

The same line again resumes.
"""

import os
import pathlib
import sys

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from ml_collections import config_flags

from jax_vidpred import command, experiment
from jax_vidpred.train.mesh import enable_compilation_cache

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment.")
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
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the user's own choice
        enable_compilation_cache(requires_dir / "compiled")
    config = _CONFIG.value.to_dict()
    experiment.use_all_cores(config)
    experiment.run(config, workdir, requires_dir)
    print(
        f"Trained: {workdir}. Next: python -m jax_vidpred.evaluate --workdir {workdir},"
        " or jax_vidpred.predict with --videos FILES --out DIR"
    )
    return 0


def main(arguments: list[str]) -> int:
    """Entry point for absl."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}")
    return command.run("main", train)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    try:
        app.run(main)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A config that cannot be read, or a key on the line that it does not have:
        # absl reads the flags before main.
        print(f"main: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(command.FAILED)
