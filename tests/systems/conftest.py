"""A tiny VAE, a flow-warp system on top of it, and batches for both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.systems.flow_warp import FlowWarpSystem
from jax_vidpred.systems.vae import VAESystem
from jax_vidpred.train.protocol import Stage

OPTIM = {"learning_rate": 1e-2, "num_steps": 100}
VAE_MODEL = {"latent_channels": 2, "stride": 4, "features": 16, "num_blocks": 1}
VAE_LOSSES = {"l1": 1.0, "kl": 0.1, "annealing": {"kind": "none", "num_steps": 1}}
CONTEXT, FUTURE, SIZE, SLOTS = 3, 2, 16, 2
WEIGHTS = {
    "latent": 1.0,
    "flow": 0.5,
    "visible": 0.1,
    "warped": 0.3,
    "decoded": 0.7,
    "residual": 0.2,
    "collision": 0.1,
    "state": 0.05,
}


def make_vae_system(**changes):
    options = {"model": VAE_MODEL, "losses": VAE_LOSSES, "optim": OPTIM} | changes
    return VAESystem(**options)


def make_batch(b=2, t=CONTEXT + FUTURE, seed=0):
    rng = np.random.default_rng(seed)
    grid = (b, t - 1, SIZE // 4, SIZE // 4)
    return {
        schema.VIDEO: jnp.asarray(rng.integers(0, 256, (b, t, SIZE, SIZE, 3)), "uint8"),
        schema.FLOW: jnp.float32(rng.normal(size=(*grid, 2))),
        schema.VISIBLE: jnp.float32(rng.uniform(size=(*grid, 1))),
        schema.COLLISION: jnp.float32(rng.integers(0, 2, (b, t - 1))),
        schema.STATE: jnp.float32(rng.normal(size=(b, t, SLOTS, 4))),
        schema.PRESENT: jnp.asarray(rng.uniform(size=(b, t, SLOTS)) < 0.7),
    }


def drawn(shapes, seed):
    """Parameters as if trained, with no zeros; initialising would have to compile."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="session")
def vae_stage():
    system = make_vae_system()
    shapes = jax.eval_shape(system.init, jax.random.key(0), make_batch())
    params = {
        "net": drawn(shapes.params["net"], 0),
        "latent_mean": jnp.array([0.3, -0.2]),
        "latent_variance": jnp.array([0.5, 2.0]),
    }
    return Stage(system, params)


@pytest.fixture(scope="session")
def make_flow_warp(vae_stage):
    """Builds a system; `weights` given are those that are not zero."""

    def make(weights=None, **changes):
        if weights is None:
            weights = WEIGHTS
        options = {
            "model": {
                "features": 8,
                "head_features": 6,
                "num_slots": SLOTS,
                "reach": 1,
            },
            "losses": {
                "weights": dict.fromkeys(WEIGHTS, 0.0) | weights,
                "focal": {"alpha": 0.75, "gamma": 2.0},
                "collision_tolerance": 1,
                "decoded_frames": 2,
            },
            "optim": OPTIM,
            "num_context": CONTEXT,
            "num_future": FUTURE,
            "min_future": 1,
            "teacher_forcing": {"kind": "linear", "num_steps": 10},
            "stages": {"vae": vae_stage},
        }
        return FlowWarpSystem(**options | changes)

    return make


@pytest.fixture(scope="session")
def temporal_stage(make_flow_warp, vae_stage):
    """A flow-warp system with parameters as if trained."""
    system = make_flow_warp()
    shapes = jax.eval_shape(system.init, jax.random.key(0), make_batch())
    temporal = drawn(shapes.params["temporal"], 1)
    return Stage(system, {"vae": vae_stage.params, "temporal": temporal})


@pytest.fixture
def tiny():
    """Builders and sizes, by name."""

    class Tiny:
        context, future = CONTEXT, FUTURE
        weights, vae_losses = WEIGHTS, VAE_LOSSES
        batch = staticmethod(make_batch)
        vae_system = staticmethod(make_vae_system)

    return Tiny
