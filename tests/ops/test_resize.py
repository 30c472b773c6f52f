"""Resizing against torch, Pillow's kernel, hand values, and what must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.resize import resize

KINDS = [(m, a) for m in ("bilinear", "bicubic") for a in (False, True)]
kinds = pytest.mark.parametrize("method, antialias", KINDS)
SIZES = [(7, 5), (12, 18), (3, 31), (1, 1), (9, 13)]


def picture(h=9, w=13):
    values = np.random.default_rng(0).uniform(-1, 2, (2, h, w, 3))
    return jnp.asarray(values, jnp.float32)


@kinds
@pytest.mark.parametrize("size", SIZES)
def test_same_as_torch(method, antialias, size):
    torch = pytest.importorskip("torch", reason="needs the extra 'oracle'")
    x = picture()
    wanted = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(x)).permute(0, 3, 1, 2),
        size=size,
        mode=method,
        align_corners=False,
        antialias=antialias,
    )
    found = resize(x, size, method, antialias=antialias)
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), atol=3e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_filtered_is_what_jax_calls_antialias(method, size):
    x = picture()
    found = resize(x, size, method, antialias=True)
    name = {"bilinear": "linear", "bicubic": "cubic"}[method]
    wanted = jax.image.resize(x, (2, *size, 3), name, antialias=True)
    np.testing.assert_allclose(found, wanted, atol=3e-6)


def test_hand_values():
    line = jnp.array([0.0, 1.0, 4.0, 2.0]).reshape(1, 4, 1)
    # Halving: the centres lie between pixels; bicubic weights there are
    # (3a/8... with a = -3/4) -3/32, 19/32, 19/32, -3/32, and the border repeats.
    linear = resize(line, (1, 2)).ravel()
    np.testing.assert_allclose(linear, [0.5, 3.0], atol=1e-6)
    cubic = resize(line, (1, 2), "bicubic").ravel()
    first = (-3 * 0 + 19 * 0 + 19 * 1 - 3 * 4) / 32
    last = (-3 * 1 + 19 * 4 + 19 * 2 - 3 * 2) / 32
    np.testing.assert_allclose(cubic, [first, last], atol=1e-6)


@kinds
def test_constants_stay_and_the_axes_are_alike(method, antialias):
    size = (4, 21)
    one = resize(jnp.ones((5, 6, 2)), size, method, antialias=antialias)
    np.testing.assert_allclose(one, np.ones((*size, 2)), atol=1e-6)
    x = picture()
    turned = resize(x.swapaxes(1, 2), size[::-1], method, antialias=antialias)
    found = resize(x, size, method, antialias=antialias)
    np.testing.assert_allclose(turned.swapaxes(1, 2), found, atol=2e-6)


@kinds
def test_same_size_is_the_same_image(method, antialias):
    x = picture()
    np.testing.assert_array_equal(resize(x, (9, 13), method, antialias=antialias), x)


@pytest.mark.parametrize(
    "size, method, message",
    [
        ((4, 4), "nearest", "'nearest' is unknown; use bilinear or bicubic"),
        ((0, 4), "bilinear", "cannot resize 9x13 to 0x4: no pixels"),
    ],
)
def test_errors_are_one_line(size, method, message):
    with pytest.raises(ValueError, match=message) as error:
        resize(picture(), size, method)
    assert "\n" not in str(error.value)
