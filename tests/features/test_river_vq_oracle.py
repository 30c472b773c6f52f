"""RIVER's autoencoders against independent torch modules with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.river_weights import vq_params, vq_tensors
from jax_vidpred.models.vq import VQ

NUM_CODES = 64


def oracle_of(torch, preset, features):
    import torch_river_vq

    torch.manual_seed(0)
    if preset == "river":
        return torch_river_vq.RiverVQ(features, NUM_CODES)
    return torch_river_vq.VQGAN(preset, features, NUM_CODES)


def imported(oracle, net):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    like = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
    state = {name: array.numpy() for name, array in oracle.state_dict().items()}
    return vq_params(state, like)


def channels_first(torch, array):
    return torch.tensor(np.moveaxis(np.asarray(array), -1, 1))


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


# At the published widths the errors were 4e-6 of latents and 1e-5 of images, 4e-5 of
# RIVER's own net.
@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, features", [("river", 32), ("f8", 16), ("f8_small", 16), ("f16", 16)]
)
def test_encodes_quantises_and_decodes_as_torch(torch, preset, features):
    import torch_river_vq

    oracle = oracle_of(torch, preset, features)
    net = VQ(preset, num_codes=NUM_CODES, features=features)
    params = imported(oracle, net)
    size = (32, 64)  # the attention sees 4x8 places and more, or 2x4 of f16
    image = np.random.default_rng(0).random((2, *size, 3), np.float32)

    @jax.jit
    def run(params, image, latent):
        """Of a latent that is given, so that no rounding can choose another code."""
        own = net.apply({"params": params}, image, method="encode")
        code, index = net.apply({"params": params}, latent, method="quantize")
        again = net.apply({"params": params}, code, method="decode")
        return own, index, again

    with torch.no_grad():
        z = oracle.encode(channels_first(torch, 2 * image - 1))
        wanted_index = torch_river_vq.nearest(z, oracle.codes)
        code = oracle.codes[wanted_index].permute(0, 3, 1, 2)
        wanted = channels_last(oracle.decode(code))
    latent, index, again = run(params, image, channels_last(z))
    assert len(np.unique(index)) > 4  # the image and the weights matter
    np.testing.assert_allclose(latent, channels_last(z), atol=1e-4)
    np.testing.assert_array_equal(index, wanted_index)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(2 * again - 1, wanted, atol=1e-4)


@pytest.mark.parametrize("preset", ["river", "f8_small"])
def test_torch_loads_what_is_exported(torch, preset):
    oracle = oracle_of(torch, preset, 16)
    params = imported(oracle, VQ(preset, num_codes=NUM_CODES, features=16))
    exported = {name: torch.tensor(a) for name, a in vq_tensors(params).items()}
    before = {name: tensor.clone() for name, tensor in oracle.state_dict().items()}
    for tensor in oracle.state_dict().values():
        tensor.zero_()
    missing, unknown = oracle.load_state_dict(exported, strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in missing)
    after = oracle.state_dict()
    for name in exported:
        assert torch.equal(after[name], before[name]), name
