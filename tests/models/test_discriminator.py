"""Size, field of view and independence of a patch discriminator's logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.layers.discriminator import PatchDiscriminator
from jax_vidpred.models.layers.norm import GroupNorm


def make(height, width, count=2, **settings):
    net = PatchDiscriminator(**{"features": 4} | settings)
    images = jax.random.uniform(jax.random.key(0), (count, height, width, 3))
    return net, net.init(jax.random.key(1), images), images


@pytest.mark.parametrize("layers, shape", [(1, (14, 22)), (2, (6, 10)), (3, (2, 4))])
def test_size_of_the_output(layers, shape):
    net, params, images = make(32, 48, num_layers=layers)
    assert net.apply(params, images).shape == (2, *shape, 1)


def test_layers_are_those_of_the_paper():
    net = PatchDiscriminator()
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    kernels = [3 * 64, 64 * 128, 128 * 256, 256 * 512, 512]
    norms, biases = 2 * (128 + 256 + 512), 64 + 1
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
    assert sum(sizes) == 16 * sum(kernels) + norms + biases == 2_765_633
    out = jax.eval_shape(net.apply, shapes, jnp.zeros((1, 256, 256, 3)))
    assert out.shape == (1, 30, 30, 1)
    net, params, _ = make(24, 24, features=64)
    kernel = params["params"]["Conv_3"]["kernel"]
    assert float(kernel.std()) == pytest.approx(0.02, rel=0.01)


@pytest.mark.slow
def test_field_of_view_is_70_pixels(monkeypatch):
    # A norm looks at the whole image; without it a logit sees its patch alone.
    monkeypatch.setattr(GroupNorm, "__call__", lambda self, x: x)
    net, params, images = make(128, 128, count=1, features=2)
    seen = jax.grad(lambda x: net.apply(params, x)[0, 7, 6, 0])(images)[0]
    rows, columns = np.nonzero(np.abs(seen).max(-1))
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == 70
    # One logit further is 8 pixels further.
    assert rows.min() - columns.min() == 8


@pytest.mark.slow
def test_logits_of_an_image_are_its_own():
    net, params, images = make(24, 24, count=3)
    gradient = jax.grad(lambda x: net.apply(params, x)[1].sum())(images)
    assert np.all(gradient[jnp.array([0, 2])] == 0) and np.any(gradient[1])
    alone = net.apply(params, images[1:2])
    np.testing.assert_allclose(net.apply(params, images)[1:2], alone, atol=1e-7)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="23x40 are too small .* needs 24x24"):
        make(23, 40)


def test_half_precision_is_near_and_ends_in_single():
    net, params, images = make(32, 32, features=32)
    whole = net.apply(params, images)
    half = PatchDiscriminator(features=32, dtype=jnp.bfloat16).apply(params, images)
    assert half.dtype == jnp.float32
    assert np.abs(half - whole).max() < 0.05 * np.abs(whole).max()
    assert np.any(half != whole)


def test_group_norm_is_that_of_flax():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 7, 12))
    ours, theirs = GroupNorm(4), nn.GroupNorm(4)
    shapes = ours.init(jax.random.key(0), x)
    keys = iter(jax.random.split(jax.random.key(1)))
    params = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), shapes)

    def results(norm):
        def loss(params, x):
            y = norm.apply(params, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        results(ours),
        results(theirs),
    )
    assert ours.apply(params, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="5 groups do not divide 12 channels"):
        GroupNorm(5).init(jax.random.key(0), x)
