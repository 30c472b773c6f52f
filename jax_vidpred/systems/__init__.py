"""The systems that can be trained, by name; each is imported only when asked for."""

import importlib
from collections.abc import Mapping
from typing import Any

from jax_vidpred.train.protocol import Stage, System

_SYSTEMS = {
    "vae": "jax_vidpred.systems.vae:VAESystem",
    "flow_warp": "jax_vidpred.systems.flow_warp:FlowWarpSystem",
    "vqgan": "jax_vidpred.systems.vqgan:VQGANSystem",
    "cvae": "jax_vidpred.systems.cvae:CVAESystem",
    "river": "jax_vidpred.systems.river:RiverSystem",
    "refine": "jax_vidpred.systems.refine:refine_system",
    "reference": "jax_vidpred.systems.reference:ReferenceSystem",
}


def create(config: Mapping[str, Any], stages: Mapping[str, Stage]) -> System:
    """Builds the system that a config describes.

    Args:
      config: its sections system (with `name`), model, losses, optim, ema and train.
      stages: the trained systems that `config["requires"]` names.

    Raises:
      ValueError: an unknown name, a key that the system does not know, or a bad value.
    """
    options = dict(config["system"])
    name = options.pop("name")
    if name not in _SYSTEMS:
        raise ValueError(
            f"config.system.name={name!r} is unknown; use one of {sorted(_SYSTEMS)}"
        )
    if stages:
        options["stages"] = stages
    module, attribute = _SYSTEMS[name].split(":")
    system = getattr(importlib.import_module(module), attribute)
    try:
        return system(
            model=config["model"],
            losses=config["losses"],
            optim={**config["optim"], "num_steps": config["train"]["num_steps"]},
            ema_decay=config["ema"]["decay"],
            accumulate=config["train"]["accumulate"],
            **options,
        )
    except TypeError as error:  # an argument that is missing or not known
        raise ValueError(f"config of system {name!r}: {error}") from error
