"""The perceptual loss: hand values, who gets gradient, gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import vit
from jax_vidpred.losses.perceptual import perceptual_l1


def pictures(seed, shape=(2, 30, 45, 3)):
    return np.random.default_rng(seed).uniform(size=shape)


def test_mean_over_features_of_mean_differences():
    def features(images):
        tokens = images.reshape(2, 4, 3)
        return tokens, 10 * tokens[:, :1]

    target = jnp.zeros((2, 2, 2, 3))
    prediction = target.at[1, 0, 0, 0].set(1.2)
    # Example 1: 1.2 / 12 of the first, 12 / 3 of the second.
    found = perceptual_l1(features, prediction, target)
    np.testing.assert_allclose(found, [0.0, (0.1 + 4.0) / 2], rtol=1e-6)
    swapped = perceptual_l1(features, target, prediction)
    np.testing.assert_allclose(swapped, found, rtol=1e-6)


def test_a_network_without_features_is_refused():
    with pytest.raises(ValueError, match="no features; ask it for one layer or more"):
        perceptual_l1(lambda images: (), jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)))


def test_gradient_through_a_network_is_that_of_differences(monkeypatch):
    net = vit.VisionTransformer("dinov2", patch=14, grid=3, width=8, depth=2, heads=2)
    monkeypatch.setattr(vit, "vision_transformer", lambda preset: net)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        image = jax.ShapeDtypeStruct((1, 28, 42, 3), jnp.float64)
        like = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
        params = jax.tree.map(lambda leaf: rng.normal(0.2, 0.5, leaf.shape), like)

        @jax.jit
        def loss(params, prediction, target):
            features = vit.dinov2_features(params)
            return perceptual_l1(features, prediction, target)

        @jax.jit
        def gradient(params, prediction, target):
            def first(*pair):
                return loss(params, *pair)[0]

            return jax.grad(first, (0, 1))(prediction, target)

        target, prediction, direction = map(pictures, range(3))
        by_prediction, by_target = gradient(params, prediction, target)
        assert np.all(loss(params, prediction, target) > 0)
        np.testing.assert_array_equal(loss(params, target, target), [0.0, 0.0])
        # All pixels of the first example, no other; the target never.
        assert np.all(by_prediction[0] != 0) and not np.any(by_prediction[1])
        assert not np.any(by_target)
        step = 1e-6
        ahead, behind = (
            loss(params, prediction + sign * step * direction, target)[0]
            for sign in (1, -1)
        )
        slope = np.sum(np.asarray(by_prediction) * direction)
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-6)
