"""Weights of vision transformers: the names that their publishers give the parameters.

Three kinds of files are read for each network: its authors' (facebookresearch/dino and
dinov2, OpenAI's CLIP archives), Hugging Face's, and the state dict of a model in
transformers 5, which renames some. Text towers, mask tokens and poolers are left out.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.features.vit import VisionTransformer, vision_transformer
from jax_vidpred.features.weights import (
    Network,
    Published,
    Tensors,
    WeightsError,
    to_tree,
)

# A block's number and the rest of the name. DINOv2 can group its blocks; the number of
# the group then stands before that of the block.
_BLOCK = re.compile(
    r"(?:blocks\.(?:\d+\.)?|encoder\.layers?\.|layers\.|visual\.transformer\.resblocks\.)"
    r"(\d+)\.(.+)"
)
# Our names and those of the publishers, without ".weight" and ".bias".
_INSIDE = {
    "norm1": ("norm1", "layernorm_before", "layer_norm1", "ln_1"),
    "qkv": (
        *("attn.qkv", "attn.in_proj", "self_attn.qkv"),
        *("attention.attention.qkv", "attention.qkv"),
    ),
    "out": (
        *("attn.proj", "attn.out_proj", "self_attn.out_proj"),
        *("attention.output.dense", "attention.o_proj"),
    ),
    "scale1": ("ls1.gamma", "layer_scale1.lambda1"),
    "norm2": ("norm2", "layernorm_after", "layer_norm2", "ln_2"),
    "fc1": ("mlp.fc1", "intermediate.dense", "mlp.c_fc"),
    "fc2": ("mlp.fc2", "output.dense", "mlp.c_proj"),
    "scale2": ("ls2.gamma", "layer_scale2.lambda1"),
}
_OUTSIDE = {
    "patches": (
        *("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        *("embeddings.patch_embedding", "visual.conv1"),
    ),
    "cls_token": (
        *("cls_token", "embeddings.cls_token"),
        *("embeddings.class_embedding", "visual.class_embedding"),
    ),
    "position_embedding": (
        *("pos_embed", "embeddings.position_embeddings"),
        *("embeddings.position_embedding", "visual.positional_embedding"),
    ),
    "register_tokens": ("register_tokens", "embeddings.register_tokens"),
    "norm_before": ("pre_layrnorm", "visual.ln_pre"),
    "norm": ("norm", "layernorm", "post_layernorm", "visual.ln_post"),
    "projection": ("visual_projection",),
}
# Ours that are no layers with weight and bias.
_BARE = ("cls_token", "position_embedding", "register_tokens", "scale1", "scale2")
_IGNORED = re.compile(
    r"(embeddings\.)?mask_token|pooler\.dense\.(weight|bias)|embeddings\.position_ids"
    # CLIP's text tower, and numbers that its authors' archive carries.
    r"|text_model\..+|text_projection(\.weight)?|logit_scale"
    r"|transformer\..+|token_embedding\.weight|positional_embedding|ln_final\..+"
    r"|(visual\.)?input_resolution|context_length|vocab_size"
)
_QUERY_KEY_VALUE = re.compile(r"(.+\.)(query|key|value|[qkv]_proj)\.(weight|bias)")

_FACEBOOK = "https://dl.fbaipublicfiles.com"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_HUGGING_FACE = "https://huggingface.co/"
_CLIP_B32 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
_CLIP_L14 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
# In a file of each publisher: kernel of the patches, class token, registers.
_DINO_MARKS = (
    ("patch_embed.proj.weight", "cls_token", "register_tokens"),
    (
        *("embeddings.patch_embeddings.projection.weight", "embeddings.cls_token"),
        "embeddings.register_tokens",
    ),
)
_CLIP_MARKS = (
    ("visual.conv1.weight", "visual.class_embedding"),
    ("embeddings.patch_embedding.weight", "embeddings.class_embedding"),
    (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.class_embedding",
    ),
)


def to_params(net: VisionTransformer, tensors: Tensors) -> dict[str, Any]:
    """Parameters of a network, whoever named the tensors.

    A CLIP tower without its projection (Hugging Face's CLIPVisionModel) gives those of
    the network with `projection=0`.

    Raises:
      WeightsError: a name is unknown or missing, or a shape is that of another network.
    """
    if not {"visual.proj", "visual_projection.weight"} & tensors.keys():
        net = net.clone(projection=0)
    side = net.grid * net.patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    like = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
    return to_tree(_unified(tensors), _path, like)


def _unified(tensors: Tensors) -> dict[str, np.ndarray]:
    """Queries, keys and values in one matrix; every linear map as [out, in]."""
    unified: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        name = name.removeprefix("vision_model.").replace(".in_proj_", ".in_proj.")
        if found := _QUERY_KEY_VALUE.fullmatch(name):
            before, which, leaf = found.groups()
            parts.setdefault(f"{before}qkv.{leaf}", {})[which[0]] = array
        elif name == "visual.proj":  # multiplied from the right by its authors
            unified["visual_projection.weight"] = array.T
        elif array.ndim == 4:  # the patches: a patch becomes a row of pixels
            unified[name] = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
        else:
            unified[name] = array
    for name, three in parts.items():
        if len(three) < 3:
            raise WeightsError(
                f"{name}: of queries, keys and values only {', '.join(three)} are there"
            )
        unified[name] = np.concatenate([three[letter] for letter in "qkv"])
    return unified


def _path(name: str) -> str | None:
    """Path in the tree; None for what the image tower does not need."""
    if _IGNORED.fullmatch(name):
        return None
    before, ours = "", _OUTSIDE
    if block := _BLOCK.fullmatch(name):
        before, name, ours = f"block_{block[1]}/", block[2], _INSIDE
    stem, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        stem, leaf = name, "weight"
    found = next((one for one, theirs in ours.items() if stem in theirs), None)
    if found is None:
        return before + name  # which no network has
    if found in _BARE:
        return before + found
    if leaf == "weight":
        leaf = "scale" if found.startswith("norm") else "kernel"
    return f"{before}{found}/{leaf}"


def _network(
    preset: str, title: str, file: str, where: str, hugging_face: str, sha256: str = ""
) -> Network:
    """The network of a preset and its two files; "": no checksum is known here."""
    net = vision_transformer(preset)
    clip = net.family == "clip"
    shapes = [
        (net.width, 3, net.patch, net.patch),
        (net.width,) if clip else (1, 1, net.width),
    ]
    if net.registers:
        shapes.append((1, net.registers, net.width))
    licence = "MIT" if clip else "Apache-2.0"
    return Network(
        name=preset,
        title=title,
        published=(
            Published(file, sha256, where, licence),
            Published("model.safetensors", "", _HUGGING_FACE + hugging_face, licence),
        ),
        # The third name counts where there are registers.
        marks=tuple(
            dict(zip(names, shapes, strict=False))
            for names in (_CLIP_MARKS if clip else _DINO_MARKS)
        ),
        to_params=functools.partial(to_params, net),
    )


# What a DINOv2 network without registers needs is in the files with registers too, so
# these come first. The names cannot tell DINO's weights from those of another ViT-B/16,
# or OpenAI's from those of another CLIP that was trained with exact GELU: the checksum
# can.
NETWORKS = (
    _network(
        "dinov2_vits14_reg",
        "DINOv2 ViT-S/14 with registers (Darcet et al. 2024)",
        "dinov2_vits14_reg4_pretrain.pth",
        f"{_FACEBOOK}/dinov2/dinov2_vits14",
        "facebook/dinov2-with-registers-small",
    ),
    _network(
        "dinov2_vitb14_reg",
        "DINOv2 ViT-B/14 with registers (Darcet et al. 2024)",
        "dinov2_vitb14_reg4_pretrain.pth",
        f"{_FACEBOOK}/dinov2/dinov2_vitb14",
        "facebook/dinov2-with-registers-base",
    ),
    _network(
        "dinov2_vits14",
        "DINOv2 ViT-S/14 (Oquab et al. 2024)",
        "dinov2_vits14_pretrain.pth",
        f"{_FACEBOOK}/dinov2/dinov2_vits14",
        "facebook/dinov2-small",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    _network(
        "dinov2_vitb14",
        "DINOv2 ViT-B/14 (Oquab et al. 2024)",
        "dinov2_vitb14_pretrain.pth",
        f"{_FACEBOOK}/dinov2/dinov2_vitb14",
        "facebook/dinov2-base",
    ),
    _network(
        "dino_vitb16",
        "DINO ViT-B/16 (Caron et al. 2021)",
        "dino_vitbase16_pretrain.pth",
        f"{_FACEBOOK}/dino/dino_vitbase16_pretrain",
        "facebook/dino-vitb16",
    ),
    _network(
        "clip_vitb32",
        "CLIP ViT-B/32, image tower (Radford et al. 2021)",
        "ViT-B-32.pt",
        f"{_OPENAI}/{_CLIP_B32}",
        "openai/clip-vit-base-patch32",
        _CLIP_B32,
    ),
    _network(
        "clip_vitl14",
        "CLIP ViT-L/14, image tower (Radford et al. 2021)",
        "ViT-L-14.pt",
        f"{_OPENAI}/{_CLIP_L14}",
        "openai/clip-vit-large-patch14",
        _CLIP_L14,
    ),
)
