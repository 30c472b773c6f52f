"""The renderer: positions, colours, shadows, what is cast again, and real frames."""

import json
import os
import pathlib

import numpy as np
import pytest

from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin import groundtruth, look, shading
from jax_vidpred.data.twin.render import Renderer
from jax_vidpred.data.twin.scene import Scene
from jax_vidpred.ops import geometry

REAL = os.environ.get("JAX_VIDPRED_CLEVRER")
needs_real = pytest.mark.skipif(
    not REAL, reason="JAX_VIDPRED_CLEVRER names no folder with official videos"
)


def make(properties, location, spin=0.0):
    """An annotation from locations [t, n, 3]; everything is turned by spin * t."""
    location = np.asarray(location, np.float64)
    orientation = np.zeros_like(location)
    orientation[..., 2] = spin * np.arange(len(location))[:, None]
    for k, (_, _, shape) in enumerate(properties):
        orientation[:, k, 0] = np.pi / 2 if shape == "cylinder" else 0
    zeros = np.zeros_like(location)
    return Annotation(
        video_id=0,
        properties=tuple(properties),
        location=location,
        orientation=orientation,
        velocity=zeros,
        angular_velocity=zeros,
        in_view=np.ones(location.shape[:2], bool),
    )


def busy():
    """All shapes and materials, close together; some move, one stays, one is out."""
    t = np.arange(5)[:, None]
    step = np.array([0.06, -0.11, 0])
    location = np.stack(
        [
            [0.4, 0.3, 0.2] + t * step,
            [0.0, -0.3, 0.2] + t * [0, 0.07, 0],
            np.tile([-0.5, 0.2, 0.2], (5, 1)),
            [0.9, -1.0, 0.2] + np.maximum(t - 2, 0) * [0.2, 0, 0],
            [0.0, 4.0, 0.2] - t * [0, 0.5, 0],
        ],
        axis=1,
    )
    properties = (
        ("cyan", "metal", "cube"),
        ("yellow", "rubber", "cylinder"),
        ("gray", "metal", "sphere"),
        ("red", "rubber", "sphere"),
        ("purple", "metal", "cylinder"),
    )
    return make(properties, location, spin=0.1)


@pytest.mark.parametrize("samples", [1, 2])
def test_only_what_moved_is_cast_again_and_it_is_enough(samples):
    annotation = busy()
    renderer = Renderer(96, 100, samples)
    video = renderer.render(annotation)
    assert video.shape == (5, 96, 100, 3) and video.dtype == np.uint8
    for t in range(5):
        np.testing.assert_array_equal(renderer.render(annotation, [t])[0], video[t])
    np.testing.assert_array_equal(
        renderer.render(annotation, [3, 0, 4]), video[[3, 0, 4]]
    )
    np.testing.assert_array_equal(Renderer(96, 100, samples).render(annotation), video)


def test_light_thrown_on_the_floor_is_cast_again():
    location = [[[0.5, y, 0.2], [-1.0, 1.0, 0.2]] for y in (-0.8, -0.2, 0.4)]
    annotation = make((("yellow", "rubber", "sphere"),) * 2, location)
    renderer = Renderer(160, 240, 1)
    video = renderer.render(annotation)
    for t in range(3):
        np.testing.assert_array_equal(renderer.render(annotation, [t])[0], video[t])


def test_a_small_picture_is_the_mean_of_a_large_one():
    annotation = busy()
    small = Renderer(24, 36, 8).render(annotation, [2])[0].astype(float)
    large = Renderer(192, 288, 1).render(annotation, [2])[0].astype(float)
    blocks = large.reshape(24, 8, 36, 8, 3).mean((1, 3))
    difference = np.abs(small - blocks)
    worst = np.sort(difference.max(-1).ravel())[-10:]
    assert difference.mean() < 0.5 and worst.mean() < 8


def test_no_object_no_shadow():
    far = make((("red", "rubber", "cube"),), [[[-30.0, 30.0, 0.2]]])
    picture = Renderer(64, 96).render(far)[0]
    np.testing.assert_array_equal(
        picture, np.rint(shading.encode(shading.floor_radiance(64, 96)))
    )
    # Corners and middle of the measured floor.
    assert abs(picture[-1, 0].astype(int) - [139, 137, 135]).max() < 4
    assert abs(np.median(picture[24]) - 132) < 3
    assert abs(np.median(picture[0]) - 118) < 6


@pytest.mark.parametrize("material", ["rubber", "metal"])
@pytest.mark.parametrize("color", sorted(look.PALETTE))
def test_objects_appear_at_their_centre_in_their_colour(color, material):
    place = np.array([0.6, -0.7, 0.2])
    annotation = make(((color, material, "sphere"),), place[None, None])
    picture = Renderer(80, 120).render(annotation)[0].astype(int)
    segments = groundtruth.cast_segments(annotation, 80, 120)[0]
    (column, row), _ = geometry.project(place, 80, 120)
    assert segments[int(row), int(column)] == 1
    seen = np.median(picture[segments == 1], axis=0)
    reflectance = np.array(look.PALETTE[color])
    # The same ordering of channels as the palette's, where it differs clearly.
    for a in range(3):
        for b in range(3):
            if reflectance[a] > reflectance[b] + 20:
                assert seen[a] > seen[b] + 5
    changed = np.abs(picture - Renderer(80, 120).render(away())[0]).max(-1) > 12
    rows, columns = np.nonzero(changed & (segments == 1))
    assert abs(rows.mean() + 0.5 - row) < 1.5 and abs(columns.mean() + 0.5 - column) < 1


def away():
    return make((("red", "rubber", "cube"),), [[[-30.0, 30.0, 0.2]]])


def test_measured_colours():
    """Medians over the official videos; the twin need not match lighting and place."""
    measured = {
        ("blue", "rubber"): (60, 79, 128),
        ("cyan", "rubber"): (64, 137, 133),
        ("gray", "rubber"): (89, 88, 85),
        ("green", "rubber"): (49, 90, 39),
        ("purple", "rubber"): (104, 55, 120),
        ("red", "rubber"): (117, 52, 51),
        ("yellow", "rubber"): (135, 130, 61),
        ("brown", "metal"): (93, 70, 38),
        ("cyan", "metal"): (39, 92, 91),
        ("purple", "metal"): (95, 50, 114),
    }
    errors = []
    for (color, material), expected in measured.items():
        shape = "sphere" if material == "rubber" else "cube"
        annotation = make(((color, material, shape),), [[[0.3, 0.1, 0.2]]], 0.5)
        picture = Renderer(80, 120).render(annotation)[0]
        mask = groundtruth.cast_segments(annotation, 80, 120)[0] == 1
        errors.append(np.abs(np.median(picture[mask], axis=0) - expected))
    assert np.mean(errors) < 8 and np.max(errors) < 30


def test_shadows_darken_the_floor_on_the_far_side_of_every_lamp():
    place = np.array([0.2, 0.0, 0.2])
    annotation = make((("gray", "rubber", "sphere"),), place[None, None])
    picture = Renderer(320, 480, 1).render(annotation)[0].astype(float)
    empty = Renderer(320, 480, 1).render(away())[0]
    segments = groundtruth.cast_segments(annotation, 320, 480)[0]
    for lamp in look.LAMP_POSITION:
        beam = place - lamp
        spot = place - beam * (place[2] / beam[2])
        (column, row), _ = geometry.project(spot)
        ratio = picture[int(row), int(column)] / empty[int(row), int(column)]
        if segments[int(row), int(column)] == 0:
            assert (ratio < 0.985).all()
    lit = segments == 0
    assert (picture[lit] <= empty[lit] + 12).all()
    assert (picture[:40] == empty[:40]).all()  # shadows end


def test_lamp_visibility_is_the_share_of_the_lamp_that_is_seen():
    annotation = make((("gray", "rubber", "cube"),), [[[0.0, 0.0, 0.2]]])
    scene = Scene(annotation)
    scene.set_frame(0)
    lamp = look.LAMP_POSITION[0]
    line = np.stack([np.linspace(0.3, -3, 400)] * 3) * (lamp / lamp[0])[:, None]
    line[2] = 0
    seen = shading.lamp_visibility(scene, line, 0, 8)
    assert seen[0] == 1 and seen[-1] == 1 and seen.min() == 0
    half = (seen > 0) & (seen < 1)
    assert 10 < half.sum() < 200  # soft on both sides


def test_display_curve_comes_back():
    values = np.linspace(0, 255, 100)
    np.testing.assert_allclose(
        shading.encode(shading.decode(values)), values, atol=1e-4
    )
    assert shading.encode(np.float32(7)) == pytest.approx(255, abs=1e-3)


def test_rounded_edges_bend_normals_only_near_edges():
    local = np.array([[0.19, 0.0, 0.0], [0.19, 0.18, 0.0], [0.19, 0.19, -0.19]]).T
    normal = np.tile([[1.0], [0], [0]], 3)
    bent = shading.round_edges(local, normal, "cube")
    np.testing.assert_allclose(np.linalg.norm(bent, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(bent[:, 0], [1, 0, 0])
    assert 0 < bent[1, 1] < bent[0, 1] and bent[2, 1] == 0
    np.testing.assert_allclose(bent[:, 2] * 3**0.5, [1, 1, -1], atol=1e-6)
    side = np.array([[0.1965 * 0.6], [0.0], [0.1965 * 0.8]])
    rim = shading.round_edges(side, side / 0.1965, "cylinder")
    np.testing.assert_allclose(rim, side / 0.1965, atol=1e-6)


def real_annotation(video_id):
    return Annotation.from_json(
        next(pathlib.Path(REAL).rglob(f"annotation_{video_id:05d}.json"))
    )


def real_frames(video_id, frames):
    av = pytest.importorskip("av")
    path = next(pathlib.Path(REAL).rglob(f"video_{video_id:05d}.mp4"))
    with av.open(str(path)) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack([decoded[t] for t in frames])


@needs_real
@pytest.mark.parametrize("video_id", [0, 1000, 2000, 10000])
def test_real_frames_are_matched(video_id):
    frames = [10, 40, 70, 100, 127]
    real = real_frames(video_id, frames).astype(float)
    ours = Renderer(320, 480).render(real_annotation(video_id), frames)
    psnr = 10 * np.log10(255**2 / ((ours - real) ** 2).mean((1, 2, 3)))
    assert psnr.mean() > 38 and psnr.min() > 36


def decode_mask(mask):
    """A COCO run-length mask, the fewest lines that decode the excerpt."""
    runs, codes = [], iter(ord(c) - 48 for c in mask["counts"])
    for code in codes:
        value, shift = code & 31, 5
        while code & 32:
            code = next(codes)
            value |= (code & 31) << shift
            shift += 5
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    height, width = mask["size"]
    bits = np.repeat(np.arange(len(runs)) % 2, runs)
    return bits.reshape(width, height).T.astype(bool)


@needs_real
def test_real_masks_are_matched():
    path = pathlib.Path(REAL) / "derender_proposals" / "proposal_00000.excerpt.json"
    if not path.exists():
        pytest.skip("no excerpt of derender proposals in JAX_VIDPRED_CLEVRER")
    annotation, scores = real_annotation(0), []
    for frame in json.loads(path.read_text())["frames"]:
        t = frame["frame_index"]
        segments = groundtruth.cast_segments(annotation, 320, 480, [t])[0]
        for found in frame["objects"]:
            theirs = decode_mask(found["mask"])
            k = np.bincount(segments[theirs], minlength=2)[1:].argmax()
            ours = segments == k + 1
            either = ours | theirs
            at_border = either[[0, -1]].any() or either[:, [0, -1]].any()
            assert annotation.properties[k][0] == found["color"]
            if not at_border:
                scores.append((ours & theirs).sum() / either.sum())
    assert len(scores) >= 12 and min(scores) > 0.85
