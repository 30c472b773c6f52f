"""Weights of RIVER's refinement network: the names that its checkpoints give them.

A checkpoint of its training holds them as the section "refiner"
(`features.weights.read_sections`). No trained one is published.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_vidpred.features.weights import Tensors, flatten, to_tree

_INSIDE = {  # of a block
    "conv_0": "body.0",
    "conv_1": "body.2",
    "squeeze": "body.3.conv_du.0",
    "excite": "body.3.conv_du.2",
}
_BLOCK = re.compile(r"group_(\d+)_block_(\d+)")
_GROUP_END = re.compile(r"group_(\d+)_last")


def to_params(tensors: Tensors, like: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a `models.refine.Refiner`.

    They mean what they did where `residual` is False and `patch` is 1.

    Args:
      tensors: as in a checkpoint.
      like: the tree as `jax.eval_shape(module.init, ...)["params"]` gives it.

    Raises:
      WeightsError: a name is unknown or missing, or a shape is that of another size.
    """
    paths = {_torch_name(path, like): path for path in flatten(like)}
    return to_tree(tensors, lambda name: paths.get(name, name), like)


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a checkpoint would hold for these parameters: the inverse of `to_params`."""
    tensors = {}
    for path, array in flatten(params).items():
        array = np.asarray(array)
        if path.endswith("/kernel"):
            # (space..., in, out) to (out, in, space...); attention's are 1x1 there.
            array = np.transpose(array, (-1, -2, *range(array.ndim - 2)))
            array = array.reshape(*array.shape, *[1] * (4 - array.ndim))
        tensors[_torch_name(path, params)] = np.ascontiguousarray(array)
    return tensors


def _torch_name(path: str, tree: Mapping[str, Any]) -> str:
    layer, leaf = path.rsplit("/", 1)
    suffix = "bias" if leaf == "bias" else "weight"
    outer, _, inside = layer.partition("/")
    if found := _BLOCK.fullmatch(outer):
        return f"body.{found[1]}.body.{found[2]}.{_INSIDE[inside]}.{suffix}"
    # A convolution behind all groups, or all blocks of a group, is numbered with them.
    if found := _GROUP_END.fullmatch(outer):
        blocks = sum(name.startswith(f"group_{found[1]}_block_") for name in tree)
        return f"body.{found[1]}.body.{blocks}.{suffix}"
    if outer == "last":
        groups = sum(bool(_GROUP_END.fullmatch(name)) for name in tree)
        return f"body.{groups}.{suffix}"
    return f"{outer}.{suffix}"
