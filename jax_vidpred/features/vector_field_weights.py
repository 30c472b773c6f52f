"""Weights of RIVER's vector field: the names that its checkpoints give the parameters.

A published file of the whole model has them behind "vector_field_regressor."; here the
names are those after it.

The published field for BAIR at 256x256 ends with a batch norm. Its statistics are fixed
once it is trained, so that it comes to a scale and an offset of each feature, and these
are what is read.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_vidpred.features.weights import Tensors, WeightsError, flatten, to_tree

# Our names and those of the checkpoints, without ".weight" and ".bias".
_INSIDE = {
    "norm_attention": "norm1",
    "attention/qkv": "self_attn.in_proj",
    "attention/out": "self_attn.out_proj",
    "norm_hidden": "norm2",
    "hidden": "linear1",
    "out": "linear2",
}
_OUTSIDE = {
    "column_table": "position_encoding.col_embed",
    "row_table": "position_encoding.row_embed",
    "embed": "project_in.1",
    "distance_hidden": "time_projection.0",
    "distance_out": "time_projection.2",
    "out_hidden": "project_out.0",
    "out_norm": "project_out.2",
    "out_conv": "project_out.4",
}
_BATCH_NORM = "project_out.3"
_EPSILON = 1e-5  # of that norm
_BLOCK = re.compile(r"(in|mid|out)_blocks_(\d+)/(.+)")
_SKIP = re.compile(r"skips_(\d+)")


def to_params(tensors: Tensors, like: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a `models.river.VectorField`, "frozen" where `has_batch_norm`.

    Args:
      tensors: as in a checkpoint.
      like: the tree as `jax.eval_shape(module.init, ...)["params"]` gives it.

    Raises:
      WeightsError: a name is unknown or missing, or a shape is that of another size.
    """
    if has_batch_norm(tensors):
        tensors = _without_statistics(tensors)
    paths = {_torch_name(path): path for path in flatten(like)}
    return to_tree(tensors, lambda name: paths.get(name, name), like)


def to_tensors(
    params: Mapping[str, Any], last_norm: str = "layer"
) -> dict[str, np.ndarray]:
    """What a checkpoint would hold for these parameters: the inverse of `to_params`.

    Args:
      params: of a `models.river.VectorField`.
      last_norm: of that field.
    """
    tensors = {}
    for path, array in flatten(params).items():
        array = np.asarray(array)
        if path.endswith("/kernel"):  # (space..., in, out) to (out, in, space...)
            array = np.transpose(array, (-1, -2, *range(array.ndim - 2)))
        tensors[_torch_name(path)] = np.ascontiguousarray(array)
    if last_norm == "frozen":
        layer_norm = _OUTSIDE["out_norm"]
        for part in ("weight", "bias"):
            name, array = f"{_BATCH_NORM}.{part}", tensors.pop(f"{layer_norm}.{part}")
            tensors[name] = array
        tensors[f"{_BATCH_NORM}.running_mean"] = np.zeros_like(array)
        tensors[f"{_BATCH_NORM}.running_var"] = np.full_like(array, 1 - _EPSILON)
    return tensors


def has_batch_norm(tensors: Tensors) -> bool:
    """Whether the field of a checkpoint ends with a batch norm."""
    return f"{_BATCH_NORM}.running_var" in tensors


def _without_statistics(tensors: Tensors) -> dict[str, np.ndarray]:
    """The batch norm as scale and offset, under the names of a layer norm."""
    scale, bias, mean, variance = (
        _tensor(tensors, f"{_BATCH_NORM}.{part}").astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / np.sqrt(variance + _EPSILON)
    rest = {k: v for k, v in tensors.items() if not k.startswith(f"{_BATCH_NORM}.")}
    after = _OUTSIDE["out_norm"]
    return rest | {f"{after}.weight": scale, f"{after}.bias": bias - mean * scale}


def _tensor(tensors, name):
    if name not in tensors:
        raise WeightsError(f"{name} is missing: another network")
    return tensors[name]


def _torch_name(path: str) -> str:
    layer, _, leaf = path.rpartition("/")
    suffix = "bias" if leaf == "bias" else "weight"
    if found := _BLOCK.fullmatch(layer):
        part, number, inside = found.groups()
        block = f"{part}_blocks.{number}" + (".1" if part == "out" else "")
        # Queries, keys and values are bare parameters of torch's attention.
        joint = "_" if inside == "attention/qkv" else "."
        return f"{block}.{_INSIDE[inside]}{joint}{suffix}"
    if found := _SKIP.fullmatch(layer):
        return f"out_blocks.{found[1]}.0.{suffix}"
    return f"{_OUTSIDE[layer or leaf]}.{suffix}"
