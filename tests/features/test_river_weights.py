"""RIVER's published autoencoders: every name and shape, there and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import weights
from jax_vidpred.features.river_weights import NETWORKS, vq_params, vq_tensors
from jax_vidpred.features.weights import WeightsError
from jax_vidpred.models.vq import VQ

# What is in the files, typed in by hand. A line: the beginning of names, and the
# layers below it, `name:shape of the weight`; `+` has a bias.


def river_description():
    def residual(at, inputs, outputs):
        lines = [f"{at} conv1:{outputs},{inputs},3,3 bn1:{outputs}+"]
        lines += [f"{at} conv2:{outputs},{outputs},3,3 bn2:{outputs}+"]
        if inputs != outputs:
            project = f"downsample.0:{outputs},{inputs},1,1"
            lines += [f"{at} {project} downsample.2:{outputs}+"]
        return lines

    lines = ["vector_quantizer embedding:8192,4"]
    for part, first, last, inputs, outputs in (
        ("encoder", 32, 256, 3, 4),
        ("decoder", 256, 32, 4, 3),
    ):
        lines += [f"{part} conv_in:{first},{inputs},3,3+ attn_norm:256+"]
        lines += [f"{part} out_norm:{last}+ out_conv:{outputs},{last},3,3+"]
        lines += [f"{part}.attn out_proj:256,256+"]
        lines += residual(f"{part}.pre_attn_residual", 256, 256)
        lines += residual(f"{part}.post_attn_residual", 256, 256)
    for level, width in enumerate((32, 64, 128)):
        lines += residual(f"encoder.residuals.{level}", width, 2 * width)
    for level, width in enumerate((128, 64, 32)):
        lines += residual(f"decoder.residuals.{level}.0", 2 * width, width)
        lines += [f"decoder.residuals.{level}.1 conv:{width},{width},3,3 norm:{width}+"]
    return lines


def vqgan_description(widths, attention, latent):
    def block(at, inputs, outputs):
        layers = f"norm1:{inputs}+ conv1:{outputs},{inputs},3,3+"
        layers += f" norm2:{outputs}+ conv2:{outputs},{outputs},3,3+"
        if inputs != outputs:
            layers += f" nin_shortcut:{outputs},{inputs},1,1+"
        return f"{at} {layers}"

    def attend(at, width):
        names = ("q", "k", "v", "proj_out")
        return f"{at} norm:{width}+ " + " ".join(
            f"{name}:{width},{width},1,1+" for name in names
        )

    top = widths[-1]
    lines = [f"quantize embedding:16384,{latent}"]
    lines += [
        f" quant_conv:{latent},{latent},1,1+ post_quant_conv:{latent},{latent},1,1+"
    ]
    lines += [
        f"encoder conv_in:128,3,3,3+ norm_out:{top}+ conv_out:{latent},{top},3,3+"
    ]
    lines += [f"decoder conv_in:{top},{latent},3,3+ norm_out:128+ conv_out:3,128,3,3+"]
    for part, count, resize in (("down", 2, "downsample"), ("up", 3, "upsample")):
        half = "encoder" if part == "down" else "decoder"
        lines += [block(f"{half}.mid.block_1", top, top)]
        lines += [attend(f"{half}.mid.attn_1", top)]
        lines += [block(f"{half}.mid.block_2", top, top)]
        last = len(widths) - 1
        for level, width in enumerate(widths):
            if part == "down":
                before, resizes = widths[level - 1] if level else 128, level < last
            else:
                before, resizes = widths[min(level + 1, last)], level > 0
            at = f"{half}.{part}.{level}"
            for index in range(count):
                lines += [
                    block(f"{at}.block.{index}", width if index else before, width)
                ]
                if level == attention:
                    lines += [attend(f"{at}.attn.{index}", width)]
            if resizes:
                lines += [f"{at}.{resize} conv:{width},{width},3,3+"]
    return lines


DESCRIPTIONS = {
    "river": river_description(),
    "f8": vqgan_description((128, 256, 256, 512), 3, 4),
    "f8_small": vqgan_description((128, 256, 256, 512), 2, 4),
    "f16": vqgan_description((128, 128, 256, 256, 512), 4, 8),
}
NETWORK_NAMES = {"river": "river_vqvae"}  # the others are vqgan_<preset>


def published(preset):
    """{name: shape} of a file."""
    shapes = {}
    for line in DESCRIPTIONS[preset]:
        at, *layers = line.split(" ")
        for layer in layers:
            name, _, shape = layer.partition(":")
            name = f"{at}.{name}".removeprefix(".")
            shape, plus, _ = shape.partition("+")
            shape = tuple(map(int, shape.split(",")))
            shapes[f"{name}.weight"] = shape
            if plus:
                shapes[f"{name}.bias"] = shape[:1]
    if preset == "river":
        for part in ("encoder", "decoder"):
            shapes[f"{part}.attn.in_proj_weight"] = (768, 256)
            shapes[f"{part}.attn.in_proj_bias"] = (768,)
        for level, width in enumerate((128, 64, 32)):
            norm = f"decoder.residuals.{level}.1.norm"
            shapes[f"{norm}.running_mean"] = shapes[f"{norm}.running_var"] = (width,)
            shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def random_file(preset):
    rng = np.random.default_rng(0)
    return {
        name: np.asarray(rng.random(shape, np.float32))
        for name, shape in published(preset).items()
    }


@functools.cache
def like(preset):
    net = VQ(preset)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)["params"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, entries", [("river", 121), ("f8", 299), ("f8_small", 299), ("f16", 343)]
)
def test_published_file_there_and_back(preset, entries):
    tensors = random_file(preset)
    assert len(tensors) == entries
    network = weights.recognise(tensors, NETWORKS)
    assert network.name == NETWORK_NAMES.get(preset, f"vqgan_{preset}")
    kept = network.to_params(tensors)
    params = vq_params(kept, like(preset))
    again = vq_tensors(params)
    assert again.keys() == kept.keys()
    for name, array in kept.items():
        assert again[name].dtype == np.float32
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert not any(name.endswith("num_batches_tracked") for name in again)


def test_layouts():
    tensors = random_file("river")
    params = vq_params(tensors, like("river"))
    encoder, decoder = params["encoder"], params["decoder"]
    first = tensors["encoder.conv_in.weight"]
    np.testing.assert_array_equal(
        encoder["conv_in"]["kernel"], first.transpose(2, 3, 1, 0)
    )
    linear = tensors["encoder.attn.in_proj_weight"]
    np.testing.assert_array_equal(encoder["attn"]["qkv"]["kernel"], linear.T)
    variance = tensors["decoder.residuals.2.1.norm.running_var"]
    np.testing.assert_array_equal(decoder["up_2"]["norm"]["variance"], variance)
    codes = tensors["vector_quantizer.embedding.weight"]
    np.testing.assert_array_equal(params["codebook"], codes)


def without(name):
    return lambda tensors: tensors.pop(name)


def put(name, shape):
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, change, message",
    [
        (
            "river",
            without("decoder.residuals.0.1.norm.running_mean"),
            r"1 of 118 .* missing \(decoder/up_0/norm/mean is",
        ),
        (
            "f8",
            without("post_quant_conv.bias"),
            r"1 of 299 .* missing \(decoder/post_quant_conv/bias is",
        ),
        (
            "river",
            put("encoder.residuals.0.conv1.weight", (64, 16, 3, 3)),
            r"residuals.0.conv1.weight has shape \(64, 16, 3, 3\), which does not fit",
        ),
        ("river", put("encoder.conv_out.bias", 3), "encoder.conv_out.bias is not part"),
        ("f8", put("encoder.down.0.attn.0.q.bias", 3), "attn.0.q.bias is not part of"),
    ],
)
def test_errors_are_one_line(preset, change, message):
    tensors = random_file(preset)
    change(tensors)
    with pytest.raises(WeightsError, match=message) as error:
        vq_params(tensors, like(preset))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_the_net_was_trained_with_is_left_out():
    tensors = random_file("f8") | {"loss.logvar": np.zeros((), np.float32)}
    assert "loss.logvar" not in vq_tensors(vq_params(tensors, like("f8")))
