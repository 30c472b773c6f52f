"""Checkpoints of RIVER (Davtyan et al. 2023) -> work directories, as training leaves.

`predict`, `evaluate`, `jax_vidpred.load` and `jax_vidpred.generate_frames` then take
them like any other. The autoencoder gets a work directory of its own,
`requires/vqgan`. All sizes are read from the tensors, except for the number of heads of
the attention, which is the published one.
"""

import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred import experiment
from jax_vidpred.features import river_weights, vector_field_weights, weights
from jax_vidpred.features.weights import Tensors, WeightsError
from jax_vidpred.imported import new_workdir, shared_sections, write_stage
from jax_vidpred.models.river import VectorField
from jax_vidpred.models.vq import PRESETS, VQ
from jax_vidpred.train.protocol import Stage

_FIELD = "vector_field_regressor."
_COMPUTED = {"dtype": "float32", "remat": False}  # whatever the parameters are
_CODES = re.compile(r"(.*?)((?:vector_quantizer|quantize)\.embedding\.weight)")


class Setup(NamedTuple):
    """What RIVER's authors trained a model for.

    Attributes:
      size: of the square frames, in pixels.
      num_context, num_future: frames that are given, and generated.
      frame_stride: frames of a video from one frame that it sees to the next.
      root: folder of the data, "" for CLEVRER's twin.
    """

    size: int
    num_context: int
    num_future: int
    frame_stride: int
    root: str


SETUPS = {
    "clevrer": Setup(128, 2, 14, 5, ""),
    "bair": Setup(64, 1, 15, 1, "$JAX_VIDPRED_BAIR"),
    "bair256": Setup(256, 1, 15, 1, "$JAX_VIDPRED_BAIR"),
    "kth": Setup(64, 10, 30, 1, "$JAX_VIDPRED_KTH"),
}


class _Imported(NamedTuple):
    """Arguments of a module, and its parameters."""

    model: dict[str, Any]
    params: dict[str, Any]


def is_river(tensors: Tensors) -> bool:
    """Whether these are of a whole model, by their names."""
    return any(name.startswith(_FIELD) for name in tensors)


def import_river(
    path: str | os.PathLike,
    vae_path: str | os.PathLike | None,
    workdir: str | os.PathLike,
    *,
    trained_on: str | None = None,
    height: int | None = None,
    width: int | None = None,
    frame_stride: int | None = None,
) -> Stage:
    """Makes a work directory of a checkpoint; it appears whole or not at all.

    Args:
      path: `model.pth`, or one that training has left (`step_*.pth`, `latest.pth`).
      vae_path: the autoencoder, `vqvae.pth` or `vqvae.ckpt`, where `path` lacks it.
      workdir: must not hold anything yet.
      trained_on: one of `SETUPS`; None is CLEVRER for a model with RIVER's own
        autoencoder, BAIR at 256x256 for one with f16 and at 64x64 for the others: its
        files and those of KTH look alike.
      height, width, frame_stride: of the frames, where they are not the authors'.

    Returns:
      What `experiment.load(workdir)` gives.

    Raises:
      WeightsError: a file cannot be read, is of another network, or there is no
        autoencoder.
      ExperimentError: the work directory holds something.
      ValueError: an unknown setup, or sizes that cannot be.
    """
    tensors = weights.read_tensors(path)
    if not is_river(tensors):
        raise WeightsError(f"{path}: no checkpoint of RIVER; wanted its model.pth")
    vq = _read(path, _vq, tensors)
    if vq is None and vae_path is None:
        raise WeightsError(
            f"{path}: a model without its autoencoder; give the vqvae.pth or vqvae.ckpt"
            " besides that it was trained on"
        )
    if vae_path is not None:
        if vq is not None:
            raise WeightsError(
                f"{path}: holds the autoencoder itself; leave out {vae_path}"
            )
        vq = _read(vae_path, _vq, weights.read_tensors(vae_path))
        if vq is None:
            raise WeightsError(
                f"{vae_path}: no autoencoder of RIVER; wanted its vqvae.pth or"
                " vqvae.ckpt"
            )
    field = _read(path, _field, tensors, vq.model["latent_channels"])
    by_autoencoder = {"river": "clevrer", "f16": "bair256"}
    name = trained_on or by_autoencoder.get(vq.model["preset"], "bair")
    if name not in SETUPS:
        raise ValueError(f"trained_on={name!r} is unknown; use one of {list(SETUPS)}")
    setup, stride = SETUPS[name], PRESETS[vq.model["preset"]]["stride"]
    size = {
        "height": setup.size if height is None else height,
        "width": setup.size if width is None else width,
    }
    for side, pixels in size.items():
        if pixels < stride or pixels % stride:
            raise ValueError(
                f"{side}={pixels}; wanted that of the frames that the checkpoint was"
                f" trained on, a multiple of {stride}"
            )
    if frame_stride is not None:
        setup = setup._replace(frame_stride=frame_stride)
    if setup.frame_stride < 1:
        raise ValueError(f"frame_stride={frame_stride}; wanted at least 1")
    shared = shared_sections(
        size["height"],
        size["width"],
        setup.frame_stride,
        grid_stride=stride,
        clip_frames=setup.num_context + setup.num_future,
        clips_per_video=1,
        root=setup.root,
    )
    with new_workdir(workdir) as part:
        _write(part, setup, shared, vq, field)
    return experiment.load(workdir)


def _read(path, make, *arguments):
    try:
        return make(*arguments)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _vq(tensors: Tensors) -> _Imported | None:
    """The autoencoder, whatever stands before its names; None where there is none."""
    found = next(filter(None, map(_CODES.fullmatch, tensors)), None)
    if found is None:
        return None
    before, codes = found.groups()
    own = _below(tensors, before)
    num_codes, latent_channels = _shape(own, codes, 2)
    model = {
        "preset": _preset(own),
        "latent_channels": latent_channels,
        "num_codes": num_codes,
        "features": _shape(own, "encoder.conv_in.weight", 4)[0],
        **_COMPUTED,
    }
    net = VQ(**model)
    image = jnp.zeros((1, net.stride, net.stride, 3))
    like = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
    return _Imported(model, river_weights.vq_params(own, like))


def _preset(tensors: Tensors) -> str:
    if "vector_quantizer.embedding.weight" in tensors:
        return "river"
    for level, preset in ((4, "f16"), (3, "f8"), (2, "f8_small")):
        if f"encoder.down.{level}.attn.0.q.weight" in tensors:
            return preset
    raise WeightsError(
        "an autoencoder that RIVER does not have; wanted its own, or f8, f8_small or"
        " f16 of latent diffusion"
    )


def _field(tensors: Tensors, latent_channels: int) -> _Imported:
    own = _below(tensors, _FIELD)

    def blocks(part):
        found = (re.match(rf"{part}_blocks\.(\d+)\.", name) for name in own)
        return len({one[1] for one in found if one})

    model = {
        "features": 2 * _shape(own, "position_encoding.row_embed.weight", 2)[1],
        "num_heads": 8,
        "depth": blocks("in"),
        "mid_depth": blocks("mid"),
        "patch": 1,
        "dropout": 0.05,
        **_COMPUTED,
    }
    if vector_field_weights.has_batch_norm(own):
        model["last_norm"] = "frozen"
    if model["features"] % model["num_heads"]:
        raise WeightsError(
            f"a vector field of width {model['features']}; wanted a multiple of its"
            f" {model['num_heads']} heads"
        )
    latent = jnp.zeros((1, 2, 2, latent_channels))
    like = jax.eval_shape(
        VectorField(latent_channels=latent_channels, **model).init,
        jax.random.key(0),
        *(latent, latent, latent, jnp.ones(1, jnp.int32), jnp.ones(1)),
    )["params"]
    return _Imported(model, vector_field_weights.to_params(own, like))


def _below(tensors: Tensors, before: str) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(before): array
        for name, array in tensors.items()
        if name.startswith(before)
    }


def _shape(tensors: Tensors, name: str, num_axes: int) -> tuple[int, ...]:
    shape = tensors[name].shape if name in tensors else ()
    if len(shape) != num_axes:
        raise WeightsError(f"{name} is missing, or has not {num_axes} axes")
    return shape


def _write(workdir, setup, shared, vq, field) -> None:
    requires_dir = workdir / "requires"
    vq_config = shared | {
        "system": {
            "name": "vqgan",
            "codebook": "gradient",
            "revive_below": 0.0,
            "discriminator": {},  # there is none
        },
        "model": vq.model,
        "losses": {"l1": 1.0, "perceptual": 0.0, "commitment": 1.0, "adversarial": 0.0},
    }
    num_codes, shape = vq.model["num_codes"], (vq.model["latent_channels"],)
    params = {
        "net": vq.params,
        # Latents stay as they come: `latent_scale` divides by sqrt(variance + 1e-6).
        "latent_mean": np.zeros(shape, np.float32),
        "latent_variance": np.full(shape, 1 - 1e-6, np.float32),
        "code_share": np.full(num_codes, 1 / num_codes, np.float32),
        "code_total": vq.params["codebook"] / num_codes,
    }
    write_stage(requires_dir / "vqgan", requires_dir, vq_config, {}, params)
    config = shared | {
        "system": {
            "name": "river",
            "num_context": setup.num_context,
            "sampling": {
                "method": "rk4_38",
                "num_steps": 99,  # between 100 points in time
                "warm_start": 0.0,
                "past_horizon": -1,
            },
        },
        "model": field.model,
        "losses": {"sigma": 1e-7},
        "requires": {"vqgan": vq_config},
    }
    stages = {"vqgan": experiment.load(requires_dir / "vqgan")}
    write_stage(workdir, requires_dir, config, stages, {"field": field.params})
