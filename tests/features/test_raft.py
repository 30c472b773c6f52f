"""RAFT: look-ups, sizes, upsampling, import of weights; real weights where there are.

The comparison with torchvision and with annotated videos is in test_raft_oracle.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jax_vidpred.features import raft
from jax_vidpred.features.raft import RAFT
from jax_vidpred.features.raft_weights import NETWORKS, parameter_shapes
from jax_vidpred.features.weights import (
    WeightsError,
    flatten,
    load_params,
    recognise,
)

KEY = jax.random.key(0, impl="rbg")  # initialisers compile five times faster
# The large one as published has 2,880 more: scale and shift of its batch norms.
NUM_PARAMETERS = {"small": 990_162, "large": 5_257_536 - 2_880}


def flow_shape(variant, *shapes):
    net = RAFT(variant)
    images = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    flow, variables = jax.eval_shape(net.init_with_output, KEY, *images)
    return flow.shape, variables["params"]


@pytest.mark.parametrize("variant", ["small", "large"])
def test_flow_has_the_size_of_the_frames(variant):
    for size in ((128, 128), (131, 150)):
        shape, params = flow_shape(variant, (2, *size, 3), (2, *size, 3))
        assert shape == (2, *size, 2)
    leaves = jax.tree.leaves(params)
    assert sum(leaf.size for leaf in leaves) == NUM_PARAMETERS[variant]


def test_errors_are_one_line():
    for arguments, message in (
        (("small", (1, 128, 120, 3), (1, 128, 120, 3)), "128x120 pixels: .* 128x128"),
        (("small", (1, 128, 136, 3), (1, 136, 128, 3)), "wants the same size"),
        (("tiny", (1, 128, 128, 3), (1, 128, 128, 3)), "'tiny': use small or large"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            flow_shape(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="video of 1 frames: flow wants at least 2"):
        video = jnp.zeros((1, 128, 128, 3))
        jax.eval_shape(lambda: RAFT().init(KEY, video, method="bidirectional"))


@pytest.fixture(scope="module")
def correlations():
    """Features, places to look at (many outside), and samples by SciPy."""
    rng = np.random.default_rng(0)
    b, h, w, d, radius = 2, 17, 22, 6, 3
    first, second = rng.normal(size=(2, b, h, w, d)).astype(np.float32)
    centre = rng.uniform(-6, 28, (b, h, w, 2)).astype(np.float32)
    volume = np.einsum("byxd,bijd->byxij", first, second) / np.sqrt(d)
    offsets = np.arange(-radius, radius + 1)
    expected = []
    for level in range(4):
        dx, dy = np.meshgrid(offsets, offsets, indexing="ij")  # x is the slow one
        x = centre[..., 0, None] / 2**level + dx.ravel()
        y = centre[..., 1, None] / 2**level + dy.ravel()
        samples = np.zeros(x.shape)
        for cell in np.ndindex(b, h, w):
            samples[cell] = map_coordinates(
                volume[cell], [y[cell], x[cell]], order=1, mode="grid-constant"
            )
        expected.append(samples)
        rows, columns = (n // 2 for n in volume.shape[3:])
        volume = volume[..., : 2 * rows, : 2 * columns]
        volume = volume.reshape(b, h, w, rows, 2, columns, 2).mean((4, 6))
    return first, second, centre, np.concatenate(expected, -1)


@pytest.mark.parametrize("correlate", [raft._all_pairs, raft._on_demand])
def test_look_up_samples_the_averaged_volume(correlations, correlate):
    first, second, centre, expected = correlations

    @jax.jit
    def look_up(first, second, centre):
        return correlate(first, raft._pyramid(second), 3)(centre)

    found = look_up(first, second, centre)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.mean(expected == 0) > 0.2  # outside


@pytest.mark.slow
def test_large_frames_take_no_memory_for_all_pairs():
    net = RAFT()
    image = jax.ShapeDtypeStruct((1, 720, 1280, 3), jnp.float32)
    variables = jax.eval_shape(net.init, KEY, image, image)
    cells = 90 * 160
    volume = 4 * cells * (cells + 45 * 80 + 22 * 40 + 11 * 20)
    assert volume > net.max_volume_bytes  # so the default decides for the look-up

    def memory(net):
        program = jax.jit(net.apply).lower(variables, image, image).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(net) < volume / 3
    assert memory(RAFT(max_volume_bytes=volume)) > volume


def test_upsampling_keeps_what_is_linear():
    y, x = np.mgrid[:4, :6].astype(np.float32)
    flow = np.stack([2 * x - y, 3 * y], -1)[None]
    up = np.asarray(raft._upsample_bilinear(flow))
    y, x = np.mgrid[:32, :48]
    x, y = x * 5 / 47, y * 3 / 31  # corners lie on corners
    np.testing.assert_allclose(up[0, ..., 0], 8 * (2 * x - y), atol=1e-4)
    np.testing.assert_allclose(up[0, ..., 1], 8 * 3 * y, atol=1e-4)


def test_convex_upsampling_chooses_among_the_neighbours():
    flow = np.random.default_rng(0).normal(size=(1, 4, 6, 2)).astype(np.float32)
    mask = parameter_shapes("large")["mask"]
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), mask)
    # All pixels look at the cell below, but pixel (3, 5) of a cell at its right one.
    bias = np.zeros((9, 8, 8), np.float32)
    bias[7] = 400
    bias[7, 3, 5], bias[5, 3, 5] = 0, 400
    weights["conv2"]["bias"] = bias.ravel()
    hidden = jnp.zeros((1, 4, 6, 128))
    upsample = jax.jit(raft._upsample_convex)
    up = np.asarray(upsample(flow, hidden, weights))
    padded = np.pad(8 * flow[0], ((0, 1), (0, 1), (0, 0)))
    expected = np.repeat(np.repeat(padded[1:, :-1], 8, 0), 8, 1)
    expected[3::8, 5::8] = padded[:-1, 1:]
    np.testing.assert_allclose(up[0], expected, atol=1e-5)
    weights["conv2"]["bias"] = 0 * bias.ravel()  # then the mean, borders being zero
    up = upsample(flow, hidden, weights)
    mean = 8 * flow[0, :3, 1:4].mean((0, 1))
    np.testing.assert_allclose(up[0, 8:16, 16:24], np.tile(mean, (8, 8, 1)), atol=1e-5)


@pytest.mark.slow
def test_video_is_its_pairs():
    net = RAFT()
    video = jax.random.uniform(KEY, (4, 131, 136, 3), minval=-1)
    variables = jax.jit(net.init)(KEY, video[:1], video[:1])
    # Random weights: the flow leaves the picture within a few updates.
    both = jax.jit(lambda v, x: net.apply(v, x, 2, 3, method="bidirectional"))
    forward, backward = both(variables, video)
    pairs = jax.jit(lambda v, x, y: net.apply(v, x, y, 2))
    assert np.abs(forward).max() > 1
    expected = pairs(variables, video[:-1], video[1:])
    np.testing.assert_allclose(forward, expected, atol=1e-3)
    expected = pairs(variables, video[1:], video[:-1])
    np.testing.assert_allclose(backward, expected, atol=1e-3)


def princeton(path, variant):
    """The name in princeton-vl's files of a convolution in the tree."""
    part, name = path
    if part == "mask":
        return "update_block.mask." + {"conv1": "0", "conv2": "2"}[name]
    if part != "update":
        start = {"feature_encoder": "fnet", "context_encoder": "cnet"}[part]
        name = name.replace("downsample", "downsample.0").replace("_", ".")
        return f"{start}.{name}"
    if name.startswith("gru"):
        number = name[3] if variant == "large" else ""
        return f"update_block.gru.conv{name[-1]}{number}"
    if name.startswith("head"):
        return f"update_block.flow_head.conv{name[-1]}"
    name = "" if name == "motion" else f"{name[0]}{name[-1]}"
    return f"update_block.encoder.conv{name}"


@pytest.fixture
def file(request):
    """Random parameters of a variant, and tensors by their names in a file of it."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        parameter_shapes(request.param),
    )
    tensors = {}
    for part, convolutions in params.items():
        for name, leaves in convolutions.items():
            start = princeton((part, name), request.param)
            tensors[f"{start}.weight"] = leaves["kernel"].transpose(3, 2, 0, 1)
            tensors[f"{start}.bias"] = leaves["bias"]
    return params, tensors


@pytest.mark.parametrize("file", ["small"], indirect=True)
def test_princeton_names_of_the_small_one(file):
    params, tensors = file
    assert recognise(tensors, NETWORKS) is NETWORKS[0]
    found = NETWORKS[0].to_params(tensors)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    for change, message in (
        ({"fnet.conv9.weight": np.zeros(3)}, "fnet.conv9.weight is not part"),
        ({"cnet.layer1.0.conv1.bias": np.zeros(9)}, "cnet.layer1.0.conv1.bias has sha"),
    ):
        with pytest.raises(WeightsError, match=message):
            NETWORKS[0].to_params(tensors | change)
    del tensors["cnet.conv2.bias"]
    with pytest.raises(WeightsError, match="1 of 106 parameters are missing"):
        NETWORKS[0].to_params(tensors)


@pytest.mark.parametrize("file", ["large"], indirect=True)
def test_princeton_names_of_the_large_one_and_its_batch_norm(file):
    params, tensors = file
    assert recognise(tensors, NETWORKS) is NETWORKS[1]
    # The norms give twice what the convolution gives, plus one.
    statistics = {"running_mean": -0.25, "running_var": 1 - 1e-5, "weight": 2.0}
    statistics |= {"bias": 0.5, "num_batches_tracked": 7.0}
    for name, leaves in params["context_encoder"].items():
        if name == "conv2":
            continue
        norms = [princeton(("context_encoder", name), "large").replace("conv", "norm")]
        if name.endswith("downsample"):
            start = norms[0].removesuffix("downsample.0")
            norms = [f"{start}downsample.1", f"{start}norm3"]  # there twice
        for norm in norms:
            for leaf, value in statistics.items():
                tensors[f"{norm}.{leaf}"] = np.full(leaves["bias"].shape, value)
        leaves["kernel"], leaves["bias"] = 2 * leaves["kernel"], 2 * leaves["bias"] + 1
    found = flatten(NETWORKS[1].to_params(tensors))
    assert found.keys() == flatten(params).keys()
    for path, array in flatten(params).items():
        np.testing.assert_allclose(found[path], array, rtol=1e-5, atol=1e-6)
    del tensors["cnet.layer2.0.downsample.1.running_var"]
    with pytest.raises(WeightsError, match="downsample.1.running_var is missing"):
        NETWORKS[1].to_params(tensors)


@pytest.fixture(scope="module")
def real(weights_dir):
    """Parameters of the published small net, two frames and the flow on cells."""
    params = load_params(NETWORKS[0], weights_dir / "raft-small.pth")
    check = np.load(weights_dir / "raft_small_check_video_10000_f20_f21.npz")
    frames = np.stack([check["frame0"], check["frame1"]]).astype(np.float32)
    return params, 2 * (frames / 255) - 1, check["flow_low"].transpose(1, 2, 0)


@pytest.mark.slow
def test_published_weights_give_the_recorded_flow(real):
    params, frames, expected = real

    def cells(net):
        features = net.features(frames)
        return net.match_cells(features[:1], net.context(frames[:1]), features[1:], 12)

    flow, _ = jax.jit(lambda p: RAFT().apply({"params": p}, method=cells))(params)
    # The largest flow is 0.93 cells; the error was 1.3e-5.
    np.testing.assert_allclose(flow[0], expected, atol=1e-4)


@pytest.mark.slow
def test_published_weights_see_a_shift_in_its_direction(real):
    params, frames, _ = real
    earlier = frames[:1, 20:300, 20:460]
    later = frames[:1, 17:297, 25:465]  # content moves 5 to the left and 3 down
    flow = jax.jit(RAFT().apply)({"params": params}, earlier, later)
    inner = np.asarray(flow)[0, 20:-20, 20:-20]
    error = np.linalg.norm(inner - [-5, 3], axis=-1)
    assert np.median(error) < 0.3
