"""Checkpoints: state, config and score, written and read by Orbax.

Layout: `<workdir>/checkpoints/<step>/{state,config,metrics,crc32.json}`. A checkpoint
is there whole or not at all, and a bit that has changed since is noticed.
`TrainState.frozen` is never written: it is another run's. Of the data nothing is, since
its order follows from the step.
"""

import contextlib
import errno
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from jax_vidpred.train import checksums
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.stored import (
    SCORE,
    CheckpointError,
    check_fit,
    metadata,
    one_line,
    stored_leaves,
    stored_score,
)

FOLDER = "checkpoints"


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never: only the loop asks (`stop`), since JAX counts who asked how often."""
        del step
        return False


class Checkpoints:
    """The checkpoints of one work directory, while it is trained in.

    Args:
      workdir: made when missing.
      keep: how many of the latest to keep; the best one is kept besides.
      best_metric: name of the evaluation metric that says which one is best.
      best_mode: "max" or "min".
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        keep: int = 2,
        best_metric: str | None = None,
        best_mode: str = "max",
    ):
        if keep < 1 or best_mode not in ("max", "min"):
            raise ValueError(
                f"keep={keep} must be at least 1, best_mode={best_mode!r}"
                ' must be "max" or "min"'
            )
        self._folder = _folder(workdir)
        self._best_metric = best_metric
        self._sign = 1.0 if best_mode == "max" else -1.0
        best = checkpoint_managers.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        policy = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(keep), best]
        )
        self._writing: int | None = None
        # Orbax reads the scores of all checkpoints, and fails at one it cannot read.
        unscored = {
            step: reason
            for step in _steps(self._folder)
            if (
                reason := _agreed(
                    lambda step=step: stored_score(self._folder / str(step))
                )
            )
        }
        self._put_aside(unscored)
        with _explained(f"open {self._folder}"):
            self._manager = _Manager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    best_fn=_score if best_metric else None,
                    preservation_policy=policy,
                    cleanup_tmp_directories=True,  # what a killed run left half-written
                    # Called when all is written, before the folder gets its name.
                    async_options=ocp.AsyncOptions(
                        post_finalization_callback=self._write_sums
                    ),
                ),
            )

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        config: Mapping[str, Any],
        summary: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to write a checkpoint; it is on disk once `wait` has returned.

        Args:
          step: number of steps done.
          state: everything but `frozen` is written; may be donated afterwards.
          config: of the run, as JSON-like values.
          summary: of an evaluation at this very step, to find the best checkpoint.

        Raises:
          CheckpointError: no room, or the one before could not be written.
        """
        tree = _saved(state)
        score = (summary or {}).get(self._best_metric)
        # Empty rather than None: Orbax would warn of every save without an evaluation.
        metrics = {} if self._best_metric else None
        if score is not None and math.isfinite(score):
            metrics = {SCORE: self._sign * score, self._best_metric: score}
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise CheckpointError(
                f"disk full: the checkpoint of step {step} needs {needed / 1e6:.1f} MB,"
                f" {self._folder} has {free / 1e6:.1f} MB; free some space and run the"
                " same line again"
            )
        with _explained(f"write step {step} to {self._folder}"):
            self._manager.wait_until_finished()
            self._writing = step
            started = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    config=ocp.args.JsonSave(dict(config)),
                ),
                metrics=metrics,
            )
        if not started:
            raise CheckpointError(
                f"step {step} is not after the latest checkpoint"
                f" ({self._manager.latest_step()}) in {self._folder}"
            )

    def restore_latest(self, state: TrainState) -> TrainState | None:
        """The newest readable checkpoint in the place of `state`; None when none is.

        A damaged one is reported, put aside and the one before it taken. Shardings and
        `frozen` are those of `state`, whatever devices the checkpoint was written by.

        Raises:
          CheckpointError: none is readable, or they are those of another model.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _saved(state))
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            path = self._folder / str(step)
            error = _agreed(lambda path=path: checksums.check(path))
            if error is None:
                try:
                    check_fit(stored_leaves(path), target, path)
                    restored = self._manager.restore(
                        step,
                        args=ocp.args.Composite(state=ocp.args.StandardRestore(target)),
                    )
                    self._put_aside(damaged)
                    self._manager.reload()
                    return state.replace(**restored.state)
                except CheckpointError:
                    raise
                except Exception as reason:  # whatever a damaged file makes Orbax raise
                    if jax.process_count() > 1:  # the others wait for this one
                        raise CheckpointError(
                            f"{path} cannot be read ({one_line(reason)}); move it away"
                            " and run the same line again"
                        ) from reason
                    error = reason
            damaged[step] = error
        self._put_aside(damaged)
        return None

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with _explained(f"write to {self._folder}"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None when there is none."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits and releases what Orbax holds."""
        with _explained(f"write to {self._folder}"):
            self._manager.close()

    def _put_aside(self, damaged: Mapping[int, Exception]) -> None:
        left = set(_steps(self._folder)) - damaged.keys()
        if damaged and not left:
            step, error = next(iter(damaged.items()))
            raise CheckpointError(
                f"no checkpoint in {self._folder} can be read (step {step}:"
                f" {one_line(error)}); train in a fresh --workdir, or remove that"
                " folder to start again"
            )
        for bad, error in damaged.items():
            aside = self._folder.with_name(f"damaged_{FOLDER}") / str(bad)
            if jax.process_index() == 0:
                logging.warning(
                    "checkpoint of step %d is damaged (%s): moved to %s, going on from"
                    " step %d",
                    *(bad, one_line(error), aside, max(left)),
                )
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                (self._folder / str(bad)).rename(aside)
        if damaged:
            _agreed(lambda: None)  # the others wait until they are moved

    def _write_sums(self) -> None:
        # One process calls this; a folder that is not finished has a longer name.
        for path in self._folder.glob(f"{self._writing}*"):
            if path.name.partition(".")[0] == str(self._writing):
                checksums.write(path)


def restore_params(
    workdir: str | pathlib.Path, *, step: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Parameters and `extra` of a trained system, as NumPy arrays; no model needed.

    The moving average is taken where the run kept one.

    Args:
      workdir: of the training run.
      step: which checkpoint; by default the best, or the latest where none was scored.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    path = _find(workdir, step)
    try:
        checksums.check(path)
        leaves = stored_leaves(path)
        # `ema` is None, or a tree as `params`.
        has_ema = any(name.startswith("ema/") for name in leaves)
        kept = {"ema" if has_ema else "params", "extra"}
        tree = metadata(path)
        target = {name: tree[name] for name in kept if tree.get(name)}
        arguments = ocp.args.PyTreeRestore(
            item=target,
            restore_args=jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target
            ),
            partial_restore=True,
        )
        with ocp.PyTreeCheckpointer() as checkpointer:
            restored = checkpointer.restore(path / "state", args=arguments)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}); pass another step or train"
            " again"
        ) from error
    return restored["ema" if has_ema else "params"], restored.get("extra") or {}


def restore_config(
    workdir: str | pathlib.Path, *, step: int | None = None
) -> dict[str, Any]:
    """The config that a checkpoint was trained with; arguments as `restore_params`."""
    path = _find(workdir, step)
    try:
        return json.loads((path / "config" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its config cannot be read ({one_line(error)})"
        ) from error


def _agreed(check: Callable[[], Any]) -> Exception | None:
    """What `check` raises on process 0, for all processes; None where it passes."""
    error = None
    if jax.process_index() == 0:
        try:
            check()
        except Exception as reason:
            error = reason
    if jax.process_count() > 1:
        bad = multihost_utils.broadcast_one_to_all(np.bool_(error is not None))
        if bad and error is None:
            error = ValueError("see process 0")
    return error


def _folder(workdir: str | pathlib.Path) -> pathlib.Path:
    # Orbax fails late, in a thread, on a relative path.
    return pathlib.Path(workdir).absolute() / FOLDER


def _steps(folder: pathlib.Path) -> list[int]:
    """Of the checkpoints in a folder, in order; half-written ones have other names."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _score(metrics: Mapping[str, float]) -> float:
    return metrics.get(SCORE, -math.inf)


def _saved(state: TrainState) -> dict[str, Any]:
    names = ("step", "params", "opt_state", "ema", "extra")
    return {name: getattr(state, name) for name in names}


def _find(workdir: str | pathlib.Path, step: int | None) -> pathlib.Path:
    """Folder of one checkpoint."""
    folder = _folder(workdir)
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(
            f"no checkpoint in {folder}; give the --workdir of a training run that has"
            " saved one"
        )
    if step is None:
        scores = {}
        for step in steps:
            try:
                scores[step] = stored_score(folder / str(step))
            except (OSError, ValueError, AttributeError) as error:
                raise CheckpointError(
                    f"the score of {folder / str(step)} is damaged"
                    f" ({one_line(error)}); move that folder away, or pass a step"
                ) from error
        step = max(steps, key=lambda step: (scores[step], step))
    if step not in steps:
        raise CheckpointError(f"no checkpoint of step {step} in {folder}; has {steps}")
    return folder / str(step)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns an error of writing into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        full = (
            getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            or "No space left" in str(error)
            or "Disk quota exceeded" in str(error)
        )
        reason = "disk full" if full else one_line(error)
        raise CheckpointError(
            f"could not {what}: {reason}; "
            + (
                "free some space and run the same line again"
                if full
                else "is the folder writable?"
            )
        ) from error
