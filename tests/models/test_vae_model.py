"""The VAE's networks: sizes, ranges, the reference's count of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.vae import LOGVAR_RANGE, VAE, Gaussian

KEY = jax.random.key(0, impl="rbg")  # initialisers compile five times faster


def small(**changes):
    options = {"latent_channels": 3, "features": 16, "num_blocks": 1} | changes
    return VAE(**options)


def shapes(vae, size):
    """Shapes of posterior mean, of the decoded image, and of the parameters."""

    def both(key, image):
        again, variables = vae.init_with_output(key, image)
        posterior = vae.apply(variables, image, method="encode")
        return posterior.mean, again, variables

    mean, again, variables = jax.eval_shape(both, KEY, jnp.zeros((2, *size, 3)))
    return mean.shape, again.shape, variables


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("cells", [(1, 1), (3, 5)])
def test_any_size_that_the_stride_divides(stride, cells):
    h, w = (stride * side for side in cells)
    mean, again, _ = shapes(small(stride=stride), (h, w))
    assert mean == (2, *cells, 3)
    assert again == (2, h, w, 3)


def test_reference_has_exactly_the_parameters_of_the_reference():
    vae = VAE(preset="reference", latent_channels=32, stride=8)
    mean, again, variables = shapes(vae, (24, 40))
    assert mean == (2, 3, 5, 32) and again == (2, 24, 40, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 167_171


@pytest.mark.parametrize(
    "vae, size, message",
    [
        (small(), (34, 33), "34x33 do not divide by the VAE's stride 4; use 32x32"),
        (small(stride=6), (36, 36), "stride=6 is not a power of two"),
        (small(stride=1), (36, 36), "stride=1 is not a power of two of at least 2"),
        (small(preset="reference"), (32, 32), "'reference' has stride 8, stride=4"),
        (small(preset="tiny"), (32, 32), "'tiny' is unknown; use residual or refer"),
    ],
)
def test_errors_are_one_line(vae, size, message):
    with pytest.raises(ValueError, match=message) as error:
        shapes(vae, size)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module", params=["residual", "reference"])
def net(request):
    vae = small(preset=request.param, stride=8)
    image = jax.random.uniform(KEY, (3, 16, 8, 3))
    variables = jax.jit(vae.init)(KEY, image)
    return vae, variables, image


def test_images_do_not_see_each_other(net):
    vae, variables, image = net
    run = jax.jit(vae.apply)
    changed = run(variables, image.at[1].set(0.5))
    together = run(variables, image)
    np.testing.assert_array_equal(changed[::2], together[::2])
    assert np.any(changed[1] != together[1])


def test_ranges(net):
    vae, variables, image = net
    encode = jax.jit(lambda v, x: vae.apply(v, x, method="encode"))
    decode = jax.jit(lambda v, z: vae.apply(v, z, method="decode"))
    decoded = decode(variables, 100 * jax.random.normal(KEY, (3, 2, 1, 3)))
    if vae.preset == "reference":
        assert decoded.min() >= 0 and decoded.max() <= 1
    else:
        logvar = encode(variables, 1e5 * (image - 0.5)).logvar
        assert (float(logvar.min()), float(logvar.max())) == LOGVAR_RANGE
        start = decode(variables, jnp.zeros((3, 2, 1, 3)))
        np.testing.assert_array_equal(start, np.full_like(start, 0.5))


def test_reconstruction_is_that_of_the_mean(net):
    vae, variables, image = net

    @jax.jit
    def both(variables, image):
        mean = vae.apply(variables, image, method="encode").mean
        again = vae.apply(variables, mean, method="decode")
        return vae.apply(variables, image), again

    whole, parts = both(variables, image)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_sample_has_mean_and_standard_deviation():
    mean = jnp.array([3.0, -1.0]).reshape(1, 1, 1, 2)
    logvar = jnp.array([-2.0, 1.0]).reshape(1, 1, 1, 2)
    many = Gaussian(*(jnp.broadcast_to(a, (1, 200, 200, 2)) for a in (mean, logvar)))
    drawn = many.sample(KEY[None])
    # 40,000 draws: standard error 0.5 % of the deviation.
    deviation = np.exp(np.asarray(logvar).ravel() / 2)
    np.testing.assert_allclose(drawn.std((0, 1, 2)), deviation, rtol=0.02)
    error = np.abs(drawn.mean((0, 1, 2)) - mean.ravel()) / deviation
    assert error.max() < 0.02
