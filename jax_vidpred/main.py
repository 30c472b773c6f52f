"""Trains an experiment: python -m jax_vidpred.main --config=CONFIG --workdir=DIR.

What the config requires (data, earlier phases) is made first; the same line again
resumes.
"""

import os
import pathlib
import sys

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from ml_collections import config_flags

from jax_vidpred import experiment
from jax_vidpred.data.schema import DataError
from jax_vidpred.train.checkpoint import CheckpointError
from jax_vidpred.train.mesh import enable_compilation_cache

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this experiment.")
_REQUIRES_DIR = flags.DEFINE_string(
    "requires_dir",
    None,
    "Folder for data and earlier phases; WORKDIR/requires if not given. Experiments"
    " with the same one share them.",
)


def main(arguments: list[str]) -> None:
    """Runs the experiment that the flags name."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}")
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file
    workdir = pathlib.Path(_WORKDIR.value)
    requires_dir = pathlib.Path(_REQUIRES_DIR.value or workdir / "requires")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the user's own choice
        enable_compilation_cache(requires_dir / "compiled")
    try:
        experiment.run(_CONFIG.value.to_dict(), workdir, requires_dir)
    except (DataError, CheckpointError, ValueError, ArithmeticError, OSError) as error:
        print(f"jax_vidpred: {error}", file=sys.stderr)
        sys.exit(2)
    print(
        f"Trained: {workdir}. Next: python -m jax_vidpred.evaluate --workdir={workdir}"
        f" or python -m jax_vidpred.predict --workdir={workdir} --videos=FILES"
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
