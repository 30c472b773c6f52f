"""Computing in bfloat16, and computing again instead of keeping: what must not change.

In a printed program every result has its type: `a:bf16[2,3] = add b c`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.flow_warp import FlowWarp
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.vae import VAE
from jax_vidpred.ops.activation import silu
from jax_vidpred.ops.conv import conv2d

KEY = jax.random.key(0, impl="rbg")  # compiles five times faster
B, K, SIDE = 2, 4, 4
IMAGES = jax.random.uniform(KEY, (B, 16, 16, 3))
LATENTS = jax.random.normal(KEY, (B, K, SIDE, SIDE, 3))
USE_TRUTH = jnp.ones((B, K), bool)
NETS = {
    "vae": (functools.partial(VAE, features=16, num_blocks=2), (IMAGES,)),
    "reference": (functools.partial(VAE, "reference", stride=8), (IMAGES,)),
    "flow_warp": (
        functools.partial(
            FlowWarp, latent_channels=3, features=8, head_features=6, reach=1
        ),
        (LATENTS, USE_TRUTH),
    ),
}
every_net = pytest.mark.parametrize("name", NETS)

# What may happen in bfloat16: convolutions, moving data about, rectifiers, and the sums
# of a residual block. No sum over many, no division, no exponential.
NARROW = {
    *("conv_general_dilated", "convert_element_type", "optimization_barrier"),
    *("transpose", "reshape", "rev", "pad", "slice", "broadcast_in_dim"),
    *("add", "add_any", "max", "mul", "select_n"),
    *("custom_vjp_call", "custom_jvp_call", "jit", "scan", "checkpoint"),
}


def made(name, **changes):
    """A function parameters -> results, and the shapes of its parameters."""
    net, inputs = NETS[name]
    net = net(**changes)

    def function(params):
        return net.apply(params, *inputs)

    return function, jax.eval_shape(net.init, KEY, *inputs)


def drawn(shapes):
    """Parameters as if trained, with no zeros, so that every part says something."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, shapes)


def total(function):
    """A scalar that depends on all results of a function, and these."""

    def scalar(params):
        results = function(params)
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(results)), results

    return scalar


def gradient_of(function):
    """Parameters -> their gradient, and the results of the function."""
    return jax.grad(total(function), has_aux=True)


def primitives(program, dtype):
    return re.findall(rf":{dtype}\[[\d,]*\] = (\w+)", str(program))


@every_net
def test_the_same_checkpoint_fits(name):
    function, params = made(name, dtype="bfloat16", remat=True)
    plain_function, plain_params = made(name)
    # Names, shapes, types.
    assert params == plain_params
    wanted = jax.eval_shape(plain_function, plain_params)
    results = jax.eval_shape(function, params)
    assert results == wanted
    types = {leaf.dtype for leaf in jax.tree.leaves((params, results))}
    assert types == {jnp.dtype("float32")}


@every_net
def test_bfloat16_is_for_convolutions_and_what_lies_between_them(name):
    function, params = made(name, dtype="bfloat16")
    forward = jax.make_jaxpr(function)(params)
    convs = [
        primitives(forward, t).count("conv_general_dilated") for t in ("bf16", "f32")
    ]
    # A printed function with two uses counts twice, so no exact number; one float32
    # convolution ends each of encoder and decoder, or each of four heads.
    assert convs[0] > convs[1] > 0
    backward = jax.make_jaxpr(gradient_of(function), return_shape=True)
    program, (gradient, _) = backward(params)
    assert primitives(program, "bf16").count("conv_general_dilated") > convs[0]
    assert set(primitives(program, "bf16")) <= NARROW
    assert not primitives(program, "f64")
    assert gradient == params


@functools.cache
def gradient_and_results(name, **changes):
    function, shapes = made(name, **changes)
    outputs = jax.jit(gradient_of(function))(drawn(shapes))
    return jax.tree_util.tree_leaves_with_path(outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes, tolerance",
    [
        ("vae", {"remat": True}, 1e-6),
        ("flow_warp", {"remat": True}, 1e-6),
        ("vae", {"dtype": "bfloat16"}, 0.03),
        # A rectifier's slope jumps: of 1 in 300 numbers rounding changes it.
        ("reference", {"dtype": "bfloat16"}, 0.1),
        ("flow_warp", {"dtype": "bfloat16"}, 0.03),
    ],
)
def test_values_and_gradients_agree(name, changes, tolerance):
    pairs = zip(
        gradient_and_results(name), gradient_and_results(name, **changes), strict=True
    )
    for (path, a), (_, b) in pairs:
        place = jax.tree_util.keystr(path)
        if "['state_head']['Dense_0']['bias']" in place:
            continue  # before a softmax over places: no gradient but rounding
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert error < tolerance, (place, error)


@pytest.mark.parametrize(
    "name, changes, most",
    [
        ("vae", {"remat": True}, 0.6),
        ("vae", {"dtype": "bfloat16"}, 0.6),
        ("vae", {"dtype": "bfloat16", "remat": True}, 0.4),
        pytest.param("flow_warp", {"remat": True}, 0.2, marks=pytest.mark.slow),
    ],
)
def test_less_is_kept_for_the_gradient(name, changes, most):
    def kept(function, params):
        backward = jax.eval_shape(lambda p: jax.vjp(function, p)[1], params)
        leaves = jax.tree.leaves(backward)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) - weights

    plain, params = made(name)
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    function, _ = made(name, **changes)
    assert kept(function, params) < most * kept(plain, params)


@pytest.mark.slow
def test_a_long_roll_out_takes_less_memory():
    # Of the compiled program, and so of what the machine really sets aside.
    def temporary(**changes):
        net = FlowWarp(3, features=16, head_features=8, reach=1, **changes)
        latents, use_truth = jnp.zeros((2, 24, 8, 8, 3)), jnp.ones((2, 24), bool)
        params = jax.eval_shape(net.init, KEY, latents, use_truth)
        gradient = gradient_of(lambda p: net.apply(p, latents, use_truth))
        compiled = jax.jit(gradient).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(remat=True) < 0.5 * temporary()


def test_gradient_of_a_kernel_is_rounded_once():
    # Ninety-six images, twelve groups of eight: their sum is not taken in bfloat16.
    rng = np.random.default_rng(0)
    x, dy = (jnp.bfloat16(rng.uniform(size=(96, 4, 4, n))) for n in (3, 5))
    kernel = jnp.zeros((3, 3, 3, 5), jnp.bfloat16)

    @jax.jit
    def gradients(x, dy):
        def gradient(x, kernel, dy):
            return jax.vjp(lambda k: conv2d(x, k), kernel)[1](dy)[0]

        wide = (a.astype(jnp.float32) for a in (x, kernel, dy))
        return gradient(x, kernel, dy), gradient(*wide)

    narrow, wide = gradients(x, dy)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(jnp.float32(narrow), wide, rtol=2**-8)


def test_gradient_of_a_bias_counts_every_place():
    layer = Conv(2, kernel=1, dtype=jnp.bfloat16)
    x = jnp.ones((2, 24, 24, 1))
    params = {"kernel": jnp.ones((1, 1, 1, 2)), "bias": jnp.zeros(2)}

    def scalar(params):
        return layer.apply({"params": params}, x).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(scalar))(params)
    np.testing.assert_array_equal(gradient["bias"], [1152, 1152])


def test_silu_of_a_narrow_type_is_rounded_once():
    x = jnp.linspace(-8, 8, 257).astype(jnp.bfloat16)
    for function in (silu, jax.vmap(jax.grad(silu))):
        narrow, wide = function(x), function(x.astype(jnp.float32))
        assert narrow.dtype == jnp.bfloat16
        np.testing.assert_allclose(jnp.float32(narrow), wide, rtol=2**-8)


@pytest.mark.parametrize("name", ["vae", "flow_warp"])
def test_an_unknown_type_is_refused(name):
    message = "dtype 'float16' is unknown; use float32 or bfloat16"
    with pytest.raises(ValueError, match=f"^{message}"):
        made(name, dtype="float16")
