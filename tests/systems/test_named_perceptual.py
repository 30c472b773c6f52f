"""A frozen network as a loss of the VAE, named in the config and read from its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import lpips, vit, vit_weights
from jax_vidpred.features.weights import WeightsError, to_safetensors
from jax_vidpred.systems import perceptual
from jax_vidpred.systems.perceptual import named_perceptual


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    perceptual._load.cache_clear()
    monkeypatch.setenv("JAX_VIDPRED_WEIGHTS", str(tmp_path))
    return tmp_path


def frames(seed):
    return jax.random.uniform(jax.random.key(seed), (2, 32, 32, 3))


def test_absent_weights_are_missed_when_they_are_needed():
    distance = named_perceptual("dinov2_vits14")
    with pytest.raises(WeightsError, match="dinov2_vits14_pretrain.pth"):
        distance(frames(0), frames(1))


def test_unknown_name():
    with pytest.raises(ValueError, match="'dino' is unknown; use one of dinov2"):
        named_perceptual("dino")


def save_random(folder, name, network, module, *arguments):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes
    )
    (folder / f"{name}.safetensors").write_bytes(to_safetensors(network, params))
    return params


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lpips_squeeze", "dinov2_vits14"])
def test_it_is_the_network_of_the_file_and_only_predictions_learn(name, folder):
    if name == "lpips_squeeze":
        network = next(one for one in lpips.NETWORKS if one.name == name)
        images = jnp.zeros((1, 32, 32, 3))
        module = lpips.LPIPS("squeeze")
        params = save_random(folder, name, network, module, images, images)
        wanted = lpips.lpips_distance(params, "squeeze")(frames(0), frames(1))
    else:
        network = next(one for one in vit_weights.NETWORKS if one.name == name)
        module = vit.vision_transformer(name)
        params = save_random(folder, name, network, module, jnp.zeros((1, 28, 28, 3)))
        wanted = [
            np.abs(a - b).mean((1, 2))
            for a, b in zip(
                *(vit.dinov2_features(params, name)(frames(i)) for i in (0, 1)),
                strict=True,
            )
        ]
        wanted = sum(wanted) / len(wanted)
    distance = jax.jit(named_perceptual(name))
    np.testing.assert_allclose(distance(frames(0), frames(1)), wanted, rtol=1e-4)
    gradient = jax.grad(lambda x: distance(x, frames(1)).sum())(frames(0))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
