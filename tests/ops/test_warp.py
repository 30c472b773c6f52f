"""Warping and splatting against rolls, hand values and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import warp as ops

H, W = 6, 7
FORMS = {
    "gather": jax.jit(ops.warp),
    "near": jax.jit(lambda image, flow: ops.warp_near(image, flow, 3)),
}
warp, near, splat = FORMS["gather"], FORMS["near"], jax.jit(ops.splat)
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def image(channels=2, batch=2):
    values = np.random.default_rng(0).normal(size=(batch, H, W, channels))
    return jnp.asarray(values, jnp.float32)


def constant(x, y, batch=2):
    return jnp.broadcast_to(jnp.array([x, y], jnp.float32), (batch, H, W, 2))


def random_flow(scale, batch=2):
    values = np.random.default_rng(1).uniform(-scale, scale, (batch, H, W, 2))
    return jnp.asarray(values, jnp.float32)


def by_hand(image, flow):
    """Bilinear sampling of clamped coordinates, one pixel after the other."""
    image, flow = np.asarray(image, np.float64), np.asarray(flow, np.float64)
    out = np.zeros_like(image)
    b, h, w, _ = image.shape
    for k, y, x in np.ndindex(b, h, w):
        at_x = min(max(x + flow[k, y, x, 0], 0), w - 1)
        at_y = min(max(y + flow[k, y, x, 1], 0), h - 1)
        x0, y0 = int(at_x), int(at_y)
        x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
        fx, fy = at_x - x0, at_y - y0
        upper = (1 - fx) * image[k, y0, x0] + fx * image[k, y0, x1]
        lower = (1 - fx) * image[k, y1, x0] + fx * image[k, y1, x1]
        out[k, y, x] = (1 - fy) * upper + fy * lower
    return out


@forms
@pytest.mark.parametrize("x, y", [(0, 0), (1, 0), (0, 2), (-2, 1), (3, -3)])
def test_whole_pixels_roll_inside_and_repeat_the_border(form, x, y):
    frame = image()
    moved = np.asarray(form(frame, constant(x, y)))
    # warp(p) = image(p + flow): content moves against the flow.
    rolled = np.roll(np.asarray(frame), (-y, -x), axis=(1, 2))
    rows = slice(max(-y, 0), H - max(y, 0))
    columns = slice(max(-x, 0), W - max(x, 0))
    np.testing.assert_array_equal(moved[:, rows, columns], rolled[:, rows, columns])
    padded = np.pad(np.asarray(frame), ((0, 0), (3, 3), (3, 3), (0, 0)), "edge")
    np.testing.assert_array_equal(
        moved, padded[:, 3 + y : 3 + y + H, 3 + x :][:, :, :W]
    )


@forms
def test_fractional_hand_value(form):
    ramp = jnp.arange(H * W, dtype=jnp.float32).reshape(1, H, W, 1)
    moved = form(ramp, constant(0.25, -0.5, batch=1))
    # Row 2, column 3 reads row 1.5, column 3.25 of a linear image.
    assert moved[0, 2, 3, 0] == pytest.approx(1.5 * W + 3.25)


@forms
def test_equals_pixel_by_pixel_sampling(form):
    flow = random_flow(3.0)
    np.testing.assert_allclose(form(image(), flow), by_hand(image(), flow), atol=1e-5)


def test_general_warp_has_no_limit_and_near_warp_clips():
    flow = random_flow(20.0)
    np.testing.assert_allclose(warp(image(), flow), by_hand(image(), flow), atol=1e-5)
    clipped = by_hand(image(), np.clip(flow, -3, 3))
    np.testing.assert_allclose(near(image(), flow), clipped, atol=1e-5)


@forms
def test_any_leading_axes(form):
    frame, flow = image(batch=6), random_flow(2.0, batch=6)
    expected = form(frame, flow)
    stacked = form(frame.reshape(2, 3, H, W, 2), flow.reshape(2, 3, H, W, 2))
    np.testing.assert_array_equal(stacked.reshape(expected.shape), expected)
    np.testing.assert_array_equal(form(frame[0], flow[0]), expected[0])


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_pictures_one_pixel_wide(shape):
    frame = jnp.arange(5.0)[: max(shape)].reshape(1, *shape, 1)
    flow = jnp.full((1, *shape, 2), 0.5)
    expected = np.minimum(np.arange(5.0) + 0.5, 4)[: max(shape)].reshape(frame.shape)
    if shape == (1, 1):
        expected = np.zeros((1, 1, 1, 1))
    np.testing.assert_allclose(warp(frame, flow), expected)
    np.testing.assert_allclose(near(frame, flow), expected)


@forms
def test_gradients_are_finite_differences(form):
    frame, weight = image(), image(batch=2) + 1
    # Off the kinks: fractions in (0.1, 0.9), and inside the picture or well outside.
    flow = jnp.floor(random_flow(2.0)) + 0.1 + 0.8 * jnp.abs(random_flow(1.0))

    def loss(frame, flow):
        return jnp.sum(form(frame, flow) * weight)

    gradients = jax.jit(jax.grad(loss, (0, 1)))(frame, flow)
    by_image = image()[::-1]
    by_flow = jnp.asarray(np.random.default_rng(2).normal(size=flow.shape), jnp.float32)
    h, still = 1e-2, (0 * frame, 0 * flow)
    directions = [(by_image, still[1]), (still[0], by_flow)]
    for (d_frame, d_flow), gradient, d in zip(
        directions, gradients, (by_image, by_flow), strict=True
    ):
        ahead = loss(frame + h * d_frame, flow + h * d_flow)
        behind = loss(frame - h * d_frame, flow - h * d_flow)
        np.testing.assert_allclose(
            (ahead - behind) / (2 * h), jnp.vdot(gradient, d), rtol=2e-3
        )


@forms
def test_flow_has_no_gradient_outside_the_picture(form):
    def loss(flow):
        return jnp.sum(form(image(), flow) ** 2)

    gradient = jax.grad(loss)(constant(2.5, 0.5))
    assert not np.any(gradient[:, :, -2:, 0])  # they read beyond the right border
    assert np.all(gradient[:, :-1, :, 1])


def test_both_forms_have_the_same_gradients():
    flow = random_flow(2.9)

    def gradients(form):
        return jax.grad(lambda i, f: jnp.sum(jnp.sin(form(i, f))), (0, 1))(
            image(), flow
        )

    for a, b in zip(gradients(FORMS["gather"]), gradients(FORMS["near"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_near_warp_has_a_two_sided_gradient_at_zero_flow():
    # The flow head starts at zero: the gradient there must see both neighbours.
    ramp = jnp.broadcast_to(jnp.arange(float(W)).reshape(1, 1, W, 1), (1, H, W, 1))

    def value(flow):
        return near(ramp, flow)[0, 3, 3, 0]

    gradient = jax.grad(value)(constant(0, 0, batch=1))
    np.testing.assert_allclose(gradient[0, 3, 3], [1, 0], atol=1e-6)


def test_splat_conserves_mass_inside_and_loses_it_outside():
    values = image()
    inward = random_flow(0.9).at[:, (0, -1)].set(0).at[:, :, (0, -1)].set(0)
    total, weight = splat(values, inward)
    np.testing.assert_allclose(total.sum((1, 2)), values.sum((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(weight.sum((1, 2)), H * W, rtol=1e-5)
    for x, y in ((W, 0), (-W, 0), (0, H), (0, -H)):
        total, weight = splat(values, constant(x, y))
        assert not np.any(total) and not np.any(weight)


def test_splat_hand_value():
    values = jnp.zeros((1, H, W, 1)).at[0, 2, 3, 0].set(8.0)
    total, weight = splat(values, constant(1.25, -0.5, batch=1))
    # Lands at row 1.5, column 4.25.
    expected = np.zeros((H, W))
    expected[1:3, 4], expected[1:3, 5] = 8 * 0.5 * 0.75, 8 * 0.5 * 0.25
    np.testing.assert_allclose(total[0, ..., 0], expected)
    np.testing.assert_allclose(weight[0, 2, 3, 0], 1.0)


def test_splat_is_the_adjoint_of_warp_inside():
    # Pushing along d is the transpose of sampling at p + d.
    inward = random_flow(0.9).at[:, (0, -1)].set(0).at[:, :, (0, -1)].set(0)
    a, b = image(), image()[::-1] + 1
    np.testing.assert_allclose(
        jnp.vdot(warp(a, inward), b), jnp.vdot(a, splat(b, inward)[0]), rtol=1e-4
    )
