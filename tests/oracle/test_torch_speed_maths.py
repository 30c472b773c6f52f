"""Losses and gradients of the three phases against the same mathematics in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch", reason="needs pip install torch (extra 'oracle')")

import torch_flow_warp as twin  # noqa: E402

from jax_vidpred.benchmarking.phases import build_phases, read_config  # noqa: E402
from jax_vidpred.train import rngs  # noqa: E402

KEY = 7


@pytest.fixture(autouse=True, scope="module")
def double():
    """In float32 PyTorch's own gradient is 1e-4 off; that of JAX is 1e-6 off."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def config():
    config = read_config("configs/joint.py:smoke")
    for phase in (config, config["requires"]["temporal"]):
        # Nothing left to chance: predictions are fed back, every step counts.
        system, losses = phase["system"], phase["losses"]
        system["teacher_forcing"] = dict(kind="linear", num_steps=1, final=0.0)
        system["min_future"] = system["num_future"]
        losses["decoded_frames"] = phase["data"]["clip_frames"] - 1
        losses["weights"] = dict.fromkeys(losses["weights"], 1.0)
        phase["model"]["reach"] = 3
    return config


@pytest.fixture(scope="module")
def phases(config):
    return dict(zip(("vae", "temporal", "joint"), build_phases(config), strict=True))


def shaken(tree):
    """Parameters that leave nothing at zero: heads and blocks start silent."""
    draw = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a + draw.normal(0, 0.05, a.shape).astype(np.float32), tree
    )


def jax_step(phase, params):
    """Loss and gradient as the training step has them, step 1."""
    # An optimiser that keeps the gradient as it came.
    phase.system.optimizer = optax.trace(0.0)
    state = phase.state.replace(
        step=jnp.ones((), jnp.int32),
        params={k: params[k] for k in phase.state.params},
        frozen={k: params[k] for k in phase.state.frozen},
        opt_state=phase.system.optimizer.init(
            {k: params[k] for k in phase.state.params}
        ),
    )
    after, scalars = jax.jit(phase.system.train_step)(
        state, phase.batch, jax.random.key(KEY)
    )
    return float(scalars["loss"]), after.opt_state.trace


def assert_same(loss, params, names, expected, rel=1e-4):
    """The same loss to 1e-4 and gradient to `rel`, every leaf by itself."""
    for name in names:
        for leaf in twin.leaves(params[name]):
            leaf.requires_grad_()
    value = loss(params)
    value.backward()
    assert value.item() == pytest.approx(expected[0], rel=1e-4)
    for name in names:
        wanted = twin.to_torch({name: expected[1][name]})
        pairs = zip(twin.leaves(params[name]), twin.leaves(wanted), strict=True)
        for leaf, gradient in pairs:
            given = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            assert torch.norm(given - gradient) <= rel * torch.norm(gradient) + 1e-7


def noise(rng, frames, latent_channels, stride):
    n, h, w, _ = frames
    shape = (n, h // stride, w // stride, latent_channels)
    drawn = [
        jax.random.normal(key, shape[1:]) for key in rngs.for_rows(rng, jnp.arange(n))
    ]
    return twin.tensor(jnp.stack(drawn)).permute(0, 3, 1, 2)


def test_vae(phases, config):
    phase = phases["vae"]
    params = shaken(phase.params)
    video = phase.batch["video"]
    vae = phase.system.vae
    eps = noise(
        jax.random.key(KEY),
        (video.shape[0] * video.shape[1], *video.shape[2:]),
        vae.latent_channels,
        vae.stride,
    )
    weights = phase.config["losses"]

    def loss(tensors):
        return twin.vae_loss(tensors["net"], twin.images(video), eps, weights)[0]

    assert_same(loss, twin.to_torch(params), ["net"], jax_step(phase, params))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temporal", "joint"])
def test_temporal(phases, name):
    phase = phases[name]
    params = shaken(phase.params)
    params["vae"]["latent_variance"] = jnp.abs(params["vae"]["latent_variance"])
    video, system = phase.batch["video"], phase.system
    b, t = video.shape[:2]
    first = torch.arange(t - 1) < system.num_context
    draws = {
        "use_truth": first.expand(b, -1),
        "steps": torch.ones(b, t - 1),
        "chosen": torch.arange(t - 1),
        "noise": noise(
            rngs.fold_in(jax.random.key(KEY), "vae"),
            (b * t, *video.shape[2:]),
            system.vae.vae.latent_channels,
            system.vae.vae.stride,
        ),
        "vae_weights": phases["vae"].config["losses"],
    }

    def loss(tensors):
        return twin.temporal_loss(
            tensors, phase.batch, draws, phase.config, train_vae=name == "joint"
        )

    names = ["temporal", "vae"] if name == "joint" else ["temporal"]
    # Phase 3 in float32 is 2e-4 off.
    rel = 1e-3 if name == "joint" else 1e-4
    assert_same(loss, twin.to_torch(params), names, jax_step(phase, params), rel)
