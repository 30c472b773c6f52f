"""What the files of one checkpoint tell, without the model that they are of."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from jax_vidpred.train import checksums

SCORE = "score"  # of a checkpoint; the highest is the best


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says how to go on."""


def stored_score(path: pathlib.Path) -> float:
    """By which it competes to be the best; -inf where it was not scored.

    Raises:
      ValueError, AttributeError, OSError: the score is damaged.
    """
    checksums.check(path, only="metrics")
    try:
        return json.loads((path / "metrics" / "metrics").read_text()).get(
            SCORE, -math.inf
        )
    except FileNotFoundError:
        return -math.inf


def metadata(path: pathlib.Path) -> dict[str, Any]:
    """The tree of its state, with shapes and types for arrays."""
    return ocp.PyTreeCheckpointHandler().metadata(path / "state").tree


def stored_leaves(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a checkpoint, by name."""
    return _shapes(metadata(path))


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


def check_fit(
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


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
