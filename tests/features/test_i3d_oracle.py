"""I3D against an independent torch module with random weights and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features.i3d import I3D, NETWORKS
from jax_vidpred.features.weights import load_params, read_tensors, recognise

(I3D_NETWORK,) = NETWORKS
RUN = jax.jit(lambda params, video: I3D().apply({"params": params}, video))


def video(shape):
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def channels_first(torch, array):
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def assert_same_logits(torch, oracle, params, shape):
    given = video(shape)
    with torch.no_grad():
        wanted = oracle(channels_first(torch, given)).numpy()
    found = np.asarray(RUN(params, given))
    scale = np.abs(wanted - wanted.mean()).max()
    assert scale > 0.1  # the video and the weights matter
    assert np.abs(found - wanted).max() <= 1e-5 * scale
    return wanted


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 16, 64, 64), (1, 19, 45, 70)])
def test_logits_are_those_of_the_torch_module(torch, tmp_path, shape):
    import torch_i3d

    torch.manual_seed(0)
    oracle = torch_i3d.TorchI3D(torch_i3d.Piergiaj)
    torch.save(oracle.state_dict(), tmp_path / "i3d.pt")
    params = load_params(I3D_NETWORK, tmp_path / "i3d.pt")
    logits = assert_same_logits(torch, oracle, params, shape)
    if shape[0] > 1:  # the clips differ, and so do their logits
        assert np.abs(logits[0] - logits[1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # that tracing is deprecated, and fixes shapes
def test_torchscript_archive_with_the_other_names(torch, tmp_path):
    import torch_i3d

    torch.manual_seed(1)
    oracle = torch_i3d.TorchI3D(torch_i3d.Hassony2)
    example = channels_first(torch, video((1, 9, 32, 32)))
    archive = tmp_path / "i3d_torchscript.pt"
    with torch.no_grad():
        torch.jit.trace(oracle, example).save(str(archive))
    assert recognise(read_tensors(archive), NETWORKS) is I3D_NETWORK
    params = load_params(I3D_NETWORK, archive)
    assert_same_logits(torch, oracle, params, (1, 9, 32, 40))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    assert jnp.shape(params["logits"]["kernel"]) == (1024, 400)
