"""Colour jitter against torchvision's formulas, restated pixel by pixel."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.augment import colour_jitter

NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
ALL = {"brightness": 0.1, "contrast": 0.3, "saturation": 0.5, "hue": 0.25}


def make_video(b=2, t=2, seed=0):
    return np.random.default_rng(seed).random((b, t, 3, 4, 3), np.float32)


def jitter(video, seed=0, **strengths):
    keys = jax.random.split(jax.random.key(seed), len(video))
    made = jax.jit(lambda v: colour_jitter(v, keys, **NONE | strengths))(video)
    drawn = [jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0) for key in keys]
    return np.asarray(made), np.asarray(drawn, np.float64)


def grey(frame):
    return 0.2989 * frame[..., 0] + 0.587 * frame[..., 1] + 0.114 * frame[..., 2]


def adjusted(frame, brightness, contrast, saturation, hue):
    """adjust_brightness, _contrast, _saturation and _hue, one after the other."""
    frame = np.clip(frame.astype(np.float64) * brightness, 0, 1)
    mean = grey(frame).mean()
    frame = np.clip(contrast * frame + (1 - contrast) * mean, 0, 1)
    pixel_grey = grey(frame)[..., None]
    frame = np.clip(saturation * frame + (1 - saturation) * pixel_grey, 0, 1)
    turned = np.empty_like(frame)
    for place in np.ndindex(frame.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*frame[place])
        turned[place] = colorsys.hsv_to_rgb((h + hue) % 1.0, s, v)
    return turned


@pytest.mark.parametrize(
    "strengths", [*({name: value} for name, value in ALL.items()), ALL]
)
def test_as_torchvision_one_draw_for_a_clip(strengths):
    video = make_video(b=3)
    made, drawn = jitter(video, **strengths)
    amounts = drawn * [strengths.get(name, 0.0) for name in NONE]
    for clip, result, amount in zip(video, made, amounts, strict=True):
        factors = amount + [1, 1, 1, 0]
        for frame, seen in zip(clip, result, strict=True):
            np.testing.assert_allclose(seen, adjusted(frame, *factors), atol=3e-6)
    assert np.abs(made - video).max() > 0.01


def test_grey_and_pure_colours():
    video = np.zeros((1, 1, 2, 4, 3), np.float32)
    video[0, 0, 0, :3] = np.eye(3)
    video[0, 0, 1] = 0.5
    made, drawn = jitter(video, hue=0.5)
    wanted = adjusted(video[0, 0], 1, 1, 1, 0.5 * drawn[0, 3])
    np.testing.assert_allclose(made[0, 0], wanted, atol=1e-6)
    np.testing.assert_allclose(made[0, 0, 1], 0.5, atol=1e-6)


def test_no_strength_changes_nothing():
    video = make_video()
    np.testing.assert_allclose(jitter(video)[0], video, atol=1e-6)


@pytest.mark.slow
def test_a_clip_is_drawn_by_its_own_key():
    video = np.stack([make_video(b=1)[0]] * 2)
    keys = jax.random.split(jax.random.key(0), 2)
    both = colour_jitter(jnp.asarray(video), keys, **ALL)
    alone = colour_jitter(jnp.asarray(video[1:]), keys[1:], **ALL)
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 0.01
    assert both.min() >= 0 and both.max() <= 1
