"""Weights of vision transformers: one network under the names of every publisher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import vit_weights
from jax_vidpred.features.vit import PRESETS, VisionTransformer, vision_transformer
from jax_vidpred.features.weights import WeightsError, flatten, recognise

SIZES = {"patch": 2, "grid": 3, "width": 8, "depth": 2, "heads": 2}
DINO = VisionTransformer("dino", **SIZES)
DINOV2 = VisionTransformer("dinov2", registers=4, **SIZES)
CLIP = VisionTransformer("clip", projection=5, epsilon=1e-5, **SIZES)

# What is in the files, typed in by hand: name of a layer in ours -> names of it.
AUTHORS = {
    "norm1": "blocks.{}.norm1",
    "qkv": "blocks.{}.attn.qkv",
    "out": "blocks.{}.attn.proj",
    "norm2": "blocks.{}.norm2",
    "fc1": "blocks.{}.mlp.fc1",
    "fc2": "blocks.{}.mlp.fc2",
    "scale1": "blocks.{}.ls1.gamma",
    "scale2": "blocks.{}.ls2.gamma",
    "patches": "patch_embed.proj",
    "position_embedding": "pos_embed",
    "norm": "norm",
}
HUGGING_FACE = {
    "norm1": "encoder.layer.{}.norm1",
    "qkv": "encoder.layer.{}.attention.attention.QKV",
    "out": "encoder.layer.{}.attention.output.dense",
    "norm2": "encoder.layer.{}.norm2",
    "fc1": "encoder.layer.{}.mlp.fc1",
    "fc2": "encoder.layer.{}.mlp.fc2",
    "scale1": "encoder.layer.{}.layer_scale1.lambda1",
    "scale2": "encoder.layer.{}.layer_scale2.lambda1",
    "patches": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "position_embedding": "embeddings.position_embeddings",
    "norm": "layernorm",
}
HUGGING_FACE_DINO = HUGGING_FACE | {
    "norm1": "encoder.layer.{}.layernorm_before",
    "norm2": "encoder.layer.{}.layernorm_after",
    "fc1": "encoder.layer.{}.intermediate.dense",
    "fc2": "encoder.layer.{}.output.dense",
}
OPENAI = {
    "norm1": "visual.transformer.resblocks.{}.ln_1",
    "qkv": "visual.transformer.resblocks.{}.attn.in_proj",
    "out": "visual.transformer.resblocks.{}.attn.out_proj",
    "norm2": "visual.transformer.resblocks.{}.ln_2",
    "fc1": "visual.transformer.resblocks.{}.mlp.c_fc",
    "fc2": "visual.transformer.resblocks.{}.mlp.c_proj",
    "patches": "visual.conv1",
    "cls_token": "visual.class_embedding",
    "position_embedding": "visual.positional_embedding",
    "norm_before": "visual.ln_pre",
    "norm": "visual.ln_post",
    "projection": "visual.proj",
}
HUGGING_FACE_CLIP = {
    "norm1": "vision_model.encoder.layers.{}.layer_norm1",
    "qkv": "vision_model.encoder.layers.{}.self_attn.QKV_proj",
    "out": "vision_model.encoder.layers.{}.self_attn.out_proj",
    "norm2": "vision_model.encoder.layers.{}.layer_norm2",
    "fc1": "vision_model.encoder.layers.{}.mlp.fc1",
    "fc2": "vision_model.encoder.layers.{}.mlp.fc2",
    "patches": "vision_model.embeddings.patch_embedding",
    "cls_token": "vision_model.embeddings.class_embedding",
    "position_embedding": "vision_model.embeddings.position_embedding.weight",
    "norm_before": "vision_model.pre_layrnorm",
    "norm": "vision_model.post_layernorm",
    "projection": "visual_projection",
}
TEXT = ["text_model.final_layer_norm.weight", "text_projection.weight", "logit_scale"]
TEXT += ["text_model.encoder.layers.0.self_attn.q_proj.weight"]
TEXT += ["text_model.encoder.layers.0.self_attn.k_proj.weight"]
TEXT += ["text_model.encoder.layers.0.self_attn.v_proj.weight"]
OPENAI_TEXT = ["transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight"]
OPENAI_TEXT += ["positional_embedding", "ln_final.bias", "text_projection"]
OPENAI_TEXT += ["input_resolution", "context_length", "vocab_size", "logit_scale"]
SCHEMES = [
    (DINO, AUTHORS, []),
    (DINO, HUGGING_FACE_DINO, ["pooler.dense.weight", "pooler.dense.bias"]),
    (DINOV2, AUTHORS, ["mask_token"]),
    (
        DINOV2,
        {ours: name.replace("blocks.", "blocks.0.") for ours, name in AUTHORS.items()},
        ["mask_token"],
    ),
    (DINOV2, HUGGING_FACE, ["embeddings.mask_token"]),
    (CLIP, OPENAI, OPENAI_TEXT),
    (CLIP, HUGGING_FACE_CLIP, [*TEXT, "vision_model.embeddings.position_ids"]),
]


def shapes(net):
    side = net.grid * net.patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)["params"]


def random_params(net):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(net)
    )


def as_file(net, params, names, others=()):
    """The tensors that a publisher would write for these parameters."""
    tensors = {name: np.ones(3, np.float32) for name in others}
    for path, array in flatten(params).items():
        parts = path.split("/")
        block = [parts.pop(0).removeprefix("block_")] if "block" in path else []
        ours, *leaf = parts
        leaf = {"bias": ".bias"}.get(leaf[0], ".weight") if leaf else ""
        theirs = names.get(ours, ours).format(*block)
        if ours == "patches" and leaf == ".weight":
            array = array.reshape(net.patch, net.patch, 3, -1).transpose(3, 2, 0, 1)
        elif theirs == "visual.proj":
            leaf = ""
        elif leaf == ".weight":
            array = array.T
        elif ours.startswith("scale") or (not leaf and net.family == "clip"):
            array = array.squeeze()
        if "QKV" not in theirs:
            leaf = leaf.replace(".", "_") if "in_proj" in theirs else leaf
            tensors[theirs + leaf] = array
            continue
        words = "qkv" if "_proj" in theirs else ("query", "key", "value")
        for word, part in zip(words, np.split(array, 3), strict=True):
            tensors[theirs.replace("QKV", word) + leaf] = part
    return tensors


@pytest.mark.parametrize("net, names, others", SCHEMES)
def test_every_publisher_gives_the_same_parameters(net, names, others):
    wanted = random_params(net)
    found = vit_weights.to_params(net, as_file(net, wanted, names, others))
    wanted, found = flatten(wanted), flatten(found)
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_clip_without_its_projection():
    wanted = random_params(CLIP)
    tensors = as_file(CLIP, wanted, HUGGING_FACE_CLIP)
    del tensors["visual_projection.weight"]
    found = vit_weights.to_params(CLIP, tensors)
    assert found.keys() == wanted.keys() - {"projection"}
    assert jax.tree.map(np.shape, found) == jax.tree.map(
        np.shape, shapes(CLIP.clone(projection=0))
    )


def test_files_that_do_not_fit_are_refused_in_one_line():
    tensors = as_file(DINOV2, random_params(DINOV2), HUGGING_FACE)
    key = "encoder.layer.1.attention.attention.key.bias"
    scale = "encoder.layer.0.layer_scale1.lambda1"
    for changed, message in [
        ({"head.weight": np.ones((3, 8))}, "head.weight is not part of this network"),
        (
            {"encoder.layer.2.norm1.bias": np.ones(8)},
            "encoder.layer.2.norm1.bias is not part of this network",
        ),
        ({key: None}, "attention.qkv.bias: of queries, keys and values only q, v are"),
        ({scale: None}, "1 of 35 parameters are missing .block_0/scale1"),
        (
            {"embeddings.position_embeddings": np.ones((1, 17, 8))},
            r"position_embeddings has shape \(1, 17, 8\), which does not fit",
        ),
    ]:
        bad = {k: v for k, v in {**tensors, **changed}.items() if v is not None}
        with pytest.raises(WeightsError, match=message) as error:
            vit_weights.to_params(DINOV2, bad)
        assert "\n" not in str(error.value)


def scheme_names(family):
    return {
        "dinov2": [AUTHORS, HUGGING_FACE],
        "dino": [AUTHORS, HUGGING_FACE_DINO],
        "clip": [OPENAI, HUGGING_FACE_CLIP],
    }[family]


@pytest.mark.parametrize("preset", PRESETS)
def test_each_network_is_recognised_by_its_files(preset):
    net = vision_transformer(preset)
    few = {  # the parameters outside the blocks: their shapes tell the networks apart
        name: array for name, array in shapes(net).items() if "block" not in name
    }
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), few)
    for names in scheme_names(net.family):
        tensors = as_file(net, params, names)
        assert recognise(tensors, vit_weights.NETWORKS).name == preset
    assert recognise({"cls_token": np.ones((1, 1, 384))}, vit_weights.NETWORKS) is None


def test_every_preset_has_its_weights():
    assert {one.name for one in vit_weights.NETWORKS} == set(PRESETS)
    for network in vit_weights.NETWORKS:
        assert all(len(one.sha256) in (0, 64) for one in network.published)
        assert len({one.file for one in network.published}) == 2
