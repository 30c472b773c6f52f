"""Vision transformers whose weights are published: DINOv2, DINO, CLIP's image tower.

One module for all of them (Dosovitskiy et al. 2021); the weights come from
`features.vit_weights`. From frames in [0, 1] to features:

    params = load_params(network, path)  # one of vit_weights.NETWORKS
    distance = perceptual_l1(dinov2_features(params), prediction, target)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.ops.image import space_to_depth
from jax_vidpred.ops.resize import resize

# Mean and standard deviation of the red, green and blue that the networks were
# trained on.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_NATIVE_SIZE = 224  # of DINO and CLIP, pixels

_SMALL = {"width": 384, "depth": 12, "heads": 6}
_BASE = {"width": 768, "depth": 12, "heads": 12}
_LARGE = {"width": 1024, "depth": 24, "heads": 16}
_DINOV2 = {"family": "dinov2", "patch": 14, "grid": 37}
_CLIP = {"family": "clip", "epsilon": 1e-5}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dinov2_vits14": {**_DINOV2, **_SMALL},
    "dinov2_vitb14": {**_DINOV2, **_BASE},
    "dinov2_vits14_reg": {**_DINOV2, **_SMALL, "registers": 4},
    "dinov2_vitb14_reg": {**_DINOV2, **_BASE, "registers": 4},
    "dino_vitb16": {"family": "dino", "patch": 16, "grid": 14, **_BASE},
    "clip_vitb32": {**_CLIP, "patch": 32, "grid": 7, **_BASE, "projection": 512},
    "clip_vitl14": {**_CLIP, "patch": 14, "grid": 16, **_LARGE, "projection": 768},
}


class VisionFeatures(flax.struct.PyTreeNode):
    """What a vision transformer sees in images.

    Attributes:
      cls: class token after the final norm; with a projection, projected (CLIP's image
        embedding, not of unit length).
      tokens: patch tokens after the final norm, row by row. (CLIP normalises only its
        class token; the same norm is applied here.)
      layers: patch tokens after the blocks that were asked for, in their order.
    """

    cls: Float[Array, "b e"]
    tokens: Float[Array, "b n d"]
    layers: tuple[Float[Array, "b n d"], ...]


class VisionTransformer(nn.Module):
    """Transformer over the patches of an image, norms before the sublayers.

    Images of another size than the network was trained with get position embeddings
    resized to their grid (bicubic, filtered where there are registers), as Hugging Face
    does. With registers the authors do the same; without, the code of DINO and DINOv2
    resizes to a grid that is 0.1 patches longer and wider and drops the rest, so that
    the places on the far side differ by 0.1 patches from those here.

    Attributes:
      family: "dino"; "dinov2" (the output of a sublayer is scaled per channel,
        LayerScale, Touvron et al. 2021); or "clip" (patches without bias, a norm before
        the first block, x sigmoid(1.702 x) for GELU).
      patch: side of a patch, pixels.
      grid: patches per side of the images it was trained with.
      width: channels of a token.
      depth: blocks.
      heads: of the attention.
      registers: tokens without a place (Darcet et al. 2024).
      projection: channels that the class token is projected to; 0: none.
      epsilon: of the norms, added to the variance.
    """

    family: str
    patch: int
    grid: int
    width: int
    depth: int
    heads: int
    registers: int = 0
    projection: int = 0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        layers: Sequence[int] = (),
        normed: bool = True,
    ) -> VisionFeatures:
        """Features of images that are normalised as the network was trained.

        Args:
          images: height and width are multiples of the patch.
          layers: blocks whose output is wanted; -1 is the last.
          normed: pass `layers` through the final norm too (the default of the authors'
            get_intermediate_layers).

        Raises:
          ValueError: the size does not fit, or there is no such family or block.
        """
        if self.family not in ("dino", "dinov2", "clip"):
            raise ValueError(
                f"vision transformer family {self.family!r} is unknown; use dino,"
                " dinov2 or clip"
            )
        if any(not -self.depth <= layer < self.depth for layer in layers):
            raise ValueError(
                f"layers={tuple(layers)} of a network of {self.depth} blocks; use"
                f" {-self.depth} to {self.depth - 1}"
            )
        b, h, w, _ = images.shape
        if h % self.patch or w % self.patch or not h or not w:
            raise ValueError(
                f"images of {h}x{w} do not divide into patches of {self.patch}; resize"
                f" or crop to multiples of {self.patch}"
            )
        x = self._embedded(images)
        if self.family == "clip":
            x = _norm(self.epsilon, "norm_before")(x)
        outputs = []
        for index in range(self.depth):
            x = _Block(self.heads, self.family, self.epsilon, name=f"block_{index}")(x)
            outputs.append(x)
        norm = _norm(self.epsilon, "norm")
        final, first = norm(x), 1 + self.registers
        cls = final[:, 0]
        if self.projection:
            cls = nn.Dense(self.projection, use_bias=False, name="projection")(cls)
        wanted = [outputs[layer] for layer in layers]
        return VisionFeatures(
            cls=cls,
            tokens=final[:, first:],
            layers=tuple((norm(y) if normed else y)[:, first:] for y in wanted),
        )

    def _embedded(self, images):
        """Class token, registers, patches, with their places: [b, n, d]."""
        b, h, w, _ = images.shape
        rows, columns = h // self.patch, w // self.patch
        # A strided convolution without overlap, as the matrix product that it is.
        patches = space_to_depth(images, self.patch).reshape(b, rows * columns, -1)
        bias = self.family != "clip"
        patches = nn.Dense(self.width, use_bias=bias, name="patches")(patches)
        small = nn.initializers.normal(0.02)
        cls = self.param("cls_token", small, (1, 1, self.width))
        places = self.param(
            "position_embedding", small, (1, 1 + self.grid**2, self.width)
        )
        spread = places[:, 1:].reshape(1, self.grid, self.grid, self.width)
        spread = resize(
            spread, (rows, columns), "bicubic", antialias=self.registers > 0
        )
        tokens = [
            jnp.broadcast_to(cls + places[:, :1], (b, 1, self.width)),
            patches + spread.reshape(1, -1, self.width),
        ]
        if self.registers:
            shape = (1, self.registers, self.width)
            register = self.param("register_tokens", small, shape)
            tokens.insert(1, jnp.broadcast_to(register, (b, *shape[1:])))
        return jnp.concatenate(tokens, 1)


class _Block(nn.Module):
    """Attention and a two-layer net, each added to what it saw."""

    heads: int
    family: str
    epsilon: float

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]

        def scaled(name, y):
            if self.family != "dinov2":
                return y
            return y * self.param(name, nn.initializers.ones, (1, 1, width))

        qkv = nn.Dense(3 * width, name="qkv")(_norm(self.epsilon, "norm1")(x))
        y = nn.Dense(width, name="out")(_attention(qkv, self.heads))
        x = x + scaled("scale1", y)
        y = nn.Dense(4 * width, name="fc1")(_norm(self.epsilon, "norm2")(x))
        y = _gelu(y, self.family)
        return x + scaled("scale2", nn.Dense(width, name="fc2")(y))


def _norm(epsilon, name):
    # The fast variance, E x^2 - (E x)^2, loses digits where a token's mean is large.
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


def _attention(qkv, heads):
    """softmax(q k^T / sqrt(d)) v of every head (Vaswani et al. 2017, eq. 1).

    Heads are moved in front once; `jax.nn.dot_product_attention`, which leaves them
    where they are, takes 1.4 to 1.7 times as long on a CPU, its gradient 1.5 to 2.7.
    """
    b, n, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(b, n, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    logits = (q * (width // heads) ** -0.5) @ k.swapaxes(-1, -2)
    mixed = jax.nn.softmax(logits, -1) @ v
    return mixed.swapaxes(1, 2).reshape(b, n, width)


def _gelu(x, family):
    if family == "clip":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=False)


def vision_transformer(preset: str, **changes: Any) -> VisionTransformer:
    """The network of a preset.

    Args:
      preset: one of `PRESETS`.
      changes: attributes that differ; `projection=0` for a CLIP tower whose file has no
        projection.

    Raises:
      ValueError: there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(
            f"vision transformer preset {preset!r} is unknown; use one of"
            f" {', '.join(PRESETS)}"
        )
    return VisionTransformer(**{**PRESETS[preset], **changes})


def dinov2_features(
    params: Mapping[str, Any],
    preset: str = "dinov2_vits14",
    layers: Sequence[int] = (-2, -1),
) -> Callable[[Float[Array, "b h w 3"]], tuple[Float[Array, "b n d"], ...]]:
    """A function from frames in [0, 1] to the patch tokens of some blocks, normed.

    Frames are shrunk to multiples of 14 pixels and normalised (`dinov2_images`). The
    parameters are constants of the function.

    Raises:
      ValueError: the preset is unknown or not of DINOv2.
    """
    net = vision_transformer(preset)
    if net.family != "dinov2":
        raise ValueError(f"preset {preset!r} is not of DINOv2")
    params = jax.tree.map(jnp.asarray, params)

    def features(frames: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
        return net.apply({"params": params}, dinov2_images(frames), layers).layers

    return features


def image_embedding(
    params: Mapping[str, Any], preset: str
) -> Callable[[Float[Array, "b h w 3"]], Float[Array, "b e"]]:
    """A function from frames in [0, 1] to one vector for each, not of unit length.

    Prepares the frames as the preset's family wants it; "dino_vitb16" and "clip_vitb32"
    are those of VBench's subject and background consistency.

    Raises:
      ValueError: there is no such preset.
    """
    net = vision_transformer(preset)
    prepare = {"dinov2": dinov2_images, "dino": dino_images, "clip": clip_images}
    prepare = prepare[net.family]
    params = jax.tree.map(jnp.asarray, params)

    def embedding(frames: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        return net.apply({"params": params}, prepare(frames)).cls

    return embedding


def dinov2_images(frames: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 3"]:
    """Frames in [0, 1], shrunk to multiples of 14 pixels (bilinear), normalised.

    Raises:
      ValueError: a side is shorter than 14 pixels.
    """
    h, w = frames.shape[1:3]
    return normalise(resize(frames, (h - h % 14, w - w % 14)), IMAGENET)


def dino_images(frames: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 3"]:
    """Frames in [0, 1], their shorter side resized to 224 (bilinear), normalised.

    As VBench's subject consistency prepares them: nothing is cut off but, on the right
    and at the bottom, what does not fill a patch of 16 pixels.
    """
    frames = resize(frames, _shorter_side(frames, _NATIVE_SIZE))
    h, w = frames.shape[1:3]
    return normalise(frames[:, : h - h % 16, : w - w % 16], IMAGENET)


def clip_images(frames: Float[Array, "b h w 3"]) -> Float[Array, "b 224 224 3"]:
    """Frames in [0, 1]: shorter side to 224 (bicubic), central square, normalised.

    As VBench's background consistency prepares videos (unfiltered; the CLIP authors'
    own transform for single images filters when it shrinks).
    """
    frames = resize(frames, _shorter_side(frames, _NATIVE_SIZE), "bicubic")
    top, left = (round((side - _NATIVE_SIZE) / 2) for side in frames.shape[1:3])
    square = frames[:, top : top + _NATIVE_SIZE, left : left + _NATIVE_SIZE]
    return normalise(square, CLIP)


def normalise(
    frames: Float[Array, "b h w 3"],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Float[Array, "b h w 3"]:
    """(frames - mean) / deviation for each colour; `IMAGENET` or `CLIP`."""
    mean, deviation = (
        jnp.asarray(values, frames.dtype).reshape(1, 1, 1, 3) for values in statistics
    )
    return (frames - mean) / deviation


def _shorter_side(frames, size):
    """Height and width with `size` on the shorter side, the longer rounded down."""
    h, w = frames.shape[1:3]
    return (size, size * w // h) if h <= w else (size * h // w, size)
