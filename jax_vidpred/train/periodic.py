"""What happens now and then: due times, the clock of a run, the progress display."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


def is_due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, is due."""
    return step == num_steps or (step > 0 and step % every == 0)


class Clock:
    """Measures the training of one logging period, pauses left out."""

    def __init__(self):
        self._start = time.perf_counter()
        self._waited = 0.0

    def count_wait(self, seconds: float) -> None:
        """Time in which nothing ran because the next batch was not there."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what runs inside: evaluation, checkpoints, compilation."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def lap(self, num_steps: int, batch_size: int) -> dict[str, float]:
        """Speed since the last call, in which `num_steps` steps were done.

        Returns:
          `steps_per_second`, `videos_per_second` (`batch_size` is the global one) and
          `data_wait_share`, the share of the time with nothing to do but to wait for
          data.
        """
        now = time.perf_counter()
        seconds = max(now - self._start, 1e-9)
        rate = num_steps / seconds
        share = min(self._waited / seconds, 1.0)
        self._start, self._waited = now, 0.0
        return {
            "steps_per_second": rate,
            "videos_per_second": rate * batch_size,
            "data_wait_share": share,
        }


class ProgressDisplay:
    """Shows how far the run is: a live bar on a terminal, else a line now and then.

    Args:
      title: what is being trained.
      num_steps: of the whole run.
      start_step: where it starts (above 0 when it resumes).
      every_seconds: between two lines when standard output is no terminal.
    """

    def __init__(
        self, title: str, num_steps: int, start_step: int, every_seconds: float = 15.0
    ):
        self._silent = jax.process_index() != 0  # one process speaks for all
        self.interactive = sys.stdout.isatty() and not self._silent
        self._title = title
        self._num_steps = num_steps
        self._start_step = start_step
        self._every_seconds = every_seconds
        self._begun = time.monotonic()
        self._last_line = -float("inf")
        self._progress = self._task = None
        if self.interactive:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(),
            )
            self._task = self._progress.add_task(
                title, total=num_steps, completed=start_step, note=""
            )

    def __enter__(self) -> "ProgressDisplay":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *error) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """`step` steps are done; shows `loss` and `steps_per_second` of `values`."""
        note = ", ".join(
            f"{values[name]:.4g}{unit}"
            for name, unit in (("loss", " loss"), ("steps_per_second", " steps/s"))
            if name in values
        )
        if self._progress:
            self._progress.update(self._task, completed=step, note=note)
            return
        now = time.monotonic()
        if now - self._last_line < self._every_seconds and step < self._num_steps:
            return
        self._last_line = now
        done = max(step - self._start_step, 1)
        left = (now - self._begun) / done * (self._num_steps - step)
        self.say(f"step {step}/{self._num_steps}, {note}, {_duration(left)} left")

    def say(self, message: str) -> None:
        """Prints a line without disturbing the bar."""
        text = f"{self._title}: {message}"
        if self._progress:
            self._progress.console.print(text, markup=False, highlight=False)
        elif not self._silent:
            print(text, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
