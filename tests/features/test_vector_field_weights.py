"""Weights of RIVER's vector field: published names to ours and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import vector_field_weights
from jax_vidpred.features.weights import WeightsError, flatten
from jax_vidpred.models.river import VectorField

NARROW = dict(features=16, num_heads=2, depth=2, mid_depth=3)


def published(channels=4, features=768, depth=4, mid_depth=5):
    """Names and shapes in a checkpoint, typed in by hand."""
    d = features

    def linear(name, inputs, outputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    def block(name):
        return {
            f"{name}.self_attn.in_proj_weight": (3 * d, d),
            f"{name}.self_attn.in_proj_bias": (3 * d,),
            **linear(f"{name}.self_attn.out_proj", d, d),
            **linear(f"{name}.linear1", d, 4 * d),
            **linear(f"{name}.linear2", 4 * d, d),
            **norm(f"{name}.norm1"),
            **norm(f"{name}.norm2"),
        }

    shapes = {
        "position_encoding.row_embed.weight": (512, d // 2),
        "position_encoding.col_embed.weight": (512, d // 2),
        **linear("project_in.1", 3 * channels, d),
        **linear("time_projection.0", 1, 256),
        **linear("time_projection.2", 256, d),
        **linear("project_out.0", d, d),
        **norm("project_out.2"),
        "project_out.4.weight": (channels, d, 3, 3),
        "project_out.4.bias": (channels,),
    }
    for i in range(depth):
        shapes |= block(f"in_blocks.{i}")
        shapes |= linear(f"out_blocks.{i}.0", 2 * d, d) | block(f"out_blocks.{i}.1")
    for i in range(mid_depth):
        shapes |= block(f"mid_blocks.{i}")
    return shapes


def shapes_of(net, side=16):
    image = jax.ShapeDtypeStruct((1, side, side, net.latent_channels), jnp.float32)
    inputs = (
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1,), "float32"),
    )
    return jax.eval_shape(net.init, jax.random.key(0), *[image] * 3, *inputs)["params"]


def random_tensors(**sizes):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in published(**sizes).items()
    }


def narrow():
    sizes = {k: v for k, v in NARROW.items() if k != "num_heads"}
    return VectorField(4, **NARROW), random_tensors(**sizes)


def test_there_and_back_is_the_same_bit_for_bit():
    net, tensors = narrow()
    params = vector_field_weights.to_params(tensors, shapes_of(net))
    back = vector_field_weights.to_tensors(params)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
        assert back[name].dtype == np.float32 and back[name].flags["C_CONTIGUOUS"]


def test_each_tensor_lands_where_it_belongs():
    net, tensors = narrow()
    params = vector_field_weights.to_params(tensors, shapes_of(net))
    for path, name in [
        ("column_table", "position_encoding.col_embed.weight"),
        ("row_table", "position_encoding.row_embed.weight"),
        ("in_blocks_1/norm_hidden/scale", "in_blocks.1.norm2.weight"),
        ("mid_blocks_2/attention/qkv/bias", "mid_blocks.2.self_attn.in_proj_bias"),
        ("out_norm/bias", "project_out.2.bias"),
    ]:
        np.testing.assert_array_equal(flatten(params)[path], tensors[name])
    for path, name in [
        ("skips_1/kernel", "out_blocks.1.0.weight"),
        ("out_blocks_1/out/kernel", "out_blocks.1.1.linear2.weight"),
        ("distance_hidden/kernel", "time_projection.0.weight"),
    ]:
        np.testing.assert_array_equal(flatten(params)[path], tensors[name].T)
    np.testing.assert_array_equal(
        params["out_conv"]["kernel"][0, 2, 5],
        tensors["project_out.4.weight"][:, 5, 0, 2],
    )


def test_published_sizes_are_the_defaults():
    wanted = published()
    # Arrays of one number, spread: 98 million of them take no memory.
    tensors = {
        name: np.broadcast_to(np.float16(0), shape) for name, shape in wanted.items()
    }
    like = shapes_of(VectorField(4))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(like)) == 98_084_868
    assert len(jax.tree.leaves(like)) == len(wanted) == 178
    names = vector_field_weights.to_tensors(
        jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), like)
    )
    assert {name: array.shape for name, array in names.items()} == wanted
    assert sum(array.size for array in tensors.values()) == 98_084_868


def test_patches_change_only_the_ends():
    plain = flatten(shapes_of(VectorField(4, **NARROW)))
    patched = flatten(shapes_of(VectorField(4, **NARROW, patch=2)))
    changed = {k for k in plain if plain[k].shape != patched[k].shape}
    assert plain.keys() == patched.keys()
    assert changed == {"embed/kernel", "out_conv/kernel", "out_conv/bias"}


def test_files_that_do_not_fit_are_refused_in_one_line():
    net, tensors = narrow()
    skip = "out_blocks.0.0.weight"
    for changed, message in [
        ({"out_blocks.2.0.bias": np.ones(16)}, "out_blocks.2.0.bias is not part of"),
        ({skip: None}, "1 of 102 parameters are missing .skips_0/kernel"),
        ({skip: np.ones((16, 16))}, r"out_blocks.0.0.weight has shape \(16, 16\)"),
    ]:
        bad = {k: v for k, v in {**tensors, **changed}.items() if v is not None}
        with pytest.raises(WeightsError, match=message) as error:
            vector_field_weights.to_params(bad, shapes_of(net))
        assert "\n" not in str(error.value)


def test_a_frozen_batch_norm_goes_there_and_back():
    net, tensors = narrow()
    for part in ("weight", "bias"):
        array = tensors.pop(f"project_out.2.{part}")
        tensors[f"project_out.3.{part}"] = array
    tensors["project_out.3.running_mean"] = np.float32(np.arange(16))
    tensors["project_out.3.running_var"] = np.float32(np.arange(16) + 0.5)
    assert vector_field_weights.has_batch_norm(tensors)
    params = vector_field_weights.to_params(tensors, shapes_of(net))
    back = vector_field_weights.to_tensors(params, "frozen")
    assert back.keys() == tensors.keys()
    again = vector_field_weights.to_params(back, shapes_of(net))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, again
    )
