"""Parameters of RAFT: which there are, and how published files name them.

Files come in the names of torchvision or in those of princeton-vl.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np

from jax_vidpred.features.weights import (
    Network,
    Published,
    Tensors,
    fold_batch_norm,
    to_tree,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Widths of a variant (Teed & Deng 2020, appendix A).

    Attributes:
      widths: of the encoders at 1/2, 1/4 and 1/8 of the resolution.
      bottleneck: if their blocks are 1x1, 3x3, 1x1 convolutions, else two of 3x3.
      features: that are correlated.
      hidden, context: what the context encoder gives.
      radius: of the look-up, in cells of each level of the pyramid (there are four).
      correlation, flow, motion: of the motion encoder; motion includes the flow itself.
      head: of the flow head.
      gru: sides of the kernels of the recurrent units, one after the other.
      mask: of the net that weights the upsampling; 0 if that is bilinear.
    """

    widths: tuple[int, int, int]
    bottleneck: bool
    features: int
    hidden: int
    context: int
    radius: int
    correlation: tuple[int, ...]
    flow: tuple[int, int]
    motion: int
    head: int
    gru: tuple[tuple[int, int], ...]
    mask: int


SIZES = {
    "small": Sizes(
        widths=(32, 64, 96),
        bottleneck=True,
        features=128,
        hidden=96,
        context=64,
        radius=3,
        correlation=(96,),
        flow=(64, 32),
        motion=82,
        head=128,
        gru=((3, 3),),
        mask=0,
    ),
    "large": Sizes(
        widths=(64, 96, 128),
        bottleneck=False,
        features=256,
        hidden=128,
        context=128,
        radius=4,
        correlation=(256, 192),
        flow=(128, 64),
        motion=128,
        head=256,
        gru=((1, 5), (5, 1)),
        mask=256,
    ),
}


def parameter_shapes(variant: str) -> dict[str, Any]:
    """{part: {convolution: {"kernel": ..., "bias": ...}}} of jax.ShapeDtypeStruct."""
    sizes = SIZES[variant]
    outputs = sizes.hidden + sizes.context
    parts = {
        "feature_encoder": _encoder_kernels(sizes, sizes.features),
        "context_encoder": _encoder_kernels(sizes, outputs),
        "update": _update_kernels(sizes),
    }
    if sizes.mask:
        parts["mask"] = {
            "conv1": (3, 3, sizes.hidden, sizes.mask),
            "conv2": (1, 1, sizes.mask, 9 * 8 * 8),  # 3x3 cells for 8x8 pixels
        }

    def pair(kernel):
        shapes = {"kernel": kernel, "bias": kernel[-1:]}
        return {
            leaf: jax.ShapeDtypeStruct(shape, np.float32)
            for leaf, shape in shapes.items()
        }

    return {
        part: {name: pair(kernel) for name, kernel in kernels.items()}
        for part, kernels in parts.items()
    }


def _encoder_kernels(sizes: Sizes, outputs: int) -> dict[str, tuple[int, ...]]:
    before = sizes.widths[0]
    kernels = {"conv1": (7, 7, 3, before)}
    for level, width in enumerate(sizes.widths, start=1):
        for block in (0, 1):
            name = f"layer{level}_{block}"
            if sizes.bottleneck:
                narrow = width // 4
                kernels[f"{name}_conv1"] = (1, 1, before, narrow)
                kernels[f"{name}_conv2"] = (3, 3, narrow, narrow)
                kernels[f"{name}_conv3"] = (1, 1, narrow, width)
            else:
                kernels[f"{name}_conv1"] = (3, 3, before, width)
                kernels[f"{name}_conv2"] = (3, 3, width, width)
            if before != width:
                kernels[f"{name}_downsample"] = (1, 1, before, width)
            before = width
    return kernels | {"conv2": (1, 1, before, outputs)}


def _update_kernels(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    first, *second = sizes.correlation
    kernels = {"correlation1": (1, 1, 4 * (2 * sizes.radius + 1) ** 2, first)}
    if second:
        kernels["correlation2"] = (3, 3, first, *second)
    kernels["flow1"] = (7, 7, 2, sizes.flow[0])
    kernels["flow2"] = (3, 3, *sizes.flow)
    both = sizes.correlation[-1] + sizes.flow[1]
    kernels["motion"] = (3, 3, both, sizes.motion - 2)
    inputs = sizes.hidden + sizes.context + sizes.motion
    for number, sides in enumerate(sizes.gru, start=1):
        for gate in "zrq":
            kernels[f"gru{number}_{gate}"] = (*sides, inputs, sizes.hidden)
    kernels["head1"] = (3, 3, sizes.hidden, sizes.head)
    return kernels | {"head2": (3, 3, sizes.head, 2)}


# Both schemes; applied one after the other to a name without its .weight or .bias.
_RENAMES = (
    (r"^(feature_encoder|fnet)\.", "feature_encoder/"),
    (r"^(context_encoder|cnet)\.", "context_encoder/"),
    (r"_encoder/convnormrelu\.0$", "_encoder/conv1"),
    (r"_encoder/conv$", "_encoder/conv2"),
    (r"/layer(\d)\.(\d)\.conv(?:normrelu)?(\d)(?:\.0)?$", r"/layer\1_\2_conv\3"),
    (r"/layer(\d)\.(\d)\.downsample\.0$", r"/layer\1_\2_downsample"),
    (r"^update_block\.(motion_)?encoder\.", "update/"),
    (r"^update/convc(?:orr)?(\d)(\.0)?$", r"update/correlation\1"),
    (r"^update/convf(?:low)?(\d)(\.0)?$", r"update/flow\1"),
    (r"^update/conv(\.0)?$", "update/motion"),
    (r"^update_block\.recurrent_block\.convgru(\d)\.conv(.)$", r"update/gru\1_\2"),
    (r"^update_block\.gru\.conv(.)(\d)$", r"update/gru\2_\1"),
    (r"^update_block\.gru\.conv(.)$", r"update/gru1_\1"),
    (r"^update_block\.flow_head\.conv(\d)$", r"update/head\1"),
    (r"^(mask_predictor\.convrelu\.0|update_block\.mask\.0)$", "mask/conv1"),
    (r"^(mask_predictor\.conv|update_block\.mask\.2)$", "mask/conv2"),
)
_LEAVES = {"weight": "kernel", "bias": "bias"}
_CONTEXT = re.compile(r"(context_encoder|cnet)\.")
_UNNORMED = ("context_encoder.conv", "cnet.conv2")
# princeton-vl's files have the norm of a downsample twice, also as norm3.
_NORM = re.compile(r"\.(norm\d|convnormrelu\d?\.1|downsample\.1)\.\w+$")


def _rename(name: str) -> str | None:
    if _CONTEXT.match(name) and _NORM.search(name):
        return None  # folded into a convolution
    path, _, leaf = name.rpartition(".")
    for pattern, replacement in _RENAMES:
        path = re.sub(pattern, replacement, path)
    return f"{path}/{_LEAVES.get(leaf, leaf)}"


def _fold_context_norms(tensors: Tensors) -> Tensors:
    folded = dict(tensors)
    for name, array in tensors.items():
        conv = name.removesuffix(".weight")
        if not _CONTEXT.match(name) or array.ndim != 4 or conv in _UNNORMED:
            continue
        if conv.endswith(".0"):
            norm = conv[:-1] + "1"
        else:
            norm = re.sub(r"conv(\d)$", r"norm\1", conv)
        folded |= fold_batch_norm(tensors, conv, norm, 1e-5)
    return folded


def _to_params(variant: str, tensors: Tensors) -> dict[str, Any]:
    if variant == "large":
        tensors = _fold_context_norms(tensors)
    return to_tree(tensors, _rename, parameter_shapes(variant))


def _network(variant: str, first: int, gru: str, gate: tuple[int, ...], *published):
    stem, gates = (first, 3, 7, 7), "update_block.recurrent_block.convgru1.convz.weight"
    return Network(
        name=f"raft_{variant}",
        title=f"RAFT {variant} (Teed & Deng 2020)",
        published=tuple(Published(*file, licence="BSD-3-Clause") for file in published),
        marks=(
            {"feature_encoder.convnormrelu.0.weight": stem, gates: gate},
            {"fnet.conv1.weight": stem, f"update_block.gru.{gru}.weight": gate},
        ),
        to_params=functools.partial(_to_params, variant),
    )


_PRINCETON = "princeton-vl/RAFT, models.zip"
NETWORKS = (
    _network(
        *("small", 32, "convz", (96, 242, 3, 3)),
        (
            "raft_small_C_T_V2-01064c6d.pth",
            "01064c6dba73b0fc9fc8edf772248560a00a3acfd62ac6677e9eeebad9680e27",
            "torchvision, Raft_Small_Weights.C_T_V2",
        ),
        (
            "raft_small_C_T_V1-ad48884c.pth",
            "ad48884c",
            "torchvision, Raft_Small_Weights.C_T_V1",
        ),
        (
            "raft-small.pth",
            "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332",
            _PRINCETON,
        ),
    ),
    _network(
        *("large", 64, "convz1", (128, 384, 1, 5)),
        (
            "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
            "ff5fadd56d26b40647388883af1547351ea17868b765c05b27231e72dd16a322",
            "torchvision, Raft_Large_Weights.C_T_SKHT_V2",
        ),
        (
            "raft_large_C_T_V2-1bb1363a.pth",
            "1bb1363a",
            "torchvision, Raft_Large_Weights.C_T_V2",
        ),
        (
            "raft-things.pth",
            "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
            _PRINCETON,
        ),
        *(
            (f"raft-{name}.pth", "", _PRINCETON)
            for name in ("chairs", "sintel", "kitti")
        ),
    ),
)
