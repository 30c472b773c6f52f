"""Vision transformers against the models of `transformers`, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import vit, vit_weights
from jax_vidpred.features.vit import (
    VisionTransformer,
    dinov2_features,
    image_embedding,
)
from jax_vidpred.features.weights import flatten, read_tensors
from jax_vidpred.losses.perceptual import perceptual_l1

SIZES = {"width": 32, "depth": 3, "heads": 2}
TINY = {
    "dinov2": VisionTransformer("dinov2", patch=14, grid=5, **SIZES),
    "registers": VisionTransformer("dinov2", patch=14, grid=5, registers=4, **SIZES),
    "dino": VisionTransformer("dino", patch=16, grid=4, **SIZES),
    "clip": VisionTransformer(
        "clip", patch=8, grid=4, projection=12, epsilon=1e-5, **SIZES
    ),
}
CLASSES = {
    "dinov2": ("Dinov2Model", "Dinov2Config"),
    "registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
    "dino": ("ViTModel", "ViTConfig"),
    "clip": ("CLIPModel", "CLIPConfig"),
}


@pytest.fixture(scope="module")
def oracle(torch):
    """Builds the transformers model of a network of ours, all parameters random."""
    transformers = pytest.importorskip("transformers")

    def build(net, **changes):
        kind = "registers" if net.registers else net.family
        model, config = (getattr(transformers, name) for name in CLASSES[kind])
        options = {
            "hidden_size": net.width,
            "num_hidden_layers": net.depth,
            "num_attention_heads": net.heads,
            "image_size": net.grid * net.patch,
            "patch_size": net.patch,
            "layer_norm_eps": 1e-5 if net.family == "clip" else 1e-6,
        }
        if net.family != "dinov2":
            options["intermediate_size"] = 4 * net.width
        if net.registers:
            options["num_register_tokens"] = net.registers
        if net.family == "clip":
            text = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50}
            text |= {"num_attention_heads": 2, "intermediate_size": 16}
            options = {
                "projection_dim": net.projection,
                "vision_config": options,
                "text_config": text,
            }
        torch.manual_seed(0)
        model = model(config(**options)).eval()
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                one = "lambda" in name or "norm" in name
                # Small at the entrance: the first norm's epsilon counts.
                size = 1e-3 if "embeddings" in name else 0.1
                parameter.normal_(float(one), size * (3 if parameter.ndim < 2 else 1))
        return model

    return build


def saved(model, folder):
    """The tensors of a model as its publishers name them."""
    model.save_pretrained(folder)
    return read_tensors(folder / "model.safetensors")


def as_arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(found, wanted):
    found, wanted = flatten(found), flatten(wanted)
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def images(net, rows, columns, batch=2):
    shape = (batch, rows * net.patch, columns * net.patch, 3)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def to_torch(torch, x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def run(net, params, x, **options):
    return jax.jit(lambda p, x: net.apply({"params": p}, x, **options))(params, x)


def assert_close(found, wanted, limit=1e-5):
    wanted = wanted.detach().numpy()
    error = np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()
    assert found.shape == wanted.shape and error < limit, error


@pytest.mark.parametrize("grid", [(5, 5), (3, 7)], ids=["native", "resized"])
@pytest.mark.parametrize("name", ["dinov2", "registers", "dino"])
def test_same_as_transformers(torch, oracle, tmp_path, name, grid):
    net = TINY[name]
    model = oracle(net)
    grid = (net.grid, net.grid) if grid == (5, 5) else grid
    params = vit_weights.to_params(net, saved(model, tmp_path))
    x = images(net, *grid)
    options = {"interpolate_pos_encoding": True} if name == "dino" else {}
    with torch.no_grad():
        wanted = model(to_torch(torch, x), output_hidden_states=True, **options)
        normed = model.layernorm(wanted.hidden_states[-2])
    first = 1 + net.registers
    found = run(net, params, x, layers=(-2, -1, 0))
    assert_close(found.cls, wanted.last_hidden_state[:, 0])
    assert_close(found.tokens, wanted.last_hidden_state[:, first:])
    assert_close(found.layers[0], normed[:, first:])
    assert_close(found.layers[1], wanted.last_hidden_state[:, first:])
    found = run(net, params, x, layers=(-2, 0), normed=False)
    assert_close(found.layers[0], wanted.hidden_states[-2][:, first:])
    assert_close(found.layers[1], wanted.hidden_states[1][:, first:])


@pytest.mark.parametrize("grid", [(4, 4), (3, 6)], ids=["native", "resized"])
def test_clip_is_the_same_as_in_transformers(torch, oracle, tmp_path, grid):
    net = TINY["clip"]
    model = oracle(net)
    params = vit_weights.to_params(net, saved(model, tmp_path))
    x = images(net, *grid)
    tower = model.vision_model
    with torch.no_grad():
        wanted = tower(
            to_torch(torch, x),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
        projected = model.visual_projection(wanted.pooler_output)
        tokens = tower.post_layernorm(wanted.last_hidden_state[:, 1:])
    found = run(net, params, x, layers=(1, -1), normed=False)
    assert_close(found.cls, projected)
    assert_close(found.tokens, tokens)
    assert_close(found.layers[0], wanted.hidden_states[2][:, 1:])
    assert_close(found.layers[1], wanted.last_hidden_state[:, 1:])


@pytest.mark.parametrize("side", [224, (98, 140)], ids=["224", "98x140"])
def test_dinov2_small_at_full_size(torch, oracle, tmp_path, side):
    """The published configuration: 37x37 places, resized."""
    preset = "dinov2_vits14"
    net = vit.vision_transformer(preset)
    model = oracle(net)
    tensors = saved(model, tmp_path)
    network = next(one for one in vit_weights.NETWORKS if one.name == preset)
    params = network.to_params(tensors)
    h, w = side if isinstance(side, tuple) else (side, side)
    x = images(net, h // 14, w // 14, batch=1)
    with torch.no_grad():
        wanted = model(to_torch(torch, x)).last_hidden_state
    found = run(net, params, x)
    assert_close(found.cls, wanted[:, 0])
    assert_close(found.tokens, wanted[:, 1:])


@pytest.mark.parametrize("name", list(TINY))
def test_names_that_transformers_5_gives_in_memory(oracle, tmp_path, name):
    net = TINY[name]
    model = oracle(net)
    wanted = vit_weights.to_params(net, saved(model, tmp_path))
    assert_same(vit_weights.to_params(net, as_arrays(model)), wanted)
    if name == "clip":
        tower = vit_weights.to_params(net, as_arrays(model.vision_model))
        assert_same(tower | {"projection": wanted["projection"]}, wanted)


def test_archive_like_that_of_the_authors_of_clip(torch, oracle, tmp_path):
    """TorchScript, half precision, text tower and sizes beside the image tower."""
    net = TINY["clip"]
    model = oracle(net)
    wanted = vit_weights.to_params(net, saved(model, tmp_path))

    def module(parameters):
        made = torch.nn.Module()
        made.forward = lambda x: x
        inner = {}
        for name, value in parameters.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                made.register_parameter(first, torch.nn.Parameter(value.half()))
            else:
                made.register_buffer(first, value)
        for name, parameters in inner.items():
            made.add_module(name, module(parameters))
        return made

    layers = [layer.state_dict() for layer in model.vision_model.encoder.layers]
    tower = dict(model.vision_model.state_dict())
    tensors = {
        "input_resolution": torch.tensor(32),
        "logit_scale": torch.ones([]),
        "positional_embedding": torch.ones(4, 16),
        "transformer.resblocks.0.attn.in_proj_weight": torch.ones(48, 16),
        "visual.proj": model.visual_projection.weight.T,
        "visual.conv1.weight": tower["embeddings.patch_embedding.weight"],
        "visual.class_embedding": tower["embeddings.class_embedding"],
        "visual.positional_embedding": tower["embeddings.position_embedding.weight"],
    }
    for leaf in ("weight", "bias"):
        tensors[f"visual.ln_pre.{leaf}"] = tower[f"pre_layrnorm.{leaf}"]
        tensors[f"visual.ln_post.{leaf}"] = tower[f"post_layernorm.{leaf}"]
        for index, layer in enumerate(layers):
            block = f"visual.transformer.resblocks.{index}"
            three = [layer[f"self_attn.{one}_proj.{leaf}"] for one in "qkv"]
            tensors[f"{block}.attn.in_proj_{leaf}"] = torch.cat(three)
            for theirs, ours in [
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ]:
                tensors[f"{block}.{ours}.{leaf}"] = layer[f"{theirs}.{leaf}"]
    archive = torch.jit.trace(module(tensors), torch.ones(1))
    archive.save(str(tmp_path / "tiny.pt"))
    found = vit_weights.to_params(net, read_tensors(tmp_path / "tiny.pt"))
    half = jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), wanted)
    assert_same(found, half)


def test_embeddings_prepare_frames_as_torch_does(torch, oracle, tmp_path, monkeypatch):
    """From frames to the class token, with torchvision's transforms as VBench has."""
    pytest.importorskip("torchvision")
    from torchvision.transforms import v2

    frames = np.random.default_rng(2).uniform(size=(2, 30, 47, 3)).astype(np.float32)
    modes = v2.InterpolationMode
    for name, interpolation in [("dino", modes.BILINEAR), ("clip", modes.BICUBIC)]:
        net = TINY[name]
        model = oracle(net)
        (tmp_path / name).mkdir()
        params = vit_weights.to_params(net, saved(model, tmp_path / name))
        monkeypatch.setattr(vit, "vision_transformer", lambda preset, net=net: net)
        found = jax.jit(image_embedding(params, name))(jnp.asarray(frames))
        steps = [v2.Resize(224, interpolation, antialias=False)]
        steps += [v2.CenterCrop(224)] if name == "clip" else []
        statistics = vit.CLIP if name == "clip" else vit.IMAGENET
        x = v2.Compose([*steps, v2.Normalize(*statistics)])(to_torch(torch, frames))
        with torch.no_grad():
            if name == "dino":
                wanted = model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]
            else:
                wanted = model.vision_model(x, interpolate_pos_encoding=True)
                wanted = model.visual_projection(wanted.pooler_output)
        assert_close(found, wanted)


def test_perceptual_loss_and_its_gradient(torch, oracle, tmp_path, monkeypatch):
    net = TINY["dinov2"]
    model = oracle(net)
    params = vit_weights.to_params(net, saved(model, tmp_path))
    monkeypatch.setattr(vit, "vision_transformer", lambda preset: net)
    features = dinov2_features(params)
    rng = np.random.default_rng(3)
    pair = rng.uniform(size=(2, 3, 33, 45, 3)).astype(np.float32)

    def torch_features(frames):
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in vit.IMAGENET)
        x = torch.nn.functional.interpolate(frames, size=(28, 42), mode="bilinear")
        states = model((x - mean) / deviation, output_hidden_states=True).hidden_states
        return [model.layernorm(state)[:, 1:] for state in states[-2:]]

    prediction, target = (to_torch(torch, one) for one in pair)
    prediction = prediction.contiguous().requires_grad_(True)
    each = zip(torch_features(prediction), torch_features(target), strict=True)
    wanted = sum((a - b.detach()).abs().mean((1, 2)) for a, b in each) / 2
    (wanted * torch.tensor([1.0, 2.0, 3.0])).sum().backward()

    def loss(prediction, target):
        value = perceptual_l1(features, prediction, target)
        return jnp.sum(value * jnp.array([1.0, 2.0, 3.0])), value

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (found, none), value = gradient(*map(jnp.asarray, pair))
    assert_close(value, wanted)
    assert_close(found, prediction.grad.permute(0, 2, 3, 1), 1e-4)
    assert not np.any(none)
