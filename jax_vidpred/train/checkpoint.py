"""Checkpoints: state, position in the data and config, written and read by Orbax.

Layout: `<workdir>/checkpoints/<step>/{state,data,config,metrics}`. A checkpoint is
there whole or not at all. `TrainState.frozen` is never written: it is another run's.
"""

import contextlib
import errno
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from jax_vidpred.train.state import TrainState

FOLDER = "checkpoints"
_SCORE = "score"  # of a checkpoint; the highest is the best


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says how to go on."""


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
        with _explained(f"open {self._folder}"):
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    best_fn=_score if best_metric else None,
                    preservation_policy=policy,
                    cleanup_tmp_directories=True,  # what a killed run left half-written
                ),
            )

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: grain.DatasetIterator,
        *,
        config: Mapping[str, Any],
        summary: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to write a checkpoint; it is on disk once `wait` has returned.

        Args:
          step: number of steps done.
          state: everything but `frozen` is written; may be donated afterwards.
          iterator: of the training data, so that resuming sees the same batches.
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
            metrics = {_SCORE: self._sign * score, self._best_metric: score}
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise CheckpointError(
                f"disk full: the checkpoint of step {step} needs {needed / 1e6:.1f} MB,"
                f" {self._folder} has {free / 1e6:.1f} MB; free some space and run the"
                " same line again"
            )
        with _explained(f"write step {step} to {self._folder}"):
            started = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    data=grain.checkpoint.CheckpointSave(iterator),
                    config=ocp.args.JsonSave(dict(config)),
                ),
                metrics=metrics,
            )
        if not started:
            raise CheckpointError(
                f"step {step} is not after the latest checkpoint"
                f" ({self._manager.latest_step()}) in {self._folder}"
            )

    def restore_latest(
        self, state: TrainState, iterator: grain.DatasetIterator
    ) -> TrainState | None:
        """The newest readable checkpoint in the place of `state`; None when none is.

        A damaged one is reported, put aside and the one before it taken. `iterator` is
        moved to where it was. Shardings and `frozen` are those of `state`.

        Raises:
          CheckpointError: none is readable, or they are those of another model.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _saved(state))
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                stored = _stored_leaves(self._folder / str(step))
                _check_fit(stored, target, self._folder / str(step))
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(target),
                        data=grain.checkpoint.CheckpointRestore(iterator),
                    ),
                )
            except CheckpointError:
                raise
            except Exception as error:  # whatever a damaged file makes Orbax raise
                damaged[step] = error
                continue
            self._put_aside(damaged, step)
            return state.replace(**restored.state)
        if damaged:
            step, error = next(iter(damaged.items()))
            raise CheckpointError(
                f"no checkpoint in {self._folder} can be read (step {step}:"
                f" {_one_line(error)}); train in a fresh --workdir, or remove that"
                " folder to start again"
            )
        return None

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with _explained(f"write to {self._folder}"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster is about to stop this job; the same on all processes."""
        return self._manager.reached_preemption(step)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None when there is none."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits and releases what Orbax holds."""
        with _explained(f"write to {self._folder}"):
            self._manager.close()

    def _put_aside(self, damaged: Mapping[int, Exception], step: int) -> None:
        for bad, error in damaged.items():
            aside = self._folder.with_name(f"damaged_{FOLDER}") / str(bad)
            logging.warning(
                "checkpoint of step %d is damaged (%s): moved to %s, going on from"
                " step %d",
                *(bad, _one_line(error), aside, step),
            )
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                (self._folder / str(bad)).rename(aside)
        if damaged:
            self._manager.reload()


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
        leaves = _stored_leaves(path)
        # `ema` is None, or a tree as `params`.
        has_ema = any(name.startswith("ema/") for name in leaves)
        kept = {"ema" if has_ema else "params", "extra"}
        tree = _metadata(path)
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
            f"{path} cannot be read ({_one_line(error)}); pass another step or train"
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
            f"{path}: its config cannot be read ({_one_line(error)})"
        ) from error


def _folder(workdir: str | pathlib.Path) -> pathlib.Path:
    # Orbax fails late, in a thread, on a relative path.
    return pathlib.Path(workdir).absolute() / FOLDER


def _score(metrics: Mapping[str, float]) -> float:
    return metrics.get(_SCORE, -math.inf)


def _saved(state: TrainState) -> dict[str, Any]:
    names = ("step", "params", "opt_state", "ema", "extra")
    return {name: getattr(state, name) for name in names}


def _find(workdir: str | pathlib.Path, step: int | None) -> pathlib.Path:
    """Folder of one checkpoint."""
    folder = _folder(workdir)
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise CheckpointError(
            f"no checkpoint in {folder}; give the --workdir of a training run that has"
            " saved one"
        )
    if step is None:
        scores = {step: _stored_score(folder / str(step)) for step in steps}
        step = max(steps, key=lambda step: (scores[step], step))
    if step not in steps:
        raise CheckpointError(f"no checkpoint of step {step} in {folder}; has {steps}")
    return folder / str(step)


def _stored_score(path: pathlib.Path) -> float:
    try:
        return json.loads((path / "metrics" / "metrics").read_text())[_SCORE]
    except (OSError, ValueError, KeyError):
        return -math.inf


def _metadata(path: pathlib.Path) -> dict[str, Any]:
    return ocp.PyTreeCheckpointHandler().metadata(path / "state").tree


def _stored_leaves(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a checkpoint, by name."""
    return _shapes(_metadata(path))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(_key_name(key) for key in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")
    }


def _key_name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):  # of a dict, a tuple, a dataclass
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _check_fit(
    stored: Mapping[str, tuple[int, ...]], target: Any, path: pathlib.Path
) -> None:
    wanted = _shapes(target)
    # Parameters first: their names tell a reader more than the optimiser's.
    names = sorted(
        stored.keys() | wanted.keys(), key=lambda n: (not n.startswith("params"), n)
    )
    for name in names:
        got, want = stored.get(name, "nothing"), wanted.get(name, "nothing")
        if got != want:
            raise CheckpointError(
                f"checkpoint of another model: {path} has {got} at {name}, wanted"
                f" {want}; train in a fresh --workdir"
            )


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
        reason = "disk full" if full else _one_line(error)
        raise CheckpointError(
            f"could not {what}: {reason}; "
            + (
                "free some space and run the same line again"
                if full
                else "is the folder writable?"
            )
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
