"""LPIPS without torch: a distance, its gradients, its files and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jax_vidpred.features import lpips
from jax_vidpred.features.weights import WeightsError, load_params, recognise, sha256

RNG = np.random.default_rng(0)
BY_NAME = {network.name: network for network in lpips.NETWORKS}
# (outputs, inputs, size) of AlexNet's convolutions, by their number in torchvision.
ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3)}
ALEX[10] = (256, 256, 3)


def images(number=2, h=31, w=31):
    return RNG.uniform(-1, 1, (number, h, w, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def files():
    """Random tensors of the trunk of alex and of its heads, as published."""
    trunk, heads = {}, {}
    slices = zip(ALEX.items(), range(5), strict=True)
    for (number, (outputs, inputs, size)), depth in slices:
        kernel = RNG.normal(0, 0.05, (outputs, inputs, size, size))
        trunk[f"features.{number}.weight"] = kernel.astype(np.float32)
        trunk[f"features.{number}.bias"] = np.zeros(outputs, np.float32)
        weight = RNG.uniform(0, 1, (1, outputs, 1, 1)).astype(np.float32)
        heads[f"lin{depth}.model.1.weight"] = weight
    trunk["classifier.1.weight"] = np.zeros((1, 1), np.float32)
    return trunk, heads


@pytest.fixture(scope="module")
def params(files):
    trunk, heads = files
    return lpips.lpips_params(
        BY_NAME["alexnet_features"].to_params(trunk),
        BY_NAME["lpips_alex_heads"].to_params(heads),
    )


@pytest.fixture(scope="module")
def distance():
    """Distances and their gradient with respect to the first image, of alex."""

    @jax.jit
    def run(params, image0, image1):
        def total(image):
            values = lpips.LPIPS("alex").apply({"params": params}, image, image1)
            return values.sum(), values

        gradient, values = jax.grad(total, has_aux=True)(image0)
        return values, gradient

    return run


def test_it_is_a_distance_of_pairs(params, distance):
    first, second = images(), images()
    values, gradient = distance(params, first, second)
    assert values.shape == (2,) and (values > 0).all()
    np.testing.assert_allclose(distance(params, second, first)[0], values, rtol=1e-5)
    second[1] = 0
    changed, other = distance(params, first, second)
    assert changed[0] == values[0] and changed[1] != values[1]
    np.testing.assert_array_equal(other[0], gradient[0])


def test_equal_images_have_distance_and_gradient_zero(params, distance):
    image = images()
    values, gradient = distance(params, image, image)
    np.testing.assert_allclose(values, [0, 0], atol=1e-12)  # not the same program twice
    np.testing.assert_allclose(gradient, np.zeros_like(image), atol=1e-8)


def test_gradient_is_finite_where_all_units_of_a_place_are_silent(params, distance):
    # From a negative bias on, nothing passes the first relu of flat grey images.
    layer = params["trunk"]["features_0"]
    silent = layer | {"bias": np.full_like(layer["bias"], -1)}
    params = params | {"trunk": params["trunk"] | {"features_0": silent}}
    grey = np.zeros((2, 31, 31, 3), np.float32)
    image = images()
    values, gradient = distance(params, image, grey)
    assert values[0] > 0 and np.isfinite(gradient).all() and np.any(gradient)
    values, gradient = distance(params, grey, image)
    assert values[0] > 0 and np.isfinite(gradient).all()


def test_heads_weigh_squared_differences_of_unit_vectors():
    # [b=1, h=1, w=2, c=2]: (3, 4) against (1, 0), and a silent place against itself.
    x0 = jnp.array([[3.0, 4.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    x1 = jnp.array([[1.0, 0.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    params = {"lin0": jnp.array([10.0, 1.0]), "lin1": jnp.array([0.0, 2.0])}

    def heads(x0):
        return lpips._Heads().apply({"params": params}, [x0, x0], [x1, x1])

    squares = np.array([0.4**2, 0.8**2])  # (0.6 - 1, 0.8 - 0)
    wanted = (squares @ [10, 1] + squares @ [0, 2]) / 2
    np.testing.assert_allclose(heads(x0), [wanted], rtol=1e-6)
    gradient = jax.grad(lambda x: heads(x)[0])(x0)
    assert np.isfinite(gradient).all() and np.any(gradient[0, 0, 0])


def test_distance_function_takes_images_between_zero_and_one(params, distance):
    first, second = images(), images()
    found = jax.jit(lpips.lpips_distance(params, "alex"))(
        (first + 1) / 2, (second + 1) / 2
    )
    np.testing.assert_allclose(found, distance(params, first, second)[0], rtol=1e-5)


def trace(net, shape0, shape1=None):
    first, second = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (shape0, shape1 or shape0)
    )
    module = lpips.LPIPS(net)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), first, second)


@pytest.mark.parametrize("net, smallest", [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_too_small_images_are_refused(net, smallest):
    assert trace(net, (3, smallest, 40, 3))[0].shape == (3,)
    message = f"40x{smallest - 1} are too small .* {net}; give {smallest}x{smallest}"
    with pytest.raises(ValueError, match=message):
        trace(net, (3, 40, smallest - 1, 3))


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'vgg19' is unknown; use alex, vgg, squeeze"):
        trace("vgg19", (1, 64, 64, 3))
    with pytest.raises(ValueError, match="'vgg19' is unknown; use alex, vgg, squeeze"):
        lpips.load_lpips("vgg19", tmp_path)
    with pytest.raises(ValueError, match="images of one shape"):
        trace("alex", (1, 64, 64, 3), (2, 64, 64, 3))


def test_files_are_recognised_for_what_they_are(files):
    trunk, heads = files
    whole = {
        name.replace("features.", f"net.slice{depth}."): array
        for depth, number in enumerate(ALEX, 1)
        for name, array in trunk.items()
        if name.startswith(f"features.{number}.")
    }
    whole |= heads | {f"lins.{k[3:]}": v for k, v in heads.items()}
    whole["scaling_layer.shift"] = np.zeros((1, 3, 1, 1))
    names = [
        recognise(tensors, lpips.NETWORKS).name for tensors in (trunk, heads, whole)
    ]
    assert names == ["alexnet_features", "lpips_alex_heads", "lpips_alex"]
    parts = lpips.lpips_params(
        BY_NAME[names[0]].to_params(trunk), BY_NAME[names[1]].to_params(heads)
    )
    jax.tree.map(
        np.testing.assert_array_equal, BY_NAME[names[2]].to_params(whole), parts
    )


def test_parts_of_different_nets_are_refused(params):
    trunk = trace("squeeze", (1, 64, 64, 3))[1]["params"]["trunk"]
    with pytest.raises(WeightsError, match="of LPIPS squeeze, the heads .* of alex"):
        lpips.lpips_params(trunk, params["heads"])
    with pytest.raises(WeightsError, match="of LPIPS alex, the heads .* of nothing"):
        lpips.lpips_params(params["trunk"], {"lin0": np.zeros(3)})


def test_negative_heads_are_refused(files):
    heads = files[1] | {"lin2.model.1.weight": np.full((1, 384, 1, 1), -1.0)}
    with pytest.raises(WeightsError, match="lin2 has negative weights"):
        BY_NAME["lpips_alex_heads"].to_params(heads)


def test_absent_files_are_named(tmp_path):
    for net, file, publisher in (
        ("alex", "alexnet-owt-7be5be79.pth", "torchvision"),
        ("vgg", "vgg16-397923af.pth", "torchvision"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth", "torchvision"),
    ):
        with pytest.raises(WeightsError, match=f"{file} .*{publisher}") as error:
            lpips.load_lpips(net, tmp_path)
        assert error.value.__context__ is None
    (tmp_path / "alexnet_features.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"alex\.pth .*richzhang"):
        lpips.load_lpips("alex", tmp_path)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_published_heads_are_read(weights_dir, net):
    heads = BY_NAME[f"lpips_{net}_heads"]
    path = weights_dir / "lpips_v0.1" / f"{net}.pth"
    assert sha256(path) == heads.published[0].sha256
    found = load_params(heads, path)
    assert len(found) == (7 if net == "squeeze" else 5)
    assert all((weight >= 0).all() and weight.any() for weight in found.values())


def test_published_checksums_are_in_the_names_of_torchvision():
    for name in ("alexnet_features", "vgg16_features", "squeezenet_features"):
        (published,) = BY_NAME[name].published
        assert published.file.endswith(f"-{published.sha256}.pth")
        assert len(published.sha256) == 8 and int(published.sha256, 16)


def test_strided_convolution_is_that_of_flax():
    x = jnp.asarray(RNG.normal(size=(2, 31, 38, 3)), jnp.float32)
    layer = lpips._Conv(4, 11, stride=4, padding=2)
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")

    def theirs(x):
        y = lax.conv_general_dilated(
            x, kernel, (4, 4), ((2, 2),) * 2, dimension_numbers=layout
        )
        return nn.relu(y)

    def ours(x):
        return layer.apply(variables, x)

    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, atol=1e-4)
