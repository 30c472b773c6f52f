"""RIVER's vector field: what it depends on, and on what it does not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.layers.attention import attend, drop
from jax_vidpred.models.river import VectorField, time_token

SIZES = dict(latent_channels=2, features=16, num_heads=2, depth=1, mid_depth=1)
NET = VectorField(**SIZES, dropout=0.2)


def inputs(batch=3, height=4, width=4, channels=2):
    rng = np.random.default_rng(0)
    shape = (batch, height, width, channels)
    images = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    distance = np.arange(1, batch + 1, dtype=np.int32)
    return [*images, distance, rng.uniform(size=batch).astype(np.float32)]


def parameters(net, x):
    """All random: as initialised, the field is 0 everywhere."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *x)["params"]
    rng = np.random.default_rng(1)

    def draw(leaf):
        scale = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.3
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def params():
    return parameters(NET, inputs())


@pytest.fixture(scope="module")
def field():
    return jax.jit(lambda p, x, keys=None: NET.apply({"params": p}, *x, keys))


def test_untrained_field_is_zero(field):
    x = inputs()
    made = jax.jit(NET.init)(jax.random.key(0), *x)
    assert not np.any(field(made["params"], x))
    tables = made["params"]["row_table"], made["params"]["column_table"]
    assert all(-1 <= t.min() < -0.99 and 0.99 < t.max() <= 1 for t in tables)


def test_tokens_by_hand():
    """Without blocks: embedding, places (column first), distance, and the way out."""
    net = VectorField(1, features=4, num_heads=1, depth=0, mid_depth=0)
    x = inputs(batch=2, height=2, width=3, channels=1)
    p = parameters(net, x)
    found = jax.jit(lambda p, x: net.apply({"params": p}, *x))(p, x)
    p = jax.tree.map(np.float64, p)
    latent, reference, condition, distance, _ = x
    normed = np.zeros((2, 4, 5, 4))  # with a border of zeros for the convolution
    for b in range(2):
        hidden = math.log(distance[b]) * p["distance_hidden"]["kernel"][0]
        hidden = np.maximum(hidden + p["distance_hidden"]["bias"], 0)
        far = hidden @ p["distance_out"]["kernel"] + p["distance_out"]["bias"]
        for i in range(2):
            for j in range(3):
                seen = [one[b, i, j, 0] for one in (latent, reference, condition)]
                token = seen @ p["embed"]["kernel"] + p["embed"]["bias"] + far
                token[:2] += p["column_table"][j]
                token[2:] += p["row_table"][i]
                y = token @ p["out_hidden"]["kernel"] + p["out_hidden"]["bias"]
                y = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in y])
                y = (y - y.mean()) / np.sqrt(y.var() + 1e-5)
                y = y * p["out_norm"]["scale"] + p["out_norm"]["bias"]
                normed[b, i + 1, j + 1] = y
    kernel, bias = p["out_conv"]["kernel"], p["out_conv"]["bias"]
    for i in range(2):
        for j in range(3):
            part = normed[:, i : i + 3, j : j + 3]
            wanted = np.einsum("bijc,ijco->bo", part, kernel) + bias[None]
            np.testing.assert_allclose(found[:, i, j], wanted, rtol=0, atol=2e-5)


def test_time_token_by_hand():
    found = time_token(jnp.array([0.0, 0.25]), 4)
    np.testing.assert_array_equal(found[0], [1, 1, 0, 0])
    # 200 * 0.25 at the frequencies 1 and 10000 ** -0.5.
    wanted = [math.cos(50), math.cos(0.5), math.sin(50), math.sin(0.5)]
    np.testing.assert_allclose(found[1], wanted, atol=1e-5)


def test_distance_one_enters_as_zero(field, params):
    """log 1 = 0: what multiplies it cannot matter, for greater distances it does."""
    x = inputs()
    changed = {**params, "distance_hidden": dict(params["distance_hidden"])}
    changed["distance_hidden"]["kernel"] = 5 + params["distance_hidden"]["kernel"]
    before, after = field(params, x), field(changed, x)
    np.testing.assert_array_equal(before[0], after[0])
    assert all(np.abs(before - after)[i].max() > 1e-3 for i in (1, 2))


def test_no_input_stands_for_another(field, params):
    x = inputs()
    usual = field(params, x)
    for order in [(1, 0, 2), (0, 2, 1), (2, 1, 0)]:
        swapped = [*(x[i] for i in order), *x[3:]]
        assert np.abs(field(params, swapped) - usual).max() > 0.1
    later = [*x[:4], x[4] + np.float32(0.01)]
    assert np.abs(field(params, later) - usual).max() > 1e-3


def test_examples_do_not_see_each_other(field, params):
    x = inputs()
    turned = [one[[2, 0, 1]] for one in x]
    np.testing.assert_allclose(
        field(params, turned), field(params, x)[np.array([2, 0, 1])], atol=1e-5
    )


def test_patches_move_with_the_picture():
    """Where no place has a name, a shift by a patch shifts the field with it."""
    net = VectorField(**SIZES, patch=2)
    x = inputs(height=4, width=8)
    p = parameters(net, x)
    p |= {name: 0 * p[name] for name in ("row_table", "column_table")}
    kernel = p["out_conv"]["kernel"]
    centre = jnp.zeros_like(kernel).at[1, 1].set(kernel[1, 1])
    p["out_conv"] = {**p["out_conv"], "kernel": centre}
    field = jax.jit(lambda x: net.apply({"params": p}, *x))

    def moved(by):
        found = field([*(np.roll(one, by, (1, 2)) for one in x[:3]), *x[3:]])
        return np.abs(np.roll(found, np.negative(by), (1, 2)) - field(x)).max()

    assert field(x).shape == x[0].shape
    assert moved((2, 4)) < 1e-5
    assert moved((0, 1)) > 0.1


def test_grids_and_heads_that_do_not_divide_are_refused():
    net = VectorField(**SIZES, patch=2)
    with pytest.raises(ValueError, match="grid of 4x5 .* patches of 2x2"):
        jax.eval_shape(net.init, jax.random.key(0), *inputs(width=5))
    net = VectorField(**SIZES | {"num_heads": 3})
    with pytest.raises(ValueError, match="16 features .* num_heads=3"):
        jax.eval_shape(net.init, jax.random.key(0), *inputs())


def test_attention_by_hand():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 5, 3, 4)).astype(np.float32) for _ in range(3))
    weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 2)  # sqrt of 4
    weights /= weights.sum(-1, keepdims=True)
    wanted = np.einsum("bhnm,bmhd->bnhd", weights, v)
    np.testing.assert_allclose(attend(q, k, v), wanted, atol=1e-6)
    large = attend(1e3 * q, k, v)
    assert np.isfinite(large).all()


def test_nothing_is_dropped_without_keys(field, params):
    x = inputs()
    np.testing.assert_array_equal(field(params, x), field(params, x))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = field(params, x, keys)
    assert np.abs(dropped - field(params, x)).max() > 0.05
    np.testing.assert_array_equal(dropped, field(params, x, keys))
    others = field(params, x, jax.random.split(jax.random.key(1), 3))
    assert np.abs(dropped - others).max() > 0.05


def test_dropout_of_an_example_is_its_own(field, params):
    """The batch around an example does not change what it loses."""
    x = inputs()
    keys = jax.random.split(jax.random.key(0), 3)
    whole = field(params, x, keys)
    for i in range(3):
        alone = field(params, [one[i : i + 1] for one in x], keys[i : i + 1])
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_keeps_the_mean(rate):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.ones((2, 301, 103))
    found = drop(x, rate, keys, 0)
    values = np.unique(found)
    # 5 % is 13 of 256 values of 8 random bits.
    share = {0.05: 13 / 256, 0.5: 0.5}[rate]
    np.testing.assert_allclose(values, [0, 1 / (1 - share)], rtol=1e-6)
    error = 4 * math.sqrt(rate / (1 - rate) / x.size)  # four standard deviations
    assert abs(found.mean() - 1) < error
    for axis in (1, 2):  # no row and no column is treated apart
        share = (found == 0).mean(axis)
        width = x.shape[axis]
        assert abs(share - rate).max() < 5 * math.sqrt(rate * (1 - rate) / width)
    assert np.any(drop(x, rate, keys, 1) != found)
    assert np.any(found[0] != found[1])
    pairs = np.asarray(found)[0].ravel()[: x[0].size // 2 * 2].reshape(-1, 2)
    neighbours = np.corrcoef(pairs.T)[0, 1]
    assert abs(neighbours) < 0.04  # two numbers share 32 random bits


def test_remat_gives_the_same_gradient(params):
    x = inputs()
    keys = jax.random.split(jax.random.key(0), 3)

    def gradient(remat):
        net = NET.clone(remat=remat)

        def loss(p):
            return (net.apply({"params": p}, *x, keys) ** 2).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain, again = gradient(False), gradient(True)
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        plain,
        again,
    )


def test_bfloat16_stays_close(field, params):
    x = inputs()
    net = NET.clone(dtype="bfloat16")
    found = jax.jit(lambda p, x: net.apply({"params": p}, *x))(params, x)
    wanted = field(params, x)
    assert found.dtype == jnp.float32
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < 0.03, error
