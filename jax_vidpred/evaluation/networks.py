"""Frozen networks that judge, as far as their weight files are there."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.evaluation.journal import fingerprint
from jax_vidpred.features import i3d, lpips, vit, vit_weights
from jax_vidpred.features.weights import MissingWeights, find_file, load_params

LPIPS_NETS = ("alex", "vgg")  # of most papers; of SlotFormer and DDLP
EMBEDDINGS = {  # VBench's consistencies and the networks that they are made of
    "vbench_subject": "dino_vitb16",
    "vbench_background": "clip_vitb32",
}
_FVD = "fvd"
_AT_ONCE = 16  # frames that go through a network together: memory stays bounded

Distance = Callable[[Float[Array, "n h w 3"], Float[Array, "n h w 3"]], Array]
Features = Callable[[Float[Array, "n h w 3"]], Float[Array, "n d"]]


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks by the name of the metric that they serve.

    Attributes:
      distances: "lpips_alex" and so on -> f(frames, frames) -> [n].
      embeddings: a key of EMBEDDINGS -> f(frames) -> [n, d].
      videos: "i3d" -> f(videos [n, t, h, w, 3] in [0, 1]) -> [n, 400] logits.
      variants: metric -> fingerprint of the network's parameters: the same weights have
        the same one, whatever file they came in.
      absent: metric -> what it needs.
    """

    distances: Mapping[str, Distance]
    embeddings: Mapping[str, Features]
    videos: Mapping[str, Callable[[Array], Array]]
    variants: Mapping[str, str]
    absent: Mapping[str, str]


def load_networks() -> Networks:
    """Every network whose weights JAX_VIDPRED_WEIGHTS has.

    Raises:
      WeightsError: a file is there, and is not what it should be.
    """
    found: dict[str, dict[str, Any]] = {"distances": {}, "embeddings": {}, "videos": {}}
    # No importer yet: `metrics.consistency.motion_smoothness` takes any interpolator.
    variants, absent = {}, {"vbench_smoothness": "needs AMT-S, which is not imported"}

    def add(kind, metric, load, make):
        try:
            params = load()
        except MissingWeights as error:
            absent[_FVD if kind == "videos" else metric] = f"needs {error.file}"
            return
        found[kind][metric] = make(params)
        variants[metric] = fingerprint(params)

    for net in LPIPS_NETS:
        add(
            "distances",
            f"lpips_{net}",
            lambda net=net: lpips.load_lpips(net),
            lambda params, net=net: _in_parts(lpips.lpips_distance(params, net)),
        )
    networks = {one.name: one for one in vit_weights.NETWORKS}
    for metric, name in EMBEDDINGS.items():
        add(
            "embeddings",
            metric,
            lambda name=name: load_params(networks[name], find_file(networks[name])),
            lambda params, name=name: _in_parts(vit.image_embedding(params, name)),
        )
    (network,) = i3d.NETWORKS
    add(
        "videos",
        network.name,
        lambda: load_params(network, find_file(network)),
        lambda params: jax.jit(
            lambda video: i3d.I3D().apply({"params": params}, video)
        ),
    )
    return Networks(**found, variants=variants, absent=absent)


def _in_parts(function: Callable) -> Callable:
    """The same function, compiled once, a few frames at a time."""

    @jax.jit
    def mapped(*frames):
        size = frames[0].shape[0]
        padding = -size % _AT_ONCE
        parts = [
            jnp.pad(part, [(0, padding)] + [(0, 0)] * (part.ndim - 1)).reshape(
                -1, _AT_ONCE, *part.shape[1:]
            )
            for part in frames
        ]
        out = jax.lax.map(lambda part: function(*part), parts)
        return out.reshape(-1, *out.shape[2:])[:size]

    return mapped
