"""Official files: any layout is found, contents become arrays, bad ones one line."""

import json
import os
import pathlib

import numpy as np
import pytest
from tiny_clevrer import NUM_FRAMES, make_annotation, write_pair

from jax_vidpred.data import clevrer, schema
from jax_vidpred.data.schema import DataError
from jax_vidpred.data.twin import groundtruth
from jax_vidpred.data.video_io import write_mp4
from jax_vidpred.ops.masks import encode_rle


def touch(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


LAYOUTS = {
    "reference": (
        "video_train/video_00000-01000/video_00007.mp4",
        "annotation_train/annotation_00000-01000/annotation_00007.json",
        "derender_proposals/proposal_00007.json",
    ),
    "slotformer": (
        "videos/train/video_00000-01000/video_00007.mp4",
        "annotations/train/annotation_00000-01000/annotation_00007.json",
        "derender_proposals/proposal_00007.json",
    ),
    "flat": (
        "train/video_00007.mp4",
        "annotations/train/annotation_00007.json",
        "derender_proposals/proposal_00007.json",
    ),
    "ns-dr": (
        "video_frames/sim_00007/frame_00000.png",
        "annotations/annotation_00007.json",
        "processed_proposals/sim_00007.json",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(tmp_path, layout):
    video, annotation, proposals = LAYOUTS[layout]
    touch(tmp_path, video, annotation, proposals)
    touch(tmp_path, "__MACOSX/video_00007.mp4", "._video_00007.mp4", "video_7.mp4")
    touch(tmp_path, "annotation_00008.json")  # no video: left out
    (files,) = clevrer.index_files(tmp_path)["train"]
    folder = tmp_path / video if layout != "ns-dr" else (tmp_path / video).parent
    assert files == clevrer.Files(
        7, folder, tmp_path / annotation, tmp_path / proposals
    )


def test_the_number_determines_split_and_order(tmp_path):
    numbers = (15000, 9999, 10000, 3, 14999, 19999)
    touch(tmp_path, *(f"train/video_{number:05d}.mp4" for number in numbers))
    index = clevrer.index_files(tmp_path)
    assert {split: [f.video_id for f in files] for split, files in index.items()} == {
        "train": [3, 9999],
        "validation": [10000, 14999],
        "test": [15000, 19999],
    }
    assert list(index) == ["train", "validation", "test"]


def test_unusable_roots_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        clevrer.index_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no videos in it"):
        clevrer.index_files(tmp_path)
    touch(tmp_path, "a/video_00001.mp4", "b/video_00001.mp4")
    with pytest.raises(DataError, match="video 00001 is there twice"):
        clevrer.index_files(tmp_path)


OPTIONS = {"height": 16, "width": 24, "grid_stride": 4, "frame_stride": 3}


@pytest.fixture
def pair(tmp_path):
    write_pair(tmp_path, 0)
    return clevrer.index_files(tmp_path)["train"][0]


def test_arrays_of_a_video(pair):
    arrays = clevrer.read_arrays(pair, **OPTIONS)
    shapes = {key: (array.shape, array.dtype.name) for key, array in arrays.items()}
    t = NUM_FRAMES
    assert shapes == {
        schema.VIDEO: ((t, 16, 24, 3), "uint8"),
        schema.FLOW: ((t, 4, 6, 2), "float16"),
        schema.VISIBLE: ((t, 4, 6, 1), "float16"),
        schema.SEGMENTS: ((t, 16, 24), "uint8"),
        schema.STATE: ((t, 6, 4), "float32"),
        schema.PRESENT: ((t, 6), "uint8"),
        schema.COLLISION: ((t,), "float32"),
        schema.PAIRS: ((t, 6, 6), "uint8"),
    }
    annotation = make_annotation(0)
    flow, visible = groundtruth.cast_flow(annotation, 4, 6, frame_stride=3)
    np.testing.assert_array_equal(arrays["flow"][:-3], flow.astype(np.float16))
    np.testing.assert_array_equal(arrays["visible"][:-3, ..., 0], visible)
    for key in ("flow", "visible", "collision"):
        assert not arrays[key][-3:].any()
    assert np.abs(flow).max() > 0.3  # something moves
    # x, y, vx, vy of the three objects; nothing in the places of absent ones.
    np.testing.assert_allclose(
        arrays["state"][5, 2],
        [*annotation.location[5, 2, :2], *annotation.velocity[5, 2, :2]],
    )
    assert not arrays["state"][:, 3:].any() and not arrays["present"][:, 3:].any()
    np.testing.assert_array_equal(arrays["present"][:, 1], [0] * 7 + [1] * (t - 7))


def test_collisions_count_in_the_step_that_holds_their_frame(pair):
    # Frames 4, 10, 10, 21: step t covers frames t .. t + 2, there are steps 0 .. 18.
    counts = clevrer.read_arrays(pair, **OPTIONS)[schema.COLLISION]
    wanted = np.zeros(NUM_FRAMES)
    wanted[2:5] = 1
    wanted[8:11] = 2
    np.testing.assert_array_equal(counts, wanted)
    pairs = clevrer.read_arrays(pair, **OPTIONS)[schema.PAIRS]
    assert pairs[9, 0, 2] and pairs[9, 2, 1] and not pairs[9, 0, 1]
    np.testing.assert_array_equal(pairs.sum((1, 2)), 2 * wanted)
    # Every third step covers each frame once: nothing is lost and nothing counts twice.
    assert counts[0::3].sum() == counts[1::3].sum() == counts[2::3].sum() == 3


def test_without_annotation_only_frames(tmp_path):
    write_pair(tmp_path, 2, annotated=False)
    (files,) = clevrer.index_files(tmp_path)["train"]
    assert list(clevrer.read_arrays(files, **OPTIONS)) == [schema.VIDEO]


def test_files_that_do_not_belong_together(pair, tmp_path):
    pair.annotation.write_text(make_annotation(1).to_json())
    with pytest.raises(DataError, match="is about video 1; wanted 0"):
        clevrer.read_arrays(pair, **OPTIONS)
    pair.annotation.write_text(make_annotation(0, num_frames=30).to_json())
    with pytest.raises(DataError, match="has 30 frames, but .* has 22"):
        clevrer.read_arrays(pair, **OPTIONS)
    pair.annotation.write_text("{}")
    with pytest.raises(DataError, match="not an official CLEVRER annotation"):
        clevrer.read_arrays(pair, **OPTIONS)
    with pytest.raises(DataError, match="wants at least 23"):
        pair.annotation.write_text(make_annotation(0).to_json())
        clevrer.read_arrays(pair, **(OPTIONS | {"frame_stride": 22}))


PROPERTIES = (
    ("red", "metal", "cube"),
    ("blue", "rubber", "sphere"),
    ("cyan", "metal", "cube"),
    ("cyan", "metal", "sphere"),
)


def square(at: int) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[at : at + 4, at : at + 5] = True
    return mask


def detection(name: tuple[str, str, str], at: int, score: float) -> dict:
    keys = ("color", "material", "shape")
    return dict(zip(keys, name, strict=True)) | {
        "mask": encode_rle(square(at)),
        "score": score,
    }


def write_proposals(path, frames) -> pathlib.Path:
    rows = [{"frame_index": t, "objects": objects} for t, objects in frames]
    path.write_text(json.dumps({"video_index": 0, "frames": rows}))
    return path


def test_proposals_are_matched_by_properties_not_by_place(tmp_path):
    path = write_proposals(
        tmp_path / "proposal_00000.json",
        [
            (3, []),
            (
                9,
                [
                    detection(PROPERTIES[2], 7, 0.9),
                    detection(("blue", "metal", "sphere"), 2, 0.8),  # wrong material
                    detection(PROPERTIES[0], 1, 0.6),
                    detection(PROPERTIES[0], 5, 0.7),  # surer
                    detection(("gray", "metal", "cube"), 9, 0.99),  # no such object
                ],
            ),
        ],
    )
    ((frame, masks),) = clevrer.iterate_proposals(path, PROPERTIES)
    assert frame == 9 and masks.shape == (4, 20, 30) and masks.dtype == bool
    for mask, at in zip(masks[:3], (5, 2, 7), strict=True):
        np.testing.assert_array_equal(mask, square(at))
    assert not masks[3].any()


def test_an_exact_match_is_never_taken_by_a_likeness(tmp_path):
    objects = [
        detection(("blue", "metal", "sphere"), 2, 0.99),
        detection(("blue", "rubber", "sphere"), 6, 0.5),
    ]
    path = write_proposals(tmp_path / "sim_00000.json", [(0, objects)])
    ((_, masks),) = clevrer.iterate_proposals(path, PROPERTIES)
    np.testing.assert_array_equal(masks[1], square(6))


def test_damaged_proposals_are_one_clear_line(tmp_path):
    path = tmp_path / "proposal_00000.json"
    broken = detection(PROPERTIES[0], 1, 0.5)
    broken["mask"]["counts"] = broken["mask"]["counts"][:-1]
    for text in ('{"frames": 3}', "[]", "no json"):
        path.write_text(text)
        with pytest.raises(DataError, match="not a CLEVRER proposal file"):
            list(clevrer.iterate_proposals(path, PROPERTIES))
    write_proposals(path, [(0, [broken])])
    with pytest.raises(DataError, match="proposal_00000.json"):
        list(clevrer.iterate_proposals(path, PROPERTIES))


def test_real_proposals_lie_on_their_objects():
    root = os.environ.get("JAX_VIDPRED_CLEVRER")
    if not root:
        pytest.skip("JAX_VIDPRED_CLEVRER is not set: no real CLEVRER files")
    index = clevrer.index_files(root)
    annotation = schema.Annotation.from_json(index["train"][0].annotation)
    excerpt = next(pathlib.Path(root).rglob("proposal_00000*.json"))
    found = dict(clevrer.iterate_proposals(excerpt, annotation.properties))
    assert sorted(found) == [0, 9, 10]
    for frame, masks in found.items():
        segments = groundtruth.cast_segments(annotation, 320, 480, [frame])[0]
        for k, mask in enumerate(masks):
            if mask.sum() > 400:  # large enough to compare
                drawn = segments == k + 1
                assert (mask & drawn).sum() / (mask | drawn).sum() > 0.7


def test_a_video_of_another_length_than_annotated(pair):
    write_mp4(pair.video, np.zeros((9, 32, 48, 3), np.uint8))
    with pytest.raises(DataError, match="has 22 frames, but .* has 9"):
        clevrer.read_arrays(pair, **OPTIONS)


def test_some_videos_of_one_split_spread_evenly(tmp_path):
    for number in (0, 1, 2, 10000):
        (tmp_path / f"video_{number:05d}.mp4").touch()
    chosen = clevrer.choose_files(tmp_path, {"train": 2})
    assert [one.video_id for one in chosen["train"]] == [0, 1] and len(chosen) == 1
    assert len(clevrer.choose_files(tmp_path, {"train": None})["train"]) == 3
    assert clevrer.choose_files(tmp_path, None) == clevrer.index_files(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        clevrer.choose_files(tmp_path, {"test": None})
