"""LPIPS v0.1, a perceptual distance of images (Zhang et al. 2018): alex, vgg, squeeze.

A frozen classifier (the trunk: AlexNet, VGG16 or SqueezeNet 1.1, as torchvision trains
them on ImageNet) describes both images at five or seven depths. Descriptions are scaled
to unit length per position; their squared differences are weighed per channel (the
heads, fitted to human judgement), averaged over positions and summed over depths.

Trunk and heads are published apart, by different people:

    params = load_lpips("alex")  # alexnet-owt-7be5be79.pth and alex.pth
    lpips_distance(params, "alex")(prediction, target)  # [b], of images in [0, 1]

Values of different nets do not compare; alex is the usual one for scores.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.features.weights import (
    Network,
    Published,
    Tensors,
    WeightsError,
    find_file,
    load_params,
    to_tree,
)
from jax_vidpred.ops import conv as conv_ops
from jax_vidpred.ops.pool import max_pool

# Of the input; they take the place of ImageNet's mean and deviation, for [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the length that a description is divided by


class LPIPS(nn.Module):
    """Distance of two images, 0 for equal ones.

    Attributes:
      net: "alex", "vgg" or "squeeze".
    """

    net: str = "alex"

    @nn.compact
    def __call__(
        self, image0: Float[Array, "b h w 3"], image1: Float[Array, "b h w 3"]
    ) -> Float[Array, "b"]:
        """Distances of pairs of images in [-1, 1] (not [0, 1]); not clipped.

        Raises:
          ValueError: unknown net, unequal shapes, or images smaller than the trunk's
            last window (alex 31, vgg 16, squeeze 17 pixels).
        """
        h, w = image0.shape[1:3]
        trunk = _known(self.net)(name="trunk")
        if image0.shape != image1.shape:
            raise ValueError(
                f"LPIPS compares images of one shape; got {image0.shape} and"
                f" {image1.shape}"
            )
        if min(h, w) < trunk.smallest:
            raise ValueError(
                f"images of {h}x{w} are too small for LPIPS {self.net}; give"
                f" {trunk.smallest}x{trunk.smallest} or more"
            )
        # One after the other: of a frozen target no gradient is computed.
        features = [trunk(_normalised(image)) for image in (image0, image1)]
        return _Heads(name="heads")(*features)


def lpips_distance(
    params: Mapping[str, Any], net: str = "alex"
) -> Callable[[Array, Array], Float[Array, "b"]]:
    """f(prediction, target) -> [b], LPIPS of images in [0, 1]: a score or a loss.

    Its gradients are finite everywhere. `params` are those of `LPIPS(net)`.
    """
    variables = {"params": jax.tree.map(jnp.asarray, params)}

    def distance(prediction, target):
        return LPIPS(net).apply(variables, 2 * prediction - 1, 2 * target - 1)

    return distance


def load_lpips(
    net: str = "alex", folder: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Parameters of `LPIPS(net)`: from one file, else from the trunk's and the heads'.

    `folder` is where the files lie, see `weights.find_file`.

    Raises:
      WeightsError: a file is absent (it names the file and where it is published) or
        is not what it should be.
    """
    _known(net)
    whole, trunk, heads = _NETWORKS[net]
    try:
        path = find_file(whole, folder)
    except WeightsError:
        path = None
    if path:
        return load_params(whole, path)
    paths = find_file(trunk, folder), find_file(heads, folder)
    return lpips_params(load_params(trunk, paths[0]), load_params(heads, paths[1]))


def lpips_params(trunk: Mapping[str, Any], heads: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `LPIPS` from those of a trunk and of the heads made for it.

    Raises:
      WeightsError: they are of different nets.
    """
    params = {"trunk": dict(trunk), "heads": dict(heads)}
    shapes = _shapes(params)
    trunk_net, heads_net = (
        next((n for n in _TRUNKS if _shapes(_like(n)[part]) == shapes[part]), "nothing")
        for part in params
    )
    if trunk_net != heads_net or trunk_net not in _TRUNKS:
        raise WeightsError(
            f"the trunk is that of LPIPS {trunk_net}, the heads are those of"
            f" {heads_net}; give two that belong together"
        )
    return params


def _normalised(image):
    shift, scale = (jnp.array(x).reshape(1, 1, 1, 3) for x in (SHIFT, SCALE))
    return (image - shift) / scale


class _Heads(nn.Module):
    @nn.compact
    def __call__(self, features0, features1):
        total = 0.0
        for depth, (x0, x1) in enumerate(zip(features0, features1, strict=True)):
            shape = (x0.shape[-1],)
            weight = self.param(f"lin{depth}", nn.initializers.ones, shape)
            squares = jnp.square(_unit_length(x0) - _unit_length(x1)).mean((1, 2))
            total += jnp.sum(squares * weight[None], -1)
        return total


def _unit_length(x):
    """x / (|x| + epsilon) along the channels."""
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    # Where all units are silent the root's gradient is infinite, and times zero not a
    # number; only a relu before it would hide that. `where` within and around it helps.
    silent = square == 0
    length = jnp.where(silent, 0.0, jnp.sqrt(jnp.where(silent, 1.0, square)))
    return x / (length + EPSILON)


class _Conv(nn.Module):
    """Convolution and relu; parameters as torch's Conv2d has them."""

    features: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # Zeros make the kernel a multiple of the stride, for which the gradient of
        # `conv2d` is fast; as many rows of padding keep the size.
        more = -self.kernel % self.stride
        kernel = jnp.pad(kernel, ((0, more), (0, more), (0, 0), (0, 0)))
        padding = ((self.padding, self.padding + more),) * 2
        y = conv_ops.conv2d(x, kernel, self.stride, padding)
        return nn.relu(y + jnp.broadcast_to(bias, y.shape))


class _AlexNet(nn.Module):
    smallest = 31

    @nn.compact
    def __call__(self, x):
        x = _Conv(64, 11, stride=4, padding=2, name="features_0")(x)
        features = [x]
        for index, width, kernel in (
            (3, 192, 5),
            (6, 384, 3),
            (8, 256, 3),
            (10, 256, 3),
        ):
            if index <= 6:
                x = max_pool(x, (3, 3), (2, 2), ((0, 0), (0, 0)))
            x = _Conv(width, kernel, 1, kernel // 2, name=f"features_{index}")(x)
            features.append(x)
        return features


class _VGG16(nn.Module):
    smallest = 16

    @nn.compact
    def __call__(self, x):
        features = []
        index = 0  # torchvision counts convolutions, relus and pools
        for width, num_layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            if features:
                x = max_pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
                index += 1
            for _ in range(num_layers):
                x = _Conv(width, 3, 1, 1, name=f"features_{index}")(x)
                index += 2
            features.append(x)
        return features


class _SqueezeNet(nn.Module):
    smallest = 17

    @nn.compact
    def __call__(self, x):
        x = _Conv(64, 3, stride=2, name="features_0")(x)
        features = [x]
        for index in (3, 4, 6, 7, 9, 10, 11, 12):
            if index in (3, 6, 9):
                # Torch's ceil_mode: the last window may reach over the border by one.
                over = tuple((0, (n - 3) % 2) for n in x.shape[1:3])
                x = max_pool(x, (3, 3), (2, 2), over)
            width = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48}.get(index, 64)
            x = _Fire(width, name=f"features_{index}")(x)
            if index not in (3, 6):
                features.append(x)
        return features


class _Fire(nn.Module):
    """Squeeze to few channels, expand to 4 + 4 times as many (Iandola et al. 2016)."""

    squeezed: int

    @nn.compact
    def __call__(self, x):
        x = _Conv(self.squeezed, 1, name="squeeze")(x)
        narrow = _Conv(4 * self.squeezed, 1, name="expand1x1")(x)
        wide = _Conv(4 * self.squeezed, 3, padding=1, name="expand3x3")(x)
        return jnp.concatenate([narrow, wide], -1)


_TRUNKS = {"alex": _AlexNet, "vgg": _VGG16, "squeeze": _SqueezeNet}


def _known(net: str) -> type[nn.Module]:
    if net not in _TRUNKS:
        raise ValueError(f"LPIPS net {net!r} is unknown; use {', '.join(_TRUNKS)}")
    return _TRUNKS[net]


def _shapes(tree: Mapping[str, Any]) -> dict[str, Any]:
    return jax.tree.map(jnp.shape, tree)


@functools.cache
def _like(net: str) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(LPIPS(net).init, jax.random.key(0), image, image)["params"]


_IGNORED = ("classifier.", "lins.", "scaling_layer.")  # the last two repeat others


def _path(name: str) -> str | None:
    """Path in the tree of a name of torchvision, of the heads, or of `lpips.LPIPS`."""
    if name.startswith(_IGNORED):
        return None
    if head := re.fullmatch(r"(lin\d)\.model\.1\.weight", name):
        return f"heads/{head[1]}"
    name = re.sub(r"^net\.slice\d\.", "features.", name)
    if layer := re.fullmatch(r"features\.(\d+)\.(.*)", name):
        inner = layer[2].replace(".", "/").replace("weight", "kernel")
        return f"trunk/features_{layer[1]}/{inner}"
    return name


def _to_params(net: str, parts: tuple[str, ...], tensors: Tensors) -> dict[str, Any]:
    params = to_tree(tensors, _path, {part: _like(net)[part] for part in parts})
    for name, weight in params.get("heads", {}).items():
        if (weight < 0).any():
            raise WeightsError(
                f"{name} has negative weights, so what it makes is no distance; wanted"
                " the heads of LPIPS v0.1"
            )
    return params if len(parts) > 1 else params[parts[0]]


def _networks(
    net: str,
    trunk: str,
    title: str,
    file: Published,
    heads_sha256: str,
    mark: dict[str, tuple[int, ...]],
    width: int,  # of the fifth head, different in each net
) -> tuple[Network, Network, Network]:
    """The files that a net comes in: the whole, or its trunk and its heads."""
    lpips = f"LPIPS {net} (Zhang et al. 2018)"
    where = "richzhang/PerceptualSimilarity on GitHub, lpips/weights/v0.1"
    heads_file = Published(f"{net}.pth", heads_sha256, where, "BSD-2-Clause")
    heads_mark = {"lin4.model.1.weight": (1, width, 1, 1)}
    whole_mark = heads_mark | {"net.slice1.0.weight": mark["features.0.weight"]}

    def network(name, title, files, mark, *parts):
        read = functools.partial(_to_params, net, parts)
        return Network(name, title, files, (mark,), read)

    return (
        network(f"lpips_{net}", lpips, (), whole_mark, "trunk", "heads"),
        network(trunk, title, (file,), mark, "trunk"),
        network(
            *(f"lpips_{net}_heads", f"the heads of {lpips}", (heads_file,)),
            *(heads_mark, "heads"),
        ),
    )


def _torchvision(file, weights):
    where = f"torchvision, {weights}.IMAGENET1K_V1"
    return Published(file, file[-12:-4], where, "BSD-3-Clause")  # digits in the name


_NETWORKS = {
    "alex": _networks(
        "alex",
        "alexnet_features",
        "the features of AlexNet (Krizhevsky 2014)",
        _torchvision("alexnet-owt-7be5be79.pth", "AlexNet_Weights"),
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        {"features.0.weight": (64, 3, 11, 11), "features.10.weight": (256, 256, 3, 3)},
        256,
    ),
    "vgg": _networks(
        "vgg",
        "vgg16_features",
        "the features of VGG16 (Simonyan & Zisserman 2015)",
        _torchvision("vgg16-397923af.pth", "VGG16_Weights"),
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        {"features.0.weight": (64, 3, 3, 3), "features.24.weight": (512, 512, 3, 3)},
        512,
    ),
    "squeeze": _networks(
        "squeeze",
        "squeezenet_features",
        "the features of SqueezeNet 1.1 (Iandola et al. 2016)",
        _torchvision("squeezenet1_1-b8a52dc0.pth", "SqueezeNet1_1_Weights"),
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        {
            "features.0.weight": (64, 3, 3, 3),
            "features.3.squeeze.weight": (16, 64, 1, 1),
        },
        384,
    ),
}
# The wholes first: the names of the heads are in them too.
NETWORKS = tuple(one for kind in zip(*_NETWORKS.values(), strict=True) for one in kind)
