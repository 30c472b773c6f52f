"""RIVER's vector field against the same on torch's own transformer layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.vector_field_weights import to_params, to_tensors
from jax_vidpred.models.river import VectorField

torch = pytest.importorskip("torch")
torch_river = pytest.importorskip("torch_river")

CHANNELS = 4


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def inputs(batch, height, width):
    rng = np.random.default_rng(0)
    shape = (batch, height, width, CHANNELS)
    images = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    distance = rng.integers(1, 15, batch).astype(np.int32)
    return [*images, distance, rng.uniform(size=batch).astype(np.float32)]


def both(net, x):
    """Ours and torch's result, and torch's module, all parameters random."""
    torch.manual_seed(0)
    sizes = net.features, net.num_heads, net.depth, net.mid_depth, net.patch
    theirs = torch_river.VectorField(
        CHANNELS, *sizes, batch_norm=net.last_norm == "frozen"
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name or name.startswith("project_out.2") or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for statistic in theirs.buffers():
            if statistic.ndim:
                statistic.uniform_(0.3, 1.5)
    like = jax.eval_shape(net.init, jax.random.key(0), *x)["params"]
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = jax.tree.map(jnp.asarray, to_params(state, like))
    tensors = [torch.tensor(one).permute(0, 3, 1, 2) for one in x[:3]]
    tensors += [torch.tensor(one) for one in x[3:]]
    return theirs, tensors, params


def assert_same(net, x):
    theirs, tensors, params = both(net, x)
    with torch.no_grad():
        wanted = theirs(*tensors).permute(0, 2, 3, 1).numpy()
    found = jax.jit(lambda p, x: net.apply({"params": p}, *x))(params, x)
    assert found.shape == wanted.shape and np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_same_velocity(patch):
    net = VectorField(
        CHANNELS, features=32, num_heads=4, depth=3, mid_depth=2, patch=patch
    )
    assert_same(net, inputs(3, 4, 6))


def test_same_velocity_where_a_batch_norm_is_last():
    sizes = dict(features=32, num_heads=4, depth=1, mid_depth=1)
    assert_same(VectorField(CHANNELS, **sizes, last_norm="frozen"), inputs(2, 4, 6))


def test_same_gradient():
    net = VectorField(CHANNELS, features=32, num_heads=4, depth=1, mid_depth=1)
    x = inputs(2, 4, 4)
    theirs, tensors, params = both(net, x)
    (theirs(*tensors) ** 2).mean().backward()
    gradient = jax.grad(lambda p: (net.apply({"params": p}, *x) ** 2).mean())
    found = to_tensors(jax.jit(gradient)(params))
    for name, parameter in theirs.named_parameters():
        wanted = parameter.grad.numpy()
        error = np.abs(found[name] - wanted).max()
        # A key's bias moves all logits alike: its gradient is rounding.
        assert error < 1e-4 * np.abs(wanted).max() + 1e-7, (name, error)


@pytest.mark.slow
def test_same_velocity_at_the_published_size():
    assert_same(VectorField(CHANNELS), inputs(1, 16, 16))
