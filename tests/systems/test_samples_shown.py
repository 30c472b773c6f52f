"""What systems show while they are trained."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import reference, samples
from jax_vidpred.train.protocol import Prediction
from jax_vidpred.train.state import TrainState


class Brightens:
    """Predicts the last context frame, brighter by what is in the parameters."""

    def predict(self, params, context, num_future, rng):
        del rng
        frame = context[:, -1:] + params["trained"] + params["frozen"]
        return Prediction(video=jnp.repeat(frame, num_future, axis=1))


def test_continuation_stands_beside_the_truth():
    video = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 6, 3), np.uint8)
    state = types.SimpleNamespace(
        prediction_params={"trained": 0.25}, frozen={"frozen": 0.5}
    )
    shown = samples.continuation(
        Brightens(), state, {schema.VIDEO: video}, None, num_context=3
    )
    assert shown.shape == (2, 5, 4, 12, 3)
    truth, continued = np.split(np.asarray(shown), 2, axis=3)
    clip = np.asarray(to_float(video))
    np.testing.assert_allclose(truth, clip)
    np.testing.assert_allclose(continued[:, :3], 0.5 * clip[:, :3])
    future = np.repeat(clip[:, 2:3] + 0.75, 2, axis=1)
    np.testing.assert_allclose(continued[:, 3:], future, rtol=1e-6)


def test_vae_shows_its_reconstruction_beside_the_truth(monkeypatch, vae_stage):
    system = vae_stage.system
    monkeypatch.setattr(system, "encode", lambda gain, video: gain * video)
    monkeypatch.setattr(system, "decode", lambda gain, latents: gain + latents)
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6, 3), np.uint8)
    # The averaged parameters, with which it is evaluated too.
    state = TrainState(step=0, params=jnp.float32(5), opt_state=(), ema=0.25)
    shown = system.samples(state, {schema.VIDEO: video}, jax.random.key(0))
    truth, again = np.split(np.asarray(shown["reconstruction"]), 2, axis=3)
    np.testing.assert_allclose(truth, to_float(video))
    np.testing.assert_allclose(again, 0.25 + 0.25 * to_float(video), rtol=1e-6)


@pytest.mark.parametrize("name", ["flow_warp", "reference"])
def test_predictors_show_their_continuation(name, make_flow_warp, vae_stage, tiny):
    if name == "flow_warp":
        system = make_flow_warp()
    else:
        model = {"latent_channels": 2, "features": 8, "head_features": 6}
        system = reference.ReferenceSystem(
            model=model, num_context=tiny.context, stages={"vae": vae_stage}
        )
    batch, key = tiny.batch(), jax.random.key(0)
    state = jax.eval_shape(system.init, key, batch)
    shown = jax.eval_shape(system.samples, state, batch, key)
    b, t, h, w, _ = batch[schema.VIDEO].shape
    assert {name: video.shape for name, video in shown.items()} == {
        "continuation": (b, t, h, 2 * w, 3)
    }
