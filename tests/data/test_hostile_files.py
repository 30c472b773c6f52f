"""Files from outside are data: absurd ones are refused in one line, or skipped."""

import json
import pathlib
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from tiny_clevrer import NUM_FRAMES, make_annotation

import jax_vidpred
from jax_vidpred.data import clevrer, pipeline, video_io
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.flow_files import is_flow_of, read_flow, write_flow
from jax_vidpred.data.schema import MASK, VIDEO, VIDEO_ID, Annotation, DataError

SIZES = {"height": 16, "width": 24, "grid_stride": 4}
OBJECTS = ("motion_trajectory", 3, "objects")


@pytest.fixture
def root(data_root, tmp_path):
    """A copy that a test may spoil."""
    return pathlib.Path(shutil.copytree(data_root, tmp_path / "clevrer"))


def set_at(raw, place, value):
    *path, last = place
    for key in path:
        raw = raw[key]
    if value is None:
        del raw[last]
    else:
        raw[last] = value


@pytest.mark.parametrize(
    "place, value",
    [
        (("scene_index",), 1e999),
        (("scene_index",), "5"),
        (("scene_index",), None),
        (("motion_trajectory",), {"a": 1}),
        (("motion_trajectory",), [5]),
        (("motion_trajectory", 3, "frame_id"), 2),
        ((*OBJECTS,), []),
        ((*OBJECTS, 1), 7),
        ((*OBJECTS, 1, "object_id"), -1),
        ((*OBJECTS, 1, "location"), [1, 2]),
        ((*OBJECTS, 1, "location"), [1, 2, "3"]),
        ((*OBJECTS, 1, "location"), [1, 2, [3]]),
        ((*OBJECTS, 1, "location"), [1, 2, float("nan")]),
        ((*OBJECTS, 1, "velocity"), [1, 2, 1e300]),
        ((*OBJECTS, 1, "velocity"), [1, 2, 10**400]),
        ((*OBJECTS, 1, "inside_camera_view"), "no"),
        (("object_property",), []),
        (("object_property", 0, "shape"), "pyramid"),
        (("object_property", 0, "color"), ["red"]),
        (("object_property", 0), "red"),
        (("collision", 0, "object_ids"), [0, -1]),
        (("collision", 0, "object_ids"), [0, 3]),
        (("collision", 0, "object_ids"), [0, 0]),
        (("collision", 0, "object_ids"), [0, 1, 2]),
        (("collision", 0, "object_ids"), [0.5, 1]),
        (("collision", 0, "frame_id"), -4),
        (("collision", 0, "frame_id"), 10**30),
        (("collision", 0, "frame_id"), "4"),
        (("collision", 0, "location"), "here"),
        (("collision",), 4),
    ],
)
def test_absurd_annotations(tmp_path, place, value):
    raw = json.loads(make_annotation(5).to_json())
    (tmp_path / "good.json").write_text(json.dumps(raw))
    Annotation.from_json(tmp_path / "good.json")
    set_at(raw, place, value)
    (tmp_path / "bad.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match="bad.json: not an official") as caught:
        Annotation.from_json(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b"\xff\xfe\x00",
        b"1" * 10**5,
        b"null",
        b'"' + b"\x00" * 100,
    ],
    ids=["empty", "deep lists", "deep dicts", "no text", "long", "null", "zeros"],
)
def test_files_that_are_no_annotations_at_all(tmp_path, data):
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match="bad.json: not an official CLEVRER"):
        Annotation.from_json(path)
    with pytest.raises(DataError, match="bad.json: not a CLEVRER proposal file"):
        list(clevrer.iterate_proposals(path, ()))


def test_files_that_are_too_large_are_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
    with pytest.raises(DataError, match="larger than 64 MiB"):
        Annotation.from_json(path)


def test_masks_that_say_they_are_huge(tmp_path):
    mask = {"size": [10**6, 10**6], "counts": "PPPo`c0"}
    one = {"color": "red", "material": "metal", "shape": "cube", "mask": mask}
    text = json.dumps({"frames": [{"frame_index": 0, "objects": [one]}]})
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match="a mask of more than"):
        list(
            clevrer.iterate_proposals(
                tmp_path / "bad.json", (("red", "metal", "cube"),)
            )
        )


def _header(descr: str, shape: tuple) -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()


@pytest.mark.parametrize(
    "flow",
    [
        _header("'<f2'", (10**6, 10**6, 4, 2)),
        _header("'<f2'", (-1, 2, 3, 2)),
        _header("'|O'", (3, 2, 3, 2)) + b"cos\nsystem\n(S'touch hacked'\ntR.",
        _header("'<f2'", (3, 2, 3, 2)) + bytes(10),
        _header("__import__('os').system('touch hacked')", (3, 2, 3, 2)),
        b"",
    ],
    ids=["huge", "negative", "pickle", "cut off", "code", "empty"],
)
def test_stored_flow_that_says_what_it_is_not(tmp_path, monkeypatch, flow):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "flow.npz"
    write_flow(path, np.zeros((3, 2, 3, 2)), np.zeros((3, 2, 3)), "abc")
    read_flow(path, 3, (2, 3))
    with zipfile.ZipFile(path) as file:
        others = {name: file.read(name) for name in ("visible.npy", "weights.npy")}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("flow.npy", flow)
        for name, data in others.items():
            file.writestr(name, data)
    with pytest.raises(DataError, match="flow.npz: no stored flow .*; delete it and"):
        read_flow(path, 3, (2, 3))
    with zipfile.ZipFile(path, "w") as file:
        for name in ("flow.npy", "visible.npy", "weights.npy"):
            file.writestr(name, flow)
    assert not is_flow_of(path, "abc")
    assert [entry.name for entry in tmp_path.iterdir()] == ["flow.npz"]


def test_pictures_that_say_they_are_huge(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(video_io.VideoError, match="0.png: not a readable picture"):
        video_io.read_video(tmp_path)


def test_damaged_titles_of_a_video_do_no_harm(root):
    path = next(root.rglob("video_00000.mp4"))
    frames = video_io.read_video(path)
    data = path.read_bytes()
    at = data.index(b"Lavf")
    path.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
    np.testing.assert_array_equal(video_io.read_video(path), frames)


def test_bad_files_among_good_ones_and_training_goes_on(root, tmp_path, capsys):
    videos = {path.name: path for path in root.rglob("*.mp4")}
    cut = videos["video_00000.mp4"]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    videos["video_00001.mp4"].write_bytes(b"")
    videos["video_00002.mp4"].write_text("This is no video.\n" * 100)
    raw = (
        make_annotation(10001)
        .to_json()
        .replace('"object_ids": [0', '"object_ids": [-9')
    )
    next(root.rglob("annotation_10001.json")).write_text(raw)
    sources = prepare(root, tmp_path / "out", **SIZES)
    assert {split: list(source.video_ids) for split, source in sources.items()} == {
        "train": [5, 1000],
        "validation": [10000],
        "test": [15000],
    }
    (listing,) = (tmp_path / "out").rglob("skipped.json")
    rows = json.loads(listing.read_text())
    assert [pathlib.Path(row["video"]).name for row in rows] == [
        *("video_00000.mp4", "video_00001.mp4", "video_00002.mp4"),
        "video_10001.mp4",
    ]
    assert "Skipped 4 videos that cannot be used; the first:" in capsys.readouterr().err
    batches = iter(
        pipeline.train_batches(
            sources["train"], keys=(VIDEO,), batch_size=4, clip_frames=NUM_FRAMES
        )
    )
    for _ in range(3):
        batch = next(batches)
        assert sorted(batch[VIDEO_ID]) == [5, 5, 1000, 1000] and batch[MASK].all()


@pytest.mark.parametrize(
    "name, data", [("dataset_info.json", b"{}"), ("metadata.json", b"[" * 10**5)]
)
def test_damaged_lists_of_what_is_prepared(prepared, data_root, tmp_path, name, data):
    out = shutil.copytree(
        pathlib.Path(prepared["train"].folder).parents[1], tmp_path / "out"
    )
    (path,) = out.rglob(name)
    path.write_bytes(data)
    sources = prepare(data_root, out, **SIZES)
    assert list(sources["train"].video_ids) == list(prepared["train"].video_ids)


def test_nothing_in_the_package_unpickles_arrays():
    for path in pathlib.Path(jax_vidpred.__file__).parent.rglob("*.py"):
        assert not re.search(r"allow_pickle *= *(?!False)", path.read_text()), path
