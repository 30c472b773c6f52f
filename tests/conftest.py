"""What all tests share: the platform, compiled programs, strict shapes, one experiment.

This file is imported before any test module, so its first part runs before JAX starts.
"""

import fcntl
import getpass
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

if os.environ.get("ACCELERATOR", "cpu") == "cpu":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A folder that stays: compiling is most of the time of a test, and the second run of
# the suite, and the processes that tests start, find the programs there.
_CACHE = pathlib.Path(tempfile.gettempdir()) / f"jax_vidpred_tests_{getpass.getuser()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]

# Nothing broadcasts silently: arrays of different rank meet only by explicit axes.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes and types of arguments and results are those of the annotations.
install_import_hook(["jax_vidpred.ops", "jax_vidpred.losses"], "beartype.beartype")
flags.FLAGS.mark_as_parsed()  # grain asks for flags that commands have parsed


@pytest.fixture(scope="session")
def smoke_workdir(tmp_path_factory) -> pathlib.Path:
    """Work directory of all three phases, trained for a few steps by the command.

    Shared by all tests of commands, and by the processes that pytest-xdist starts: read
    it, do not write into it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workdir, done = folder / "smoke/joint", folder / "smoke.done"
    command = [sys.executable, "-m", "jax_vidpred.main"]
    command += ["--config=configs/joint.py:smoke", f"--workdir={workdir}"]
    with (folder / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if result.returncode:
                pytest.fail(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
            done.touch()
    return workdir


@pytest.fixture(scope="session")
def copied():
    """Copies from the shared work directory what is not being written just now."""

    def copy(source, target, *without):
        ignore = shutil.ignore_patterns("*.lock", "*.part", *without)
        return shutil.copytree(source, target, ignore=ignore)

    return copy


@pytest.fixture(scope="session")
def weights_dir() -> pathlib.Path:
    """Folder of real weight files."""
    folder = os.environ.get("JAX_VIDPRED_WEIGHTS")
    if not folder:
        pytest.skip("JAX_VIDPRED_WEIGHTS names no folder of real weight files")
    return pathlib.Path(folder)
