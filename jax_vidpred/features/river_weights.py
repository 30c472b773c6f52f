"""RIVER's published checkpoints (Davtyan et al. 2023).

They are recognised, checked and kept under their own names; the names and layouts of
the modules that use them are made of these, and these of them. For frames that are not
of CLEVRER RIVER uses VQGANs of latent diffusion (Rombach et al. 2022): f8_small for
BAIR and KTH at 64x64, f16 for BAIR at 256x256.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_vidpred.features.weights import (
    Network,
    Published,
    Shape,
    Tensors,
    WeightsError,
    flatten,
    to_tree,
)

# From paths in the trees of `models.river_vq` and `models.taming` to torch's names, one
# after the other.
_RIVER_VQ = (
    (r"^codebook$", "vector_quantizer/embedding/weight"),
    (r"^encoder/down_(\d)/", r"encoder/residuals/\1/"),
    (r"^decoder/block_(\d)/", r"decoder/residuals/\1/0/"),
    (r"^decoder/up_(\d)/", r"decoder/residuals/\1/1/"),
    (r"/(pre|post)_attn/", r"/\1_attn_residual/"),
    (r"/norm(\d)/", r"/bn\1/"),
    (r"/shortcut/", "/downsample/0/"),
    (r"/shortcut_norm/", "/downsample/2/"),
    (r"/attn/qkv/(kernel|bias)$", r"/attn/in_proj_\1"),
    (r"/attn/out/", "/attn/out_proj/"),
    (r"/mean$", "/running_mean"),
    (r"/variance$", "/running_var"),
)
_VQGAN = (
    (r"^codebook$", "quantize/embedding/weight"),
    (r"^(?:encoder|decoder)/(quant_conv|post_quant_conv)/", r"\1/"),
    (r"/(down|up)_(\d)_(block|attn)_(\d)/", r"/\1/\2/\3/\4/"),
    (r"/(down|up)_(\d)_((?:down|up)sample)/", r"/\1/\2/\3/conv/"),
    (r"/mid_", "/mid/"),
    (r"/shortcut/", "/nin_shortcut/"),
)


def vq_params(tensors: Tensors, like: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `models.vq.VQ` from those of a published autoencoder.

    Args:
      tensors: under torch's names, without what stands before them in a checkpoint of
        the whole model (`ae.backbone.`).
      like: the tree of a published preset, as `jax.eval_shape(net.init, ...)["params"]`
        gives it.

    Raises:
      WeightsError: a name or a shape is not that of the module.
    """
    paths = {_torch_name(path, like): path for path in flatten(like)}

    def rename(name):
        return paths.get(name, name) if _is_kept(name) else None

    return to_tree(tensors, rename, like)


def vq_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `vq_params`: a state dict that torch loads.

    Batch norm's counters (`num_batches_tracked`) are not in it.
    """
    tensors = {}
    for path, array in flatten(params).items():
        array = np.asarray(array)
        if path.endswith("/kernel"):
            # From (space..., in, out) to (out, in, space...).
            array = array.transpose(-1, -2, *range(array.ndim - 2))
        tensors[_torch_name(path, params)] = np.ascontiguousarray(array)
    return tensors


def _torch_name(path: str, tree: Mapping[str, Any]) -> str:
    is_vqgan = "quant_conv" in tree.get("encoder", {})
    for pattern, replacement in _VQGAN if is_vqgan else _RIVER_VQ:
        path = re.sub(pattern, replacement, path)
    return re.sub("(kernel|scale)$", "weight", path).replace("/", ".")


def _is_kept(name: str) -> bool:
    """Not so counters of batch norm, and what a VQGAN was trained with."""
    return not name.endswith("num_batches_tracked") and not name.startswith("loss.")


def _check(num_parameters: int, tensors: Tensors) -> dict[str, Any]:
    """The tensors under their torch names, if they are as many as there should be."""
    kept = {name: array for name, array in tensors.items() if _is_kept(name)}
    # Running statistics are no parameters.
    counted = sum(array.size for name, array in kept.items() if ".running_" not in name)
    if counted != num_parameters:
        raise WeightsError(
            f"{counted} parameters, where the published network has {num_parameters}:"
            " another size of this network"
        )
    return kept


def _network(
    name: str, title: str, num_parameters: int, mark: dict[str, Shape], *files: str
) -> Network:
    return Network(
        name=name,
        title=title,
        published=tuple(
            Published(
                file.split("/")[-1],
                sha256="",
                where=f"Hugging Face, cvg-unibe/river_{file.split('/')[0]}",
                licence="unknown",
            )
            for file in files
        ),
        marks=(mark,),
        to_params=functools.partial(_check, num_parameters),
    )


_CODES = "quantize.embedding.weight"
NETWORKS = (
    _network(
        "river_vqvae",
        "RIVER's VQ-VAE for CLEVRER",
        7_329_703,
        {
            "encoder.residuals.0.conv1.weight": (64, 32, 3, 3),
            "vector_quantizer.embedding.weight": (8192, 4),
        },
        "clevrer_128/vqvae.pth",
    ),
    _network(
        "river_model",
        "RIVER for CLEVRER",
        105_414_571,
        {
            "ae.backbone.vector_quantizer.embedding.weight": (8192, 4),
            "vector_field_regressor.position_encoding.row_embed.weight": (512, 384),
        },
        "clevrer_128/model.pth",
    ),
    _network(
        "vqgan_f16",
        "VQGAN with 16x16 pixels a code",
        69_593_371,
        {_CODES: (16384, 8), "encoder.down.4.block.0.norm1.weight": (256,)},
    ),
    _network(
        "vqgan_f8_small",
        "VQGAN with 8x8 pixels a code, for small frames",
        63_777_455,
        {_CODES: (16384, 4), "encoder.down.2.attn.0.q.weight": (256, 256, 1, 1)},
    ),
    _network(
        "vqgan_f8",
        "VQGAN with 8x8 pixels a code",
        67_717_295,
        {_CODES: (16384, 4), "encoder.down.3.attn.0.q.weight": (512, 512, 1, 1)},
    ),
)
