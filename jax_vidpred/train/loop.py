"""The only training loop: trains any system of `protocol.py`, and resumes exactly."""

import contextlib
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.data.schema import VIDEO_ID
from jax_vidpred.train import cluster, rngs
from jax_vidpred.train.checkpoint import Checkpoints
from jax_vidpred.train.evaluate import check_keys, evaluate
from jax_vidpred.train.measurements import Measurements, TrainingDiverged
from jax_vidpred.train.mesh import Layout, make_layout
from jax_vidpred.train.periodic import Clock, ProgressDisplay, is_due
from jax_vidpred.train.protocol import System
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.stop import stop_requests
from jax_vidpred.train.training_step import TrainingSteps
from jax_vidpred.train.watch import (
    ProfileWindow,
    Utilisation,
    memory_in_use,
    sample_videos,
    start_line,
)
from jax_vidpred.train.writers import EVENTS_FOLDER, make_writer


def train(
    system: System,
    *,
    train_batches: Callable[[int], Iterable[Mapping[str, np.ndarray]]],
    eval_batches: Callable[[], Iterable[dict[str, np.ndarray]]],
    num_steps: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    seed: int,
    workdir: str | pathlib.Path,
    config_json: str = "{}",
    keep: int = 2,
    best_metric: str | None = None,
    best_mode: str = "max",
    layout: Layout | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    peak_tflops: Mapping[str, float] | None = None,
    profile: Mapping[str, int] | None = None,
    num_samples: int = 0,
    counts: Callable[[], Mapping[str, float]] = dict,
) -> TrainState:
    """Trains `system`, or goes on where the run in `workdir` stopped.

    The same call again resumes: the state comes from the latest checkpoint, batches and
    random keys follow from the step, so the result is bit for bit that of a run that
    never stopped, as long as the devices are the same; on others sums have another
    order. SIGTERM (exit status 0) and Ctrl-C (130) save a checkpoint first; a second
    Ctrl-C does not wait.

    Args:
      system: what to train.
      train_batches: number of a step -> the batches (NumPy, this process's part) from
        that step on, without end. Step k must get the same examples whenever it is
        asked for, and for any number of processes.
      eval_batches: makes one pass over the evaluation split; every batch of the same
        shape, padding marked in `mask`.
      num_steps: of the whole run.
      log_every: steps between measurements; they are means over these steps.
      eval_every: steps between evaluations; there is one at the end besides.
      checkpoint_every: steps between checkpoints; there is one at the end besides.
      seed: of all random keys.
      workdir: for checkpoints and measurements.
      config_json: of the run, stored with each checkpoint.
      keep: number of latest checkpoints to keep.
      best_metric: metric of the evaluation by which the best checkpoint is kept too.
      best_mode: "max" or "min".
      layout: of devices and of what lies where; everything whole on all devices when
        None.
      title: name in the progress display; the class of the system when None.
      notes: for the line that is shown before the first step.
      peak_tflops, profile: of `watch.Utilisation` and `watch.ProfileWindow`.
      num_samples: clips of each evaluation that are written as videos.
      counts: further scalars to write with those of each period.

    Returns:
      The state after `num_steps` steps, or more where the run was longer.

    Raises:
      TrainingDiverged: the loss or another scalar is not finite any more.
      CheckpointError: a checkpoint cannot be read or written.
      ValueError: batches that the system cannot use.
    """
    layout = make_layout() if layout is None else layout
    config = json.loads(config_json)
    example = _next(iter(train_batches(0)), 0)
    check_keys(system, example, system.train_keys)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(
            workdir, keep=keep, best_metric=best_metric, best_mode=best_mode
        )
        stack.callback(checkpoints.close)
        fresh = layout.born(
            system.init, rngs.for_step(seed, "init", 0), layout.put_batch(example)
        )
        state = checkpoints.restore_latest(fresh)
        resumed = state is not None
        if not resumed:
            state = fresh
        start = int(state.step)
        display = ProgressDisplay(title or type(system).__name__, num_steps, start)
        if start >= num_steps:
            display.say(f"already trained for {start} steps in {workdir}")
            return state
        if resumed:
            display.say(f"goes on after step {start} of {workdir}")
        writer = make_writer(workdir, log=not display.interactive)
        stack.callback(writer.close)
        if not resumed and config:
            writer.write_hparams(config)
        stop = stack.enter_context(stop_requests())
        stack.enter_context(display)
        stack.enter_context(_suspects_named(train_batches))

        # One batch of evaluation before the first step: its errors show in minute one.
        began = time.perf_counter()
        shown = list(itertools.islice(eval_batches(), 1))
        tried = evaluate(
            system,
            state,
            shown,
            rngs.for_step(seed, "eval", start),
            layout=layout,
        )
        if best_metric is not None and best_metric not in tried:
            raise ValueError(
                f"best_metric={best_metric!r} is not measured: the evaluation gives"
                f" {sorted(tried)}; choose one of these"
            )
        display.say(f"evaluation compiled in {time.perf_counter() - began:.1f} s")
        steps = TrainingSteps(system, state, example, seed, layout)
        stack.callback(steps.close)
        display.say(f"training step compiled in {steps.compile_seconds:.1f} s")
        writer.write_scalars(start, {"train/compile_seconds": steps.compile_seconds})
        utilisation = Utilisation(steps.flop, peak_tflops or {}, layout.mesh)

        batches = iter(train_batches(start))
        measurements, clock = Measurements(), Clock()
        batch_size = len(next(iter(example.values()))) * jax.process_count()
        display.say(
            start_line(state, batch_size, layout.mesh, *notes, utilisation.note)
        )
        window = ProfileWindow(
            pathlib.Path(workdir) / EVENTS_FOLDER,
            clock,
            **(profile or {"start": 0, "steps": 0}),
        )
        stack.callback(window.close)

        def log_previous_period():
            measured = measurements.take()
            if measured is None:
                return
            step, count, scalars = measured
            scalars |= clock.lap(count, batch_size)
            scalars |= utilisation(scalars["steps_per_second"]) | memory_in_use()
            scalars |= counts()
            writer.write_scalars(step, {f"train/{k}": v for k, v in scalars.items()})
            display.update(step, scalars)

        for step in itertools.count(start):
            # What was restored had been evaluated when it was saved; a second reaction
            # of the system to the evaluation would make it another run.
            new = step > start
            summary = None
            window.before_step(step, state)
            # Evaluate before saving: the checkpoint then holds the system's reaction,
            # and the score that tells which checkpoint is the best.
            if new and is_due(step, eval_every, num_steps):
                log_previous_period()
                measurements.check()
                with clock.paused():
                    summary = evaluate(
                        system,
                        state,
                        eval_batches(),
                        rngs.for_step(seed, "eval", step),
                        layout=layout,
                    )
                    if num_samples:
                        videos = sample_videos(
                            system,
                            state,
                            shown[0],
                            rngs.for_step(seed, "samples", step),
                            layout=layout,
                            count=num_samples,
                        )
                        videos = {f"samples/{k}": v for k, v in videos.items()}
                        writer.write_videos(step, videos)
                    state = _react(system, state, summary, layout)
                writer.write_scalars(step, {f"eval/{k}": v for k, v in summary.items()})
                display.say(f"step {step}, evaluation: {_listing(summary)}")
            preempted = stop.due()
            if new and (preempted or is_due(step, checkpoint_every, num_steps)):
                # Never save what has diverged: the last good checkpoint stays.
                log_previous_period()
                measurements.check()
                with clock.paused():
                    checkpoints.save(step, state, config=config, summary=summary)
            if step == num_steps or preempted:
                checkpoints.wait()
                break
            began = time.perf_counter()
            batch = _next(batches, step)
            clock.count_wait(steps.idle_seconds(began))
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, scalars = steps(state, batch)
            measurements.add(step + 1, scalars)
            # Last, log the period before: it is computed, or nearly, while this step is
            # under way, so that nothing waits for the logging.
            log_previous_period()
            if is_due(step + 1, log_every, num_steps):
                measurements.end_period(step + 1)
        if preempted:
            saved = "saved" if new else "nothing to save"
            display.say(f"stopped after step {step}, {saved}; the same line goes on")
            raise SystemExit(stop.exit_status)
        display.say(f"finished {num_steps} steps in {workdir}")
    return state


def _next(
    batches: Iterator[Mapping[str, np.ndarray]], step: int
) -> Mapping[str, np.ndarray]:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"the training data ended after {step} batches: wanted batches without"
            " end, and so examples for at least one"
        ) from None


@contextlib.contextmanager
def _suspects_named(
    train_batches: Callable[[int], Iterable[Mapping[str, np.ndarray]]],
) -> Iterator[None]:
    """Adds the videos of the bad step, read once more, to what stops the run."""
    try:
        yield
    except TrainingDiverged as error:
        batch = _next(iter(train_batches(error.step - 1)), error.step)
        # All processes are here: each read the step's scalars.
        parts = cluster.exchanged(json.dumps(_suspects(batch)))
        found = [one for part in parts for one in json.loads(part)]
        advice = f"the data are not finite in {'; '.join(found)}: leave these out"
        if not found:
            advice = (
                f"the data are finite ({_numbers(batch[VIDEO_ID])}): lower the learning"
                " rate, lengthen the warm-up or clip the gradient harder"
            )
        raise TrainingDiverged(f"{error}; {advice}", error.step) from error


def _suspects(batch: Mapping[str, np.ndarray]) -> list[str]:
    """The videos of a batch that are not finite, by key."""
    ids = np.asarray(batch[VIDEO_ID])
    bad = {
        key: ids[~np.isfinite(array.reshape(len(array), -1)).all(1)]
        for key, array in batch.items()
        if np.issubdtype(array.dtype, np.floating)
    }
    return [f"{_numbers(them)} ({key})" for key, them in bad.items() if len(them)]


def _numbers(video_ids: np.ndarray) -> str:
    return ", ".join(f"video {n:05d}" for n in np.unique(video_ids).tolist())


def _react(
    system: System, state: TrainState, summary: dict[str, float], layout: Layout
) -> TrainState:
    """`system.after_evaluation`, with types of the arrays kept."""
    extra = system.after_evaluation(state, summary).extra
    types = jax.tree.map(lambda old: old.dtype, state.extra)

    def fit(extra):
        return jax.tree.map(lambda new, dtype: jnp.asarray(new, dtype), extra, types)

    return state.replace(extra=layout.born(fit, extra))


def _listing(scalars: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
