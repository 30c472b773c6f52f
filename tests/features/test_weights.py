"""Weight files: names, layouts, what is missing, what is the wrong network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_writer import Instance, zip_bytes

from jax_vidpred.features import river_weights, weights
from jax_vidpred.features.weights import Network, Published, WeightsError

RNG = np.random.default_rng(0)


class Net(nn.Module):
    """One convolution, one dense layer, one norm: every layout."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 2))(x)
        x = nn.LayerNorm()(x.mean((1, 2)))
        return nn.Dense(7)(x)


TENSORS = {
    "conv.weight": RNG.normal(size=(5, 4, 3, 2)).astype(np.float32),
    "conv.bias": RNG.normal(size=5).astype(np.float32),
    "norm.weight": RNG.normal(size=5).astype(np.float32),
    "norm.bias": RNG.normal(size=5).astype(np.float32),
    "head.weight": RNG.normal(size=(7, 5)).astype(np.float32),
    "head.bias": RNG.normal(size=7).astype(np.float32),
}
PATHS = {
    "conv.weight": "Conv_0/kernel",
    "conv.bias": "Conv_0/bias",
    "norm.weight": "LayerNorm_0/scale",
    "norm.bias": "LayerNorm_0/bias",
    "head.weight": "Dense_0/kernel",
    "head.bias": "Dense_0/bias",
}


def to_params(tensors):
    like = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    return weights.to_tree(tensors, lambda n: PATHS.get(n, n), like["params"])


NET = Network(
    name="net",
    title="Net (Nobody 2026)",
    published=(
        Published("net.pth", "00", "the net's own site", "MIT"),
        Published("net-large.pth", "", "elsewhere", "MIT"),
    ),
    marks=({"conv.weight": (5, None, 3, 2)}, {"kernel": (5,)}),
    to_params=to_params,
)


@pytest.fixture
def save(tmp_path):
    def write(value, name="net.pt"):
        (tmp_path / name).write_bytes(zip_bytes(value))
        return tmp_path / name

    return write


def test_layouts():
    params = to_params(TENSORS)
    kernel = params["Conv_0"]["kernel"]
    assert kernel.shape == (3, 2, 4, 5)
    assert kernel[2, 1, 3, 4] == TENSORS["conv.weight"][4, 3, 2, 1]
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], TENSORS["head.weight"].T)
    np.testing.assert_array_equal(
        params["LayerNorm_0"]["scale"], TENSORS["norm.weight"]
    )


def test_axes_of_length_one_do_not_matter():
    # A token that torch keeps as [1, 1, 5] may be [5] here, but not the other way
    # round with another length.
    tensors = {**TENSORS, "conv.bias": TENSORS["conv.bias"].reshape(1, 1, 5)}
    assert to_params(tensors)["Conv_0"]["bias"].shape == (5,)
    tensors["conv.bias"] = np.zeros((1, 6), np.float32)
    with pytest.raises(WeightsError, match=r"conv.bias has shape \(1, 6\)"):
        to_params(tensors)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"extra.weight": np.zeros(3)}, "extra.weight is not part"),
        ({"conv.weight": np.zeros((5, 4, 2, 3))}, "conv.weight has shape"),
        ({"conv.weight": np.zeros((6, 4, 3, 2))}, "conv.weight has shape"),
        ({"Conv_0/bias": np.zeros(5)}, "twice"),
        ({"head.bias": None}, "1 of 6 parameters are missing .Dense_0/bias"),
    ],
)
def test_another_network_is_refused(change, reason):
    tensors = {k: v for k, v in {**TENSORS, **change}.items() if v is not None}
    with pytest.raises(WeightsError, match=reason):
        to_params(tensors)


def test_fold_batch_norm_by_hand():
    tensors = {
        "c.weight": np.array([[[[2.0]]], [[[4.0]]]]),
        "n.weight": np.array([3.0, 1.0]),
        "n.bias": np.array([0.5, 0.0]),
        "n.running_mean": np.array([1.0, 2.0]),
        "n.running_var": np.array([3.75, 0.75]),
    }
    # s = 3 / 2 and 1 / 1: kernels 3 and 4; biases 0.5 - 1.5 and 0 - 2
    folded = weights.fold_batch_norm(tensors, "c", "n", 0.25)
    np.testing.assert_allclose(folded["c.weight"].ravel(), [3, 4])
    np.testing.assert_allclose(folded["c.bias"], [-1, -2])
    folded = weights.fold_batch_norm({**tensors, "c.bias": np.ones(2)}, "c", "n", 0.25)
    np.testing.assert_allclose(folded["c.bias"], [0.5, -1])
    del tensors["n.running_var"]
    with pytest.raises(WeightsError, match="n.running_var is missing"):
        weights.fold_batch_norm(tensors, "c", "n", 0.25)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"model": t, "optimizer": {"state": {0: {"step": t["conv.bias"]}}}},
        lambda t: {"weights_of_ours": t},
        lambda t: {f"module.{k}": v for k, v in t.items()},
        lambda t: {f"_orig_mod.module.{k}": v for k, v in t.items()},
        lambda t: {k.replace(".", "._orig_mod."): v for k, v in t.items()},
        lambda t: {k: v.astype(np.float16) for k, v in t.items()},
        lambda t: {k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()},
    ],
)
def test_wrappings_are_taken_off(save, wrap):
    again = weights.read_tensors(save(wrap(TENSORS)))
    assert list(again) == list(TENSORS)
    for name, array in again.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, TENSORS[name], rtol=1e-2)


def test_script_archive(save):
    conv = Instance("__torch__.n", "Conv", weight=TENSORS["conv.weight"], training=True)
    path = save(Instance("__torch__.n", "Net", net=conv))
    assert list(weights.read_tensors(path)) == ["net.weight"]


def test_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    assert set(weights.read_tensors(path)) == set(TENSORS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="net.safetensors"):
        weights.read_tensors(path)


def test_checkpoint_of_several_networks(save):
    path = save({"flow": TENSORS, "vae": {"a.weight": np.ones(3, np.float32)}})
    sections = weights.read_sections(path)
    assert list(sections) == ["flow", "vae"] and list(sections["vae"]) == ["a.weight"]
    with pytest.raises(WeightsError, match="several networks .flow, vae"):
        weights.read_tensors(path)


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], {"a": {"b": {"c": 1}}}])
def test_a_file_without_tensors_is_refused(save, value):
    with pytest.raises(WeightsError, match="no tensors"):
        weights.read_tensors(save(value))


def test_script_archive_without_tensors_is_refused(save):
    with pytest.raises(WeightsError, match="no tensors"):
        weights.read_tensors(save(Instance("__torch__", "Net", training=True)))


def test_marks():
    assert weights.recognise(TENSORS, [NET]) is NET
    assert weights.recognise({"kernel": np.zeros(5)}, [NET]) is NET
    assert weights.recognise({"kernel": np.zeros(6)}, [NET]) is None
    assert weights.recognise({"kernel": np.zeros((5, 1))}, [NET]) is None


def test_a_converted_file_loads_as_the_published_one(save, tmp_path):
    params = weights.load_params(NET, save(TENSORS))
    converted = tmp_path / "net.safetensors"
    converted.write_bytes(weights.to_safetensors(NET, params, licence="MIT"))
    jax.tree.map(
        np.testing.assert_array_equal, weights.load_params(NET, converted), params
    )
    assert weights.read_header(converted)["licence"] == "MIT"
    other = Network("other", "Other", (), (), to_params)
    with pytest.raises(WeightsError, match="weights of net; wanted other"):
        weights.load_params(other, converted)


def test_load_names_file_and_reason(save, tmp_path):
    with pytest.raises(WeightsError, match="absent.pth: no such file"):
        weights.load_params(NET, tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="not Net .*net.pth .the net's own site"):
        weights.load_params(NET, save({"a": np.zeros(3)}))
    with pytest.raises(WeightsError, match=r"net.pt: extra is not part"):
        weights.load_params(NET, save({**TENSORS, "extra": np.zeros(3)}))


def test_find_file(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_VIDPRED_WEIGHTS", raising=False)
    wanted = r"net.pth \(the net's own site\) is wanted"
    with pytest.raises(WeightsError, match=f"{wanted}.*is not set"):
        weights.find_file(NET)
    monkeypatch.setenv("JAX_VIDPRED_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=f"{wanted}.*not in"):
        weights.find_file(NET)
    for name in ["net-large.pth", "net.pth", "net.safetensors"]:
        (tmp_path / name).touch()
        assert weights.find_file(NET).name == name


class TestRiver:
    """Names as the published checkpoints have them; the sizes are the real ones."""

    TENSORS = {
        "module.ae.backbone.vector_quantizer.embedding.weight": (8192, 4),
        "module.vector_field_regressor.position_encoding.row_embed.weight": (512, 384),
    }

    def test_recognised_and_counted(self):
        tensors = {n: np.zeros(s, np.float32) for n, s in self.TENSORS.items()}
        tensors["module.norm.num_batches_tracked"] = np.array(3)
        tensors["module.norm.running_mean"] = np.zeros(7, np.float32)
        rest = 105_414_571 - 8192 * 4 - 512 * 384
        tensors["module.rest"] = np.broadcast_to(np.float32(0), (rest,))
        read = {k.removeprefix("module."): v for k, v in tensors.items()}
        network = weights.recognise(read, river_weights.NETWORKS)
        assert network.name == "river_model"
        kept = network.to_params(read)
        assert set(kept) == set(read) - {"norm.num_batches_tracked"}
        read["rest"] = read["rest"][1:]
        with pytest.raises(WeightsError, match="105414570 parameters"):
            network.to_params(read)
