"""A copy of launch/ that starts the Python of the tests and installs nothing."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def executable(path: pathlib.Path, text: str) -> pathlib.Path:
    """Writes a script for bash that can be started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path) -> pathlib.Path:
    """Root of a clone with the real scripts, whose environment is that of the tests."""
    root = tmp_path / "clone"
    shutil.copytree(LAUNCH, root / "launch")
    enter = 'cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit'
    (root / "launch/environment.sh").write_text(f"{enter}\n")
    executable(root / ".venv/bin/python", f'exec {sys.executable} "$@"')
    return root


@pytest.fixture
def fake_python(clone):
    """Makes the clone's Python a stand-in for the package: `fake_python(BASH)`."""

    def make(script: str) -> None:
        # The port is still found by Python.
        real = f'[ "$1" != -c ] || exec {sys.executable} "$@"'
        executable(clone / ".venv/bin/python", f"{real}\n{script}")

    return make


@pytest.fixture
def fake_commands(tmp_path, monkeypatch):
    """Puts a command before all others of its name: `fake_commands(NAME, BASH)`."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda name, script: executable(folder / name, script)


@pytest.fixture
def start():
    """`subprocess.Popen`; what a failed test leaves of its processes is killed."""
    started = []

    def begin(line, **options) -> subprocess.Popen:
        started.append(subprocess.Popen(line, start_new_session=True, **options))
        return started[-1]

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
