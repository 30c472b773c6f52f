"""Presets of VQ in which published weights load: sizes, ranges, what may be changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models import river_vq
from jax_vidpred.models.vq import VQ

KEY = jax.random.key(0, impl="rbg")  # initialisers compile five times faster
PUBLISHED = ["river", "f8", "f8_small", "f16"]
every_preset = pytest.mark.parametrize("preset", PUBLISHED)


def small(preset, **changes):
    return VQ(preset, **{"num_codes": 8, "features": 4} | changes)


def shapes(net, size=(32, 64)):
    """Of latent, code numbers, reconstruction; and the parameters."""

    def everything(key, image):
        again, variables = net.init_with_output(key, image)
        latent = net.apply(variables, image, method="encode")
        index = net.apply(variables, latent, method="quantize")[1]
        return latent, index, again, variables["params"]

    *arrays, params = jax.eval_shape(everything, KEY, jnp.zeros((2, *size, 3)))
    return [array.shape for array in arrays], params


@pytest.mark.parametrize(
    "preset, count, stride, channels, num_codes",
    [
        ("river", 7_329_703, 8, 4, 8192),
        ("f8", 67_717_295, 8, 4, 16384),
        ("f8_small", 63_777_455, 8, 4, 16384),
        ("f16", 69_593_371, 16, 8, 16384),
    ],
)
def test_sizes_are_the_published_ones(preset, count, stride, channels, num_codes):
    net = VQ(preset)
    assert (net.stride, net.latent_channels) == (stride, channels)  # not yet bound
    (latent, index, again), params = shapes(net)
    grid = (2, 32 // stride, 64 // stride)
    assert latent == (*grid, channels) and index == grid and again == (2, 32, 64, 3)
    assert params["codebook"].shape == (num_codes, channels)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Running statistics are no parameters in torch.
    sizes = [x.size for at, x in leaves if at[-1].key not in ("mean", "variance")]
    assert sum(sizes) == count


def test_attributes_are_filled_in_and_stay():
    assert VQ().stride == 4 and VQ(stride=8).stride == 8
    assert VQ().clone(stride=2).stride == 2
    net = VQ("f16", num_codes=64, stride=16)
    assert (net.num_codes, net.latent_channels, net.features) == (64, 8, 128)
    assert net.clone(remat=True) == VQ("f16", num_codes=64, remat=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"preset": "f4"}, "'f4' is unknown; use residual, river, f8, f8_small or f16"),
        ({"preset": "river", "stride": 4}, "'river' has stride=8, 4 was given; leave"),
        ({"preset": "f8", "num_blocks": 1}, "'f8' has num_blocks=2, 1 was given"),
        ({"preset": "river", "dtype": "float16"}, "use float32 or bfloat16"),
        ({"preset": "f16"}, "40x56 do not divide by the stride 16; use 32x48"),
    ],
)
def test_errors_are_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        shapes(VQ(**changes), (40, 56))
    assert "\n" not in str(error.value)


@every_preset
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_results_are_float32(preset, dtype):
    def everything(key, image):
        again, variables = net.init_with_output(key, image)
        return again, net.apply(variables, image, method="encode"), variables

    net = small(preset, dtype=dtype)
    outputs = jax.eval_shape(everything, KEY, jnp.zeros((1, 32, 32, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {np.dtype("float32")}
    program = str(jax.make_jaxpr(everything)(KEY, jnp.zeros((1, 32, 32, 3))))
    assert ("bf16[" in program) == (dtype == "bfloat16")
    # Norms, softmax and activations.
    narrow = [
        line
        for line in program.splitlines()
        for name in (" exp ", " rsqrt", " logistic", " tanh", " reduce_sum[")
        if name in line and ":bf16[" in line.split("=")[0]
    ]
    assert not narrow


@pytest.fixture(scope="module", params=["river", "f8_small"])
def net(request):
    """With parameters as if trained, so that every part says something."""
    net = small(request.param)
    image = jax.random.uniform(KEY, (3, 16, 24, 3))
    rng = np.random.default_rng(0)

    def draw(leaf):  # above zero, as variances are
        return rng.uniform(0.05, 0.6, leaf.shape).astype(np.float32)

    return net, jax.tree.map(draw, jax.eval_shape(net.init, KEY, image)), image


def test_encoder_sees_minus_1_to_1_and_each_image_by_itself(net):
    net, variables, image = net
    encode = jax.jit(lambda v, x: net.apply(v, x, method="encode"))
    alone = jax.jit(lambda v, x: net.bind(v).encoder(x))
    together = encode(variables, image)
    inner = alone(variables, 2 * image - 1)
    np.testing.assert_allclose(together, inner, atol=1e-5 * np.abs(inner).max())
    changed = encode(variables, image.at[1].set(0.5))
    np.testing.assert_array_equal(changed[::2], together[::2])
    assert np.any(changed[1] != together[1])


def test_decoder_gives_minus_1_to_1(net):
    net, variables, _ = net
    last = "out_conv" if net.preset == "river" else "conv_out"
    params = jax.tree.map(jnp.asarray, variables["params"])
    layer = params["decoder"][last]
    layer["kernel"], layer["bias"] = 0 * layer["kernel"], jnp.array([-9.0, 0.0, 0.5])
    decode = jax.jit(lambda v, z: net.apply(v, z, method="decode"))
    pixel = decode({"params": params}, jnp.ones((1, 2, 3, 4)))[0, 0, 0]
    if net.preset == "river":
        wanted = [0.0, 0.5, (np.tanh(0.5) + 1) / 2]
    else:
        wanted = [-4.0, 0.5, 0.75]
    np.testing.assert_allclose(pixel, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["river", "f8_small"])
def test_remat_is_an_option_that_changes_no_name(preset):
    kept, again = small(preset), small(preset, remat=True)
    params = shapes(kept)[1]
    assert jax.tree.structure(params) == jax.tree.structure(shapes(again)[1])

    def blocks(net):
        def run(params):
            return net.apply({"params": params}, jnp.zeros((1, 32, 32, 3)))

        return str(jax.make_jaxpr(run)(params)).count("prevent_cse")

    # Residual blocks, and what enlarges: of the encoder, then of the decoder.
    wanted = {"river": 5 + 8, "f8_small": 10 + 14}
    assert (blocks(kept), blocks(again)) == (0, wanted[preset])


def test_frozen_norm_has_constant_statistics():
    x = jax.random.normal(KEY, (2, 3, 4, 5))
    rng = np.random.default_rng(0)
    norm = river_vq.FrozenNorm()
    params = {
        name: rng.uniform(0.3, 2, 5).astype(np.float32)
        for name in ("scale", "bias", "mean", "variance")
    }

    def run(params, x):
        return norm.apply({"params": params}, x)

    deviation = np.sqrt(params["variance"] + 1e-5)
    wanted = (np.asarray(x) - params["mean"]) / deviation * params["scale"]
    np.testing.assert_allclose(run(params, x), wanted + params["bias"], atol=1e-5)
    gradient = jax.grad(lambda *given: jnp.square(run(*given)).sum())(params, x)
    assert not np.any(gradient["mean"]) and not np.any(gradient["variance"])
    assert np.all(gradient["scale"]) and np.all(gradient["bias"])


def test_halved_convolution_is_the_mean_of_a_convolution():
    x = jax.random.normal(KEY, (2, 6, 8, 3))
    conv = river_vq.HalvedConv(5, jnp.float32)
    found, variables = conv.init_with_output(KEY, x)
    kernel = variables["params"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    full = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )
    wanted = full.reshape(2, 3, 2, 4, 2, 5).mean((2, 4))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
