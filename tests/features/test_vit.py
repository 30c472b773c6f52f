"""Vision transformers: layout by hand, layers, preparation of frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.features import vit
from jax_vidpred.features.vit import VisionTransformer, vision_transformer

SIZES = {"patch": 2, "grid": 3, "width": 8, "depth": 2, "heads": 2}
DINO = VisionTransformer("dino", **SIZES)
DINOV2 = VisionTransformer("dinov2", registers=4, **SIZES)
# Numbers of parameters that the published networks have (mask tokens not counted).
COUNTS = {
    "dinov2_vits14": 22_056_192,
    "dinov2_vitb14": 86_579_712,
    "dinov2_vits14_reg": 22_056_192 + 4 * 384,
    "dinov2_vitb14_reg": 86_579_712 + 4 * 768,
    "dino_vitb16": 85_798_656,
    "clip_vitb32": 87_456_000 + 768 * 512,
    "clip_vitl14": 303_179_776 + 1024 * 768,
}


def shapes(net):
    side = net.grid * net.patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), image)["params"]


def random_params(net):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(net)
    )


def pictures(h, w, batch=1):
    values = np.random.default_rng(1).uniform(size=(batch, h, w, 3))
    return jnp.asarray(values, jnp.float32)


def run(net, params, images, **options):
    return jax.jit(lambda p, x: net.apply({"params": p}, x, **options))(params, images)


@pytest.mark.parametrize("preset", COUNTS)
def test_presets_are_the_published_networks(preset):
    net = vision_transformer(preset)
    assert net.epsilon == (1e-5 if "clip" in preset else 1e-6)
    assert net.width == 64 * net.heads
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(net))) == COUNTS[preset]


def test_patches_and_places_by_hand():
    """With silent blocks the tokens are patches times kernel plus place, row by row."""
    params = random_params(DINOV2)
    for index in range(2):
        for name in ("scale1", "scale2"):
            params[f"block_{index}"][name] *= 0
    x = pictures(6, 6)
    tokens = run(DINOV2, params, x, layers=(0,), normed=False).layers[0]
    kernel, bias = (params["patches"][name] for name in ("kernel", "bias"))
    places = params["position_embedding"][0]
    for place, (row, column) in enumerate(np.ndindex(3, 3)):
        patch = x[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        wanted = np.asarray(patch).ravel() @ kernel + bias + places[1 + place]
        np.testing.assert_allclose(tokens[0, place], wanted, rtol=1e-5, atol=1e-5)


def test_attention_sees_all_and_images_do_not_see_each_other():
    params, x = random_params(DINO), pictures(6, 4, batch=3)
    one = run(DINO, params, x)
    other = run(DINO, params, x.at[1, :2, :2].set(0.0))
    assert one.tokens.shape == (3, 6, 8) and one.cls.shape == (3, 8)
    np.testing.assert_array_equal(one.tokens[::2], other.tokens[::2])
    changed = np.abs(np.asarray(one.tokens[1] - other.tokens[1])).max(-1)
    assert np.all(changed > 1e-4)


def test_layers_are_those_that_were_asked_for():
    params, x = random_params(DINOV2), pictures(6, 6)
    found = run(DINOV2, params, x, layers=(-1, 0, 1))
    np.testing.assert_array_equal(found.layers[0], found.layers[2])
    np.testing.assert_array_equal(found.layers[0], found.tokens)
    assert found.layers[1].shape == (1, 9, 8)  # no class token, no registers
    raw = run(DINOV2, params, x, layers=(-1,), normed=False).layers[0]
    mean, variance = raw.mean(-1, keepdims=True), raw.var(-1, keepdims=True)
    scale, bias = (params["norm"][n].reshape(1, 1, -1) for n in ("scale", "bias"))
    normed = (raw - mean) / jnp.sqrt(variance + 1e-6) * scale + bias
    np.testing.assert_allclose(normed, found.tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "net, size, options, message",
    [
        (DINO, (6, 5), {}, "6x5 do not divide into patches of 2; resize or crop"),
        (
            DINO,
            (6, 6),
            {"layers": (2,)},
            r"layers=\(2,\) of a network of 2 blocks; use",
        ),
        (DINO.clone(family="mae"), (6, 6), {}, "'mae' is unknown; use dino, dinov2"),
    ],
)
def test_errors_are_one_line(net, size, options, message):
    with pytest.raises(ValueError, match=message) as error:
        net.init(jax.random.key(0), jnp.zeros((1, *size, 3)), **options)
    assert "\n" not in str(error.value)


def test_unknown_presets_are_refused():
    with pytest.raises(
        ValueError, match="'vit_s' is unknown; use one of dinov2_vits14"
    ):
        vision_transformer("vit_s")
    with pytest.raises(ValueError, match="preset 'clip_vitb32' is not of DINOv2"):
        vit.dinov2_features({}, "clip_vitb32")


def test_preparation_of_frames():
    grey = jnp.full((2, 30, 45, 3), 0.5)
    for prepare, size, statistics in [
        (vit.dinov2_images, (28, 42), vit.IMAGENET),
        (vit.dino_images, (224, 336), vit.IMAGENET),
        (vit.clip_images, (224, 224), vit.CLIP),
    ]:
        found = prepare(grey)
        assert found.shape == (2, *size, 3)
        mean, deviation = (np.array(values) for values in statistics)
        np.testing.assert_allclose(found[1, 3, 5], (0.5 - mean) / deviation, rtol=1e-5)
    assert vit.dino_images(grey.swapaxes(1, 2)).shape == (2, 336, 224, 3)
    assert vit.dino_images(pictures(46, 70)).shape == (1, 224, 336, 3)  # 340 cut
    x = pictures(28, 42)
    np.testing.assert_array_equal(vit.dinov2_images(x), vit.normalise(x, vit.IMAGENET))
    with pytest.raises(ValueError, match="cannot resize 13x28 to 0x28"):
        vit.dinov2_images(pictures(13, 28))


def test_clip_keeps_the_middle():
    ramp = jnp.broadcast_to(
        jnp.linspace(0, 1, 448).reshape(1, 1, -1, 1), (1, 224, 448, 3)
    )
    found = vit.clip_images(ramp)
    np.testing.assert_array_equal(found, vit.normalise(ramp[:, :, 112:336], vit.CLIP))
