"""LPIPS against the package lpips: random trunks, the heads that it ships."""

import jax
import numpy as np
import pytest

from jax_vidpred.features import lpips as ours
from jax_vidpred.features.weights import load_params, read_tensors, recognise

BY_NAME = {network.name: network for network in ours.NETWORKS}
NETS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}
SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}


def images(size):
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, (2, *size, 3))
    second = np.clip(first + rng.normal(0, 0.3, first.shape), -1, 1)
    return first.astype(np.float32), second.astype(np.float32)


def channels_first(torch, array):
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


@pytest.fixture(scope="module", params=NETS)
def pair(request, torch, tmp_path_factory):
    """(net, the package's module, our parameters from a file of its state dict)."""
    pytest.importorskip("torchvision", reason="needs the extra 'oracle'")
    lpips = pytest.importorskip("lpips", reason="needs the extra 'oracle'")
    torch.manual_seed(0)
    net = request.param
    oracle = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    path = tmp_path_factory.mktemp("lpips") / f"{net}.pth"
    torch.save(oracle.state_dict(), path)
    assert recognise(read_tensors(path), ours.NETWORKS).name == f"lpips_{net}"
    return net, oracle, load_params(BY_NAME[f"lpips_{net}"], path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchvision's, about its arguments
@pytest.mark.parametrize("size", [(64, 64), (75, 91), None])
def test_distances_are_those_of_the_package(torch, pair, size):
    net, oracle, params = pair
    first, second = images(size or (SMALLEST[net],) * 2)
    with torch.no_grad():
        wanted = oracle(*(channels_first(torch, x) for x in (first, second)))
    run = jax.jit(lambda p, *x: ours.LPIPS(net).apply({"params": p}, *x))
    found = run(params, first, second)
    assert wanted.min() > 1e-2
    np.testing.assert_allclose(found, wanted.numpy().ravel(), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gradients_are_those_of_the_package(torch, pair):
    net, oracle, params = pair
    first, second = images((64, 64))
    image = channels_first(torch, first).requires_grad_()
    oracle(image, channels_first(torch, second)).sum().backward()
    wanted = np.moveaxis(image.grad.numpy(), 1, -1)

    def total(first, params):
        return ours.LPIPS(net).apply({"params": params}, first, second).sum()

    found = jax.jit(jax.grad(total))(first, params)
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.filterwarnings("ignore")
def test_trunk_and_heads_from_two_files(torch, pair, tmp_path):
    net, oracle, whole = pair
    state = oracle.state_dict()
    trunk = {
        f"features.{name.split('.', 2)[2]}": tensor
        for name, tensor in state.items()
        if name.startswith("net.slice")
    }
    trunk["classifier.1.weight"] = torch.zeros(4, 4)
    heads = {name: tensor for name, tensor in state.items() if name.startswith("lin")}
    heads = {name: one for name, one in heads.items() if not name.startswith("lins")}
    published = BY_NAME[f"{NETS[net]}_features"].published[0].file
    torch.save(trunk, tmp_path / published)
    torch.save(heads, tmp_path / f"{net}.pth")
    params = ours.load_lpips(net, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_torchvision_names_the_trunk_as_we_read_it(torch):
    # Of the three the one that is small; its classifier is left out on purpose.
    models = pytest.importorskip("torchvision.models")
    state = models.squeezenet1_1(weights=None).state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    network = recognise(tensors, ours.NETWORKS)
    assert network.name == "squeezenet_features"
    kernel = network.to_params(tensors)["features_12"]["expand3x3"]["kernel"]
    wanted = tensors["features.12.expand3x3.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, wanted)


def test_shipped_heads_are_the_published_ones(pair, weights_dir):
    net, _, params = pair
    path = weights_dir / "lpips_v0.1" / f"{net}.pth"
    published = load_params(BY_NAME[f"lpips_{net}_heads"], path)
    jax.tree.map(np.testing.assert_array_equal, params["heads"], published)
