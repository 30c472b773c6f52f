"""Nearest codes, the gradient past them, averages of their use, revival."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import quantize
from jax_vidpred.ops.quantize import CodeUse

CODES = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])


def test_the_nearest_code_is_that_of_all_distances():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(2, 3, 5, 4)).astype("float32")
    codes = rng.normal(size=(37, 4)).astype("float32")
    distance = np.square(latent[..., None, :] - codes).sum(-1)
    found = quantize.nearest_code(jnp.asarray(latent), jnp.asarray(codes))
    np.testing.assert_array_equal(found, distance.argmin(-1))


def test_the_gradient_goes_straight_through_to_the_latent_alone():
    latent = jnp.array([[0.2, 0.1], [0.9, 0.3]])
    weight = jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def score(latent, codes):
        code, index = quantize.quantize(latent, codes)
        return (code * weight).sum(), (code, index)

    (_, (code, index)), gradient = jax.value_and_grad(
        score, argnums=(0, 1), has_aux=True
    )(latent, CODES)
    np.testing.assert_array_equal(index, [0, 1])
    np.testing.assert_allclose(code, CODES[:2], atol=1e-6)
    np.testing.assert_array_equal(gradient[0], weight)
    np.testing.assert_array_equal(gradient[1], np.zeros_like(CODES))


def test_use_is_share_and_sum_of_each_code_s_latents():
    latent = jnp.array([[0.1, 0.0], [0.3, 0.0], [0.0, 1.9], [1.1, 0.1]])
    use = quantize.code_use(latent, quantize.nearest_code(latent, CODES), 4)
    np.testing.assert_allclose(use.share, [0.5, 0.25, 0.25, 0.0])
    np.testing.assert_allclose(
        use.total * 4, [[0.4, 0.0], [1.1, 0.1], [0.0, 1.9], [0, 0]], rtol=1e-6
    )
    middle = quantize.centroids(use, CODES)
    np.testing.assert_allclose(middle[0], [0.2, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(middle[3], CODES[3])  # nobody is near to it


def test_use_of_parts_averages_to_that_of_the_whole():
    latent = jax.random.normal(jax.random.key(0), (8, 2)) * 3
    index = quantize.nearest_code(latent, CODES)
    whole = quantize.code_use(latent, index, 4)
    first, second = (
        quantize.code_use(latent[part], index[part], 4)
        for part in (slice(0, 4), slice(4, 8))
    )
    np.testing.assert_allclose(whole.share, (first.share + second.share) / 2)
    np.testing.assert_allclose(whole.total, (first.total + second.total) / 2, rtol=1e-5)


@pytest.mark.parametrize("share, expected", [([0.25] * 4, 4), ([1, 0, 0, 0], 1)])
def test_perplexity_counts_codes_in_use(share, expected):
    np.testing.assert_allclose(
        quantize.perplexity(jnp.float32(jnp.array(share))), expected, rtol=1e-5
    )


def test_average_follows_with_its_decay():
    old = CodeUse(jnp.array([1.0, 0.0]), jnp.array([[2.0], [0.0]]))
    new = CodeUse(jnp.array([0.0, 1.0]), jnp.array([[0.0], [4.0]]))
    after = quantize.follow(old, new, 0.75)
    np.testing.assert_allclose(after.share, [0.75, 0.25])
    np.testing.assert_allclose(after.total, [[1.5], [1.0]])


def test_dead_codes_come_to_live_beside_used_ones():
    use = CodeUse(jnp.array([0.6, 0.4, 0.0, 0.0]), CODES * 0.1)
    after, codes, dead = quantize.revive(
        use, CODES, jax.random.key(3), below=0.1, spread=jnp.float32(0.01)
    )
    assert dead == 2
    np.testing.assert_array_equal(codes[:2], CODES[:2])
    for revived in np.asarray(codes[2:]):
        assert np.linalg.norm(revived - np.asarray(CODES[:2]), axis=1).min() < 0.1
        assert np.linalg.norm(revived - np.asarray(CODES[:2]), axis=1).min() > 0
    # The average says the same as the codebook: nothing jumps back.
    np.testing.assert_allclose(
        quantize.centroids(after, codes)[2:], codes[2:], rtol=1e-5
    )
    np.testing.assert_allclose(after.share, [0.6, 0.4, 0.25, 0.25])


def test_codes_that_live_stay():
    use = CodeUse(jnp.full(4, 0.25), CODES / 4)
    after, codes, dead = quantize.revive(
        use, CODES, jax.random.key(0), below=0.9, spread=jnp.float32(1.0)
    )
    assert dead == 0
    np.testing.assert_array_equal(codes, CODES)
    np.testing.assert_array_equal(after.share, use.share)


def test_a_frozen_codebook_is_looked_up_where_each_device_has_its_examples():
    # The codebook comes from outside of what is split, as frozen parameters do.
    def split(codebook, latent):
        return jax.shard_map(
            lambda latent: quantize.quantize(latent, codebook)[0],
            in_specs=jax.P("data"),
            out_specs=jax.P("data"),
            check_vma=False,
        )(latent)

    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        codes = jax.jit(split)(jnp.eye(2), jnp.array([[0.9, 0.2], [0.1, 0.7]]))
    np.testing.assert_array_equal(codes, np.eye(2))


def test_the_neighbours_of_revived_codes_are_drawn_by_their_shares():
    # Of 3000 codes 2997 are dead; nobody has seen the second of the others for long.
    n = 3000
    share = jnp.zeros(n).at[jnp.array([0, 10, 20])].set(jnp.array([0.6, 0.0, 0.4]))
    codebook = jnp.arange(n, dtype=jnp.float32)[:, None]

    def revive(share, codebook):
        use = CodeUse(share, codebook * share[:, None])
        spread = jnp.zeros(())
        key = jax.random.key(0)
        return quantize.revive(use, codebook, key, below=0.1, spread=spread)

    compiled = jax.jit(revive).lower(share, codebook).compile()
    _, codes, dead = compiled(share, codebook)
    assert dead == n - 2
    values, counts = np.unique(codes, return_counts=True)
    np.testing.assert_array_equal(values, [0, 20])
    # Three standard deviations of a share of 3000.
    np.testing.assert_allclose(counts / n, [0.6, 0.4], atol=3 * (0.24 / n) ** 0.5)
    # As many numbers as there are codes, not their square.
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * n
