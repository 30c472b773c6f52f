"""RIVER's published checkpoints: recognised and checked, kept under their own names.

The modules that use them come with the RIVER system (Davtyan et al. 2023). For BAIR and
KTH it uses VQGANs of latent diffusion (Rombach et al. 2022); which of the three goes
with which data set was not checked.
"""

import functools
from typing import Any

from jax_vidpred.features.weights import (
    Network,
    Published,
    Shape,
    Tensors,
    WeightsError,
)


def _check(num_parameters: int, tensors: Tensors) -> dict[str, Any]:
    """The tensors under their torch names, if they are as many as there should be."""
    kept = {
        name: array
        for name, array in tensors.items()
        # Counters of batch norm, and what a VQGAN was trained with.
        if not name.endswith("num_batches_tracked") and not name.startswith("loss.")
    }
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
