"""Checkpoints of the PyTorch reference -> work directories, as training leaves them.

`predict`, `evaluate` and `jax_vidpred.load` then take them like any other. The VAE gets
a work directory of its own, `requires/vae`, in that of the temporal model.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from jax_vidpred import experiment
from jax_vidpred.features import weights
from jax_vidpred.features.weights import WeightsError
from jax_vidpred.imported import new_workdir, shared_sections, write_stage
from jax_vidpred.systems import reference
from jax_vidpred.train.protocol import Stage

NUM_CONTEXT, NUM_FUTURE = 20, 12  # frames that the reference gives and asks for
_MODELS = {
    "reference_vae": reference.vae_model,
    "reference_temporal": reference.temporal_model,
}


class _Imported(NamedTuple):
    """Arguments of a module, and its parameters."""

    model: dict[str, Any]
    params: dict[str, Any]


def import_reference(
    path: str | os.PathLike,
    vae_path: str | os.PathLike | None,
    workdir: str | os.PathLike,
    *,
    height: int = 160,
    width: int = 240,
    frame_stride: int = 1,
    rollout: str = "corrected",
) -> Stage:
    """Makes a work directory of a checkpoint; it appears whole or not at all.

    Args:
      path: `temporal_epoch*.pt`, or `vae_epoch*.pt` for the VAE alone.
      vae_path: the VAE that the temporal model was trained on; None where `path` holds
        it, as after the reference's joint phase.
      workdir: must not hold anything yet.
      height, width: of the frames that it was trained on.
      frame_stride: frames of a video from one frame that it sees to the next.
      rollout: of `systems.reference.ReferenceSystem`.

    Returns:
      What `experiment.load(workdir)` gives.

    Raises:
      WeightsError: a file cannot be read, is of another network, or a VAE is missing.
      ExperimentError: the work directory holds something.
      ValueError: sizes that cannot be, or two networks that do not go together.
    """
    for name, size in (("height", height), ("width", width)):
        if size < reference.STRIDE or size % reference.STRIDE:
            raise ValueError(
                f"{name}={size}; wanted that of the frames that the checkpoint was"
                f" trained on, a multiple of {reference.STRIDE}"
            )
    if frame_stride < 1:
        raise ValueError(f"frame_stride={frame_stride}; wanted at least 1")
    vae, temporal = _read(path, vae_path)
    shared = shared_sections(
        height,
        width,
        frame_stride,
        grid_stride=reference.STRIDE,
        clip_frames=NUM_CONTEXT + NUM_FUTURE,
        clips_per_video=4,
    )
    with new_workdir(workdir) as part:
        if temporal is None:
            _write_vae(part, part / "requires", shared, vae)
        else:
            _write_temporal(part, part / "requires", shared, vae, temporal, rollout)
    return experiment.load(workdir)


def _read(path, vae_path) -> tuple[_Imported, _Imported | None]:
    """The VAE and, where there is one, the temporal model."""
    networks = _networks(path)
    if not networks:
        raise WeightsError(
            f"{path}: no checkpoint of the PyTorch reference; wanted its"
            " temporal_epoch*.pt or vae_epoch*.pt"
        )
    vae, temporal = networks.get("reference_vae"), networks.get("reference_temporal")
    if vae_path is None and vae is None:
        raise WeightsError(
            f"{path}: a temporal model without its VAE; give the vae_epoch*.pt besides"
            " that it was trained on"
        )
    if vae_path is not None:
        if vae is not None:
            raise WeightsError(f"{path}: holds a VAE itself; leave out {vae_path}")
        vae = _networks(vae_path).get("reference_vae")
        if vae is None:
            raise WeightsError(
                f"{vae_path}: no VAE of the PyTorch reference; wanted its vae_epoch*.pt"
            )
    return vae, temporal


def _networks(path) -> dict[str, _Imported]:
    found = {}
    for tensors in weights.read_sections(path).values():
        network = weights.recognise(tensors, reference.NETWORKS)
        if network is None:
            continue  # of the optimiser, or learned weights of the losses
        try:
            model = _MODELS[network.name](tensors)
            found[network.name] = _Imported(model, network.to_params(tensors))
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    return found


def _write_vae(workdir, requires_dir, shared, vae) -> dict[str, Any]:
    """Its work directory; returns the config."""
    config = shared | {
        "system": {"name": "vae"},
        "model": vae.model,
        # To build the system; nothing is trained.
        "losses": {
            "l1": 1.0,
            "kl": 1e-4,
            "annealing": {"kind": "none", "num_steps": 1},
        },
    }
    shape = (vae.model["latent_channels"],)
    params = {
        "net": vae.params,
        # Latents stay as they come: `VAESystem` divides by sqrt(variance + 1e-6).
        "latent_mean": np.zeros(shape, np.float32),
        "latent_variance": np.full(shape, 1 - 1e-6, np.float32),
    }
    write_stage(workdir, requires_dir, config, {}, params)
    return config


def _write_temporal(workdir, requires_dir, shared, vae, temporal, rollout) -> None:
    vae_config = _write_vae(requires_dir / "vae", requires_dir, shared, vae)
    config = shared | {
        "system": {
            "name": "reference",
            "num_context": NUM_CONTEXT,
            "rollout": rollout,
        },
        "model": temporal.model,
        "requires": {"vae": vae_config},
    }
    stages = {"vae": experiment.load(requires_dir / "vae")}
    write_stage(workdir, requires_dir, config, stages, {"temporal": temporal.params})
