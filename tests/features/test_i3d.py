"""I3D without torch: convolutions and pools, shapes, names in files, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_vidpred.features import i3d
from jax_vidpred.features.weights import WeightsError, recognise

(NETWORK,) = i3d.NETWORKS
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "sizes, kernel, stride",
    [((5, 6, 7), 3, 1), ((9, 14, 13), 7, 2), ((4, 5, 6), 1, 1), ((6, 5, 8), 2, 2)],
)
def test_conv3d_is_the_convolution_with_same_padding(
    monkeypatch, backend, sizes, kernel, stride
):
    x, weights = normal(2, *sizes, 3), normal(kernel, kernel, kernel, 3, 4)
    wanted = lax.conv_general_dilated(
        *(x, weights, (stride,) * 3, "SAME"),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = i3d.conv3d(jnp.asarray(x), jnp.asarray(weights), stride)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def logits_shape(*shape):
    video = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(i3d.I3D().init_with_output, key, video)[0].shape


@pytest.mark.parametrize("shape", [(2, 16, 224, 224), (1, 9, 33, 47), (1, 40, 64, 64)])
def test_any_size_gives_400_logits(shape):
    assert logits_shape(*shape) == (shape[0], 400)


def test_few_frames_are_refused():
    with pytest.raises(ValueError, match="wants 9 frames or more, 8 were given"):
        logits_shape(1, 8, 64, 64)


# Inputs and widths of the Inception modules, and the units in them under both schemes
# of names: (piergiaj, hassony2, index of the inputs or -1 for the module's, of the
# outputs, size).
WIDTHS = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
INSIDE = (
    ("b0", "branch_0", 0, 1, 1),
    ("b1a", "branch_1.0", 0, 2, 1),
    ("b1b", "branch_1.1", 2, 3, 3),
    ("b2a", "branch_2.0", 0, 4, 1),
    ("b2b", "branch_2.1", 4, 5, 3),
    ("b3b", "branch_3.1", 0, 6, 1),
)


@pytest.fixture(scope="module")
def files():
    """The same random weights as tensors with piergiaj's and with hassony2's names."""
    units = [
        ("Conv3d_1a_7x7", "conv3d_1a_7x7", 3, 64, 7),
        ("Conv3d_2b_1x1", "conv3d_2b_1x1", 64, 64, 1),
        ("Conv3d_2c_3x3", "conv3d_2c_3x3", 64, 192, 3),
    ]
    for name, widths in WIDTHS.items():
        for first, second, source, target, size in INSIDE:
            names = f"Mixed_{name}.{first}", f"mixed_{name}.{second}"
            units.append((*names, widths[source], widths[target], size))
    piergiaj, hassony2 = {}, {}
    for first, second, inputs, outputs, size in units:
        parts = {
            "weight": 1 + 0.1 * normal(outputs),
            "bias": normal(outputs),
            "running_mean": normal(outputs),
            "running_var": np.square(normal(outputs)),
            "num_batches_tracked": np.array(7),
        }
        kernel = normal(outputs, inputs, size, size, size)
        piergiaj[f"{first}.conv3d.weight"] = hassony2[f"{second}.conv3d.weight"] = (
            kernel
        )
        piergiaj |= {f"{first}.bn.{part}": array for part, array in parts.items()}
        hassony2 |= {f"{second}.batch3d.{part}": array for part, array in parts.items()}
    for part, array in (("weight", normal(400, 1024, 1, 1, 1)), ("bias", normal(400))):
        piergiaj[f"logits.conv3d.{part}"] = array
        hassony2[f"conv3d_0c_1x1.conv3d.{part}"] = array
    return piergiaj, hassony2


def test_both_schemes_of_names_give_one_tree(files):
    assert [recognise(tensors, i3d.NETWORKS) for tensors in files] == [NETWORK] * 2
    first, second = (NETWORK.to_params(tensors) for tensors in files)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert len(jax.tree.leaves(first)) == 2 * 58


def test_batch_norm_is_folded_into_the_convolution(files):
    tensors, _ = files
    params = NETWORK.to_params(tensors)["Mixed_4c"]["b2b"]
    unit = "Mixed_4c.b2b"
    outputs = tensors[f"{unit}.conv3d.weight"].shape[0]
    x = normal(24, 3, 3, 3)  # one window
    before = np.einsum("icdf,oicdf->o", x, tensors[f"{unit}.conv3d.weight"])
    gamma, beta, mean, variance = (
        tensors[f"{unit}.bn.{part}"]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    wanted = gamma * (before - mean) / np.sqrt(variance + 1e-3) + beta
    window = x.transpose(1, 2, 3, 0)
    found = np.einsum("cdfi,cdfio->o", window, params["kernel"]) + params["bias"]
    assert found.shape == (outputs,)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_scale_of_batch_norm_may_be_absent(files):
    # TensorFlow's network has none; a port may leave out what is one everywhere.
    ones = {
        name: np.ones_like(array) if name.endswith("bn.weight") else array
        for name, array in files[0].items()
    }
    without = {name: a for name, a in ones.items() if not name.endswith("bn.weight")}
    first, second = NETWORK.to_params(ones), NETWORK.to_params(without)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_other_names_are_refused_and_listed(files):
    strange = files[1] | {f"layer{i}.conv.weight": normal(2) for i in range(5)}
    with pytest.raises(WeightsError, match="5 of 349 .* layer0.conv.weight, ") as error:
        NETWORK.to_params(strange)
    assert "layer3" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["Mixed_5b.b2a.conv3d.weight", "Mixed_3c.b0.bn.running_var", "logits.conv3d.bias"],
)
def test_what_is_missing_is_named(files, name):
    less = {key: array for key, array in files[0].items() if key != name}
    with pytest.raises(WeightsError, match="missing"):
        NETWORK.to_params(less)


def test_a_network_of_600_classes_is_not_this_one(files):
    other = files[0] | {"logits.conv3d.weight": np.zeros((600, 1024, 1, 1, 1))}
    assert recognise(other, i3d.NETWORKS) is None
