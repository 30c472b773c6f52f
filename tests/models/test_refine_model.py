"""The refinement network: its size, what it is before training, patches, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.refine import Refiner

SMALL = {"features": 8, "num_groups": 2, "blocks_per_group": 1, "reduction": 4}


def images(seed, size=(8, 12)):
    return jax.random.uniform(jax.random.key(seed), (2, *size, 3))


def drawn(net, seed=0):
    """Parameters as if trained, with no zeros."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), images(0), images(1))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("residual", [False, True])
def test_published_size_is_the_default(residual):
    net = Refiner(residual=residual)
    shapes = jax.eval_shape(net.init, jax.random.key(0), images(0), images(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 827_531


@pytest.mark.parametrize("patch", [1, 2])
def test_untrained_it_changes_nothing(patch):
    net = Refiner(**SMALL, patch=patch)
    variables = net.init(jax.random.key(0), images(0), images(1))
    np.testing.assert_array_equal(net.apply(variables, images(0), images(1)), images(1))


def test_published_form_makes_the_frame_itself():
    """The same net without the frame, and about the middle of [0, 1]."""
    variables = drawn(Refiner(**SMALL))
    change = Refiner(**SMALL).apply(variables, images(0), images(1)) - images(1)
    made = Refiner(**SMALL, residual=False).apply(variables, images(0), images(1))
    np.testing.assert_allclose(made, change + 0.5, atol=1e-6)
    net = Refiner(**SMALL, residual=False)
    variables = net.init(jax.random.key(0), images(0), images(1))
    assert np.std(net.apply(variables, images(0), images(1))) > 0.1


@pytest.mark.parametrize("patch", [1, 2])
def test_both_images_are_seen_and_each_example_by_itself(patch):
    net = Refiner(**SMALL, patch=patch)
    variables = drawn(net)
    refined = net.apply(variables, images(0), images(1))
    for other in [(images(2), images(1)), (images(0), images(2))]:
        assert np.abs(net.apply(variables, *other) - refined).max() > 0.01
    alone = net.apply(variables, images(0)[1:], images(1)[1:])
    np.testing.assert_allclose(refined[1:], alone, atol=1e-6)


def test_patches_keep_pixels_in_their_places():
    """A pixel changes what is near it, and in no other row or column."""
    net = Refiner(**SMALL | {"num_groups": 0}, patch=2)
    variables = drawn(net)
    first, second = images(0, (16, 16)), images(1, (16, 16))
    one = second.at[:, 3, 10].add(0.5)
    change = net.apply(variables, first, one) - net.apply(variables, first, second)
    rows, columns = np.nonzero(np.abs(change[0]).max(-1) > 1e-6)
    # Three 3x3 convolutions reach 3 patches beyond that at rows 2-3, columns 10-11.
    assert (rows.min(), rows.max()) == (0, 9)
    assert (columns.min(), columns.max()) == (4, 15)


def test_attention_lets_far_pixels_speak():
    net = Refiner(**SMALL | {"num_groups": 1, "reduction": 1})
    variables = drawn(net)
    first, second = images(0, (24, 24)), images(1, (24, 24))
    one = second.at[:, 0, 0].add(0.5)
    change = net.apply(variables, first, one) - net.apply(variables, first, second)
    assert np.abs(change[:, -1, -1]).max() > 1e-7


def test_precision_and_remat_are_no_other_net():
    variables = drawn(Refiner(**SMALL))
    exact = Refiner(**SMALL).apply(variables, images(0), images(1))
    rough = Refiner(**SMALL, dtype="bfloat16").apply(variables, images(0), images(1))
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.abs(rough - exact).max() < 0.05

    def gradient(remat):
        net = Refiner(**SMALL, remat=remat)
        return jax.jit(
            jax.grad(lambda v: jnp.sum(net.apply(v, images(0), images(1)) ** 2))
        )(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(True),
        gradient(False),
    )


@pytest.mark.parametrize(
    "changes, size, message",
    [
        ({"patch": 2}, (8, 9), "8x9 do not divide into patches of 2x2"),
        ({"reduction": 3}, (8, 8), "features=8 do not divide by reduction=3"),
    ],
)
def test_what_cannot_be_is_refused(changes, size, message):
    with pytest.raises(ValueError, match=message):
        net = Refiner(**SMALL | changes)
        jax.eval_shape(net.init, jax.random.key(0), images(0, size), images(1, size))
