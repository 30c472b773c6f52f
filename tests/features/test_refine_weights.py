"""Names of the refinement network's weights, and its output against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.refine_weights import to_params, to_tensors
from jax_vidpred.features.weights import WeightsError
from jax_vidpred.models.refine import Refiner

GROUPS, BLOCKS = 2, 3
NET = Refiner(8, GROUPS, BLOCKS, reduction=4, residual=False)


def tree_of(net):
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image, image)["params"]


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), tree_of(NET)
    )


def test_names_are_those_of_the_checkpoints(params):
    layers = ["head", "tail", f"body.{GROUPS}"]
    for group in range(GROUPS):
        layers.append(f"body.{group}.body.{BLOCKS}")
        for block in range(BLOCKS):
            inside = ("body.0", "body.2", "body.3.conv_du.0", "body.3.conv_du.2")
            layers += [f"body.{group}.body.{block}.{name}" for name in inside]
    names = {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    tensors = to_tensors(params)
    assert set(tensors) == names
    assert tensors["head.weight"].shape == (8, 6, 3, 3)
    assert tensors["tail.weight"].shape == (3, 8, 3, 3)
    assert tensors["body.0.body.0.body.3.conv_du.0.weight"].shape == (2, 8, 1, 1)


def test_there_and_back_is_the_same(params):
    again = to_params(to_tensors(params), tree_of(NET))
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_groups": 3}, "not part of this network"),
        ({"blocks_per_group": 2}, "does not fit|not part of this network"),
        ({"features": 16}, "another size of this network"),
        ({"patch": 2}, "another size of this network"),
    ],
)
def test_another_size_is_refused(params, changes, message):
    with pytest.raises(WeightsError, match=message):
        to_params(to_tensors(params), tree_of(NET.copy(**changes)))


def torch_refiner(torch, features, groups, blocks, reduction):
    """Written from the description of the network, with the names of its parts."""
    nn = torch.nn

    def conv(ins, outs):
        return nn.Conv2d(ins, outs, 3, padding=1)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_du = nn.Sequential(
                nn.Conv2d(features, features // reduction, 1),
                nn.ReLU(),
                nn.Conv2d(features // reduction, features, 1),
                nn.Sigmoid(),
            )

        def forward(self, x):
            return x * self.conv_du(x.mean((2, 3), keepdim=True))

    class Residual(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.body = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.body(x)

    def block():
        first, second = conv(features, features), conv(features, features)
        return Residual(first, nn.ReLU(), second, Attention())

    def group():
        return Residual(*[block() for _ in range(blocks)], conv(features, features))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = conv(6, features)
            inner = [group() for _ in range(groups)]
            self.body = nn.Sequential(*inner, conv(features, features))
            self.tail = conv(features, 3)

        def forward(self, previous, frame):
            y = self.head(torch.cat([previous, frame], 1))
            return self.tail(self.body(y) + y)

    torch.manual_seed(0)
    return Net()


def test_refines_as_torch(torch):
    """At the published size; the error was 8e-7."""
    oracle, net = torch_refiner(torch, 64, 3, 3, 8), Refiner(residual=False)
    state = {name: array.numpy() for name, array in oracle.state_dict().items()}
    params = to_params(state, tree_of(net))
    images = np.random.default_rng(0).random((2, 2, 16, 24, 3), np.float32)
    with torch.no_grad():
        first, second = torch.tensor(2 * np.moveaxis(images, -1, 2) - 1)
        wanted = np.moveaxis(oracle(first, second).numpy(), 1, -1)
    refined = jax.jit(net.apply)({"params": params}, *images)
    assert wanted.std() > 0.02
    np.testing.assert_allclose(2 * refined - 1, wanted, atol=1e-4)
    exported = to_tensors(params)
    assert set(exported) == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(exported[name], array)
