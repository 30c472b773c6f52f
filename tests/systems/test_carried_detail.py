"""Detail that the VAE loses is carried along the flow; change within noise is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.systems import carried_detail
from jax_vidpred.systems.carried_detail import decode_with_detail


def test_detail_that_the_vae_loses_moves_with_the_flow(temporal_stage):
    system, params = temporal_stage.system, temporal_stage.params
    latent = jnp.zeros((1, 4, 4, 2))
    plain = system.vae.decode(params["vae"], latent)
    frame = jnp.clip(plain, 0, 1).at[0, 8:12, 4:8].add(0.1).clip(0, 1)
    still = jnp.broadcast_to(latent[:, None], (1, 3, 4, 4, 2))

    @jax.jit
    def decode(*roll_out):
        vae = functools.partial(system.vae.decode, params["vae"])
        return decode_with_detail(vae, *roll_out, carry_detail=True)

    def frames(x, visible):
        flow = jnp.broadcast_to(jnp.array([x, 0.0]), (1, 3, 4, 4, 2))
        seen = jnp.full((1, 3, 4, 4, 1), visible)
        return decode(latent, frame, still, flow, seen)

    for frame_k in jnp.moveaxis(frames(0.0, 1.0), 1, 0):
        np.testing.assert_allclose(frame_k, frame, atol=1e-5)  # as it was seen

    def assert_shows(frame_k, wanted):
        change = wanted - frame
        power = np.mean(change**2, -1, keepdims=True)
        wanted = frame + change * power / (power + 0.015**2)
        np.testing.assert_allclose(frame_k, np.clip(wanted, 0, 1), atol=1e-5)

    for frame_k in jnp.moveaxis(frames(0.0, 0.0), 1, 0):
        assert_shows(frame_k, plain)  # nothing is left of the detail
    # Half a cell to the right is two pixels in each step.
    detail = np.pad(frame - plain, ((0, 0), (0, 0), (6, 0), (0, 0)), "edge")
    for k, frame_k in enumerate(jnp.moveaxis(frames(-0.5, 1.0), 1, 0)):
        moved = detail[:, :, 4 - 2 * k : 20 - 2 * k]
        assert_shows(frame_k, plain + moved)


def test_change_within_the_noise_is_left_out():
    change = jnp.array([[0.0, 0.0, 0.0], [0.002, -0.001, 0.001], [0.3, -0.2, 0.0]])
    shown = carried_detail._without_noise(change.reshape(1, 3, 1, 3)).reshape(3, 3)
    assert (shown[0] == 0).all()
    assert (jnp.abs(shown[1]) <= 0.02 * jnp.abs(change[1])).all()
    np.testing.assert_allclose(shown[2], change[2], rtol=0.01)
