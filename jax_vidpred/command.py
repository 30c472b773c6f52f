"""What the commands after training share: errors in one line, progress, provenance."""

import contextlib
import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import rich.console
from absl import flags, logging
from flax.errors import FlaxError
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jax_vidpred import experiment
from jax_vidpred.train.checkpoint import CheckpointError
from jax_vidpred.train.mesh import enable_compilation_cache

FAILED = 2
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, by custom
_PACKAGES = ("jax", "flax", "optax", "numpy")


def run(name: str, command: Callable[[], int]) -> int:
    """Exit code of a command; what goes wrong becomes one line on stderr."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file
    logging.get_absl_logger().addFilter(_not_of_orbax)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks for flags, which are not used here
    try:
        return command()
    except KeyboardInterrupt:
        print(f"{name}: stopped; run the same line again to go on", file=sys.stderr)
        return INTERRUPTED
    except (
        CheckpointError,
        ValueError,
        ArithmeticError,
        OSError,
        MemoryError,
    ) as error:
        say(f"{name}: {' '.join(str(error).split())}")
        return FAILED
    except FlaxError as error:
        reason = str(error).split(" (https")[0].strip()
        say(
            f"{name}: the stored parameters do not fit the model ({reason}); another"
            " version of the package has trained them: train again"
        )
        return FAILED


def _not_of_orbax(record: Any) -> bool:
    """Leaves out the stack traces that come before our own line."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def say(line: str) -> None:
    """Prints a line on stderr, as it is and without breaks."""
    console().print(line)


def console() -> rich.console.Console:
    """Where progress and complaints go; stdout is for results."""
    return rich.console.Console(
        stderr=True, highlight=False, markup=False, soft_wrap=True
    )


class _SpeedColumn(ProgressColumn):
    """How many are done per second, or seconds for one where that is easier read."""

    def render(self, task):
        speed = task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows what is being done, how many are done, and of how many."""
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console())
    tasks = {}

    def show(what, done, total):
        if what not in tasks:
            bars.start()  # not before: an empty one leaves an empty line
            tasks[what] = bars.add_task(escape(what), total=total)
        bars.update(tasks[what], completed=done)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()


def data_folder(workdir: str | os.PathLike) -> pathlib.Path:
    """Where a work directory keeps data; also has compiled programs kept.

    Raises:
      ExperimentError: it is no work directory.
    """
    workdir = pathlib.Path(workdir).absolute()
    folder = (workdir / experiment.read_record(workdir)["data"]).resolve()
    enable_compilation_cache()
    return folder


def provenance(module: str, arguments: list[str]) -> dict[str, str]:
    """What a reader needs to make a result again."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    device = jax.devices()[0]
    return {
        "command": f"python -m {module} {shlex.join(arguments)}",
        "versions": f"Python {platform.python_version()}, {', '.join(versions)}",
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})"
        f" on a machine with {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def without_nan(value: Any) -> Any:
    """The same as JSON can hold it: what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
