"""The writer of simulated data sets: layout, content, seeds, resuming, refusals."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jax_vidpred.data import schema, video_io
from jax_vidpred.data.twin import dataset
from jax_vidpred.data.twin.groundtruth import cast_segments
from jax_vidpred.data.twin.render import Renderer
from jax_vidpred.ops import masks

HEIGHT, WIDTH = 32, 48
COUNTS = {"train": 1, "validation": 1, "test": 1}


def contents(root):
    root = pathlib.Path(root)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("twin")
    made = dataset.write_dataset(out, COUNTS, HEIGHT, WIDTH, seed=3, num_workers=1)
    assert made == 3
    return out


def test_layout_is_the_official_one(written):
    assert set(contents(written)) == {
        "twin.json",
        "video_train/video_00000-01000/video_00000.mp4",
        "video_validation/video_10000-11000/video_10000.mp4",
        "video_test/video_15000-16000/video_15000.mp4",
        "annotation_train/annotation_00000-01000/annotation_00000.json",
        "annotation_validation/annotation_10000-11000/annotation_10000.json",
        "annotation_test/annotation_15000-16000/annotation_15000.json",
        "derender_proposals/proposal_00000.json",
        "derender_proposals/proposal_10000.json",
        "derender_proposals/proposal_15000.json",
    }


def test_proposals_have_every_key_and_the_exact_masks(written):
    path = written / "annotation_train/annotation_00000-01000/annotation_00000.json"
    annotation = schema.Annotation.from_json(path)
    proposals = json.loads(
        (written / "derender_proposals/proposal_00000.json").read_text()
    )
    assert set(proposals) == {"video_index", "video_filename", "frames"}
    assert proposals["video_filename"] == "video_00000.mp4"
    assert [f["frame_index"] for f in proposals["frames"]] == list(range(128))
    segments = cast_segments(annotation, HEIGHT, WIDTH)
    for frame in proposals["frames"]:
        t = frame["frame_index"]
        seen = np.zeros((HEIGHT, WIDTH), np.uint8)
        for entry in frame["objects"]:
            assert set(entry) == {
                *("mask", "video_index", "frame_index", "score"),
                *("color", "material", "shape"),
            }
            assert entry["frame_index"] == t and entry["score"] == 1.0
            triple = entry["color"], entry["material"], entry["shape"]
            mask = masks.decode_rle(entry["mask"])
            assert mask.any()
            seen[mask] = annotation.properties.index(triple) + 1
        np.testing.assert_array_equal(seen, segments[t])


def test_proposals_have_the_keys_of_the_real_files(written):
    root = os.environ.get("JAX_VIDPRED_CLEVRER")
    if not root:
        pytest.skip("set JAX_VIDPRED_CLEVRER to a folder of official files")
    paths = sorted(pathlib.Path(root).glob("derender_proposals/proposal_*.json"))
    if not paths:
        pytest.skip(f"no derender_proposals in {root}")
    real = json.loads(paths[0].read_text())
    twin = json.loads((written / "derender_proposals/proposal_00000.json").read_text())
    assert set(real) <= set(twin)
    assert set(real["frames"][0]) == set(twin["frames"][0])
    found, made = (p["frames"][0]["objects"][0] for p in (real, twin))
    assert {k: type(v) for k, v in found.items()} == {
        k: type(v) for k, v in made.items()
    }


def test_video_is_the_picture_of_the_annotation(written):
    path = written / "annotation_test/annotation_15000-16000/annotation_15000.json"
    annotation = schema.Annotation.from_json(path)
    assert annotation.video_id == 15000
    video = video_io.read_video(
        written / "video_test/video_15000-16000/video_15000.mp4"
    )
    assert video.shape == (128, HEIGHT, WIDTH, 3)
    exact = Renderer(HEIGHT, WIDTH).render(annotation)
    error = (video.astype(float) - exact) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 33  # dB; what the encoding costs


@pytest.mark.slow
def test_bytes_depend_on_nothing_but_seed_and_size(written, tmp_path):
    made = dataset.write_dataset(tmp_path, COUNTS, HEIGHT, WIDTH, seed=3, num_workers=2)
    assert made == 3
    assert contents(tmp_path) == contents(written)
    other = tmp_path / "other"
    dataset.write_dataset(other, {"train": 1}, HEIGHT, WIDTH, seed=4, num_workers=1)
    name = "annotation_train/annotation_00000-01000/annotation_00000.json"
    assert (other / name).read_bytes() != (written / name).read_bytes()


def test_only_what_lacks_is_made(written, tmp_path):
    out = tmp_path / "data"
    for name, data in contents(written).items():
        video_io.write_whole(out / name, data)
    whole = contents(out)
    gone = out / "video_validation/video_10000-11000/video_10000.mp4"
    gone.unlink()
    # A killed process leaves its unfinished file behind.
    (gone.parent / f".{gone.name}.123").write_bytes(b"half")
    kept = out / "video_train/video_00000-01000/video_00000.mp4"
    before = kept.stat().st_mtime_ns
    progress = []
    made = dataset.write_dataset(
        out,
        COUNTS,
        HEIGHT,
        WIDTH,
        seed=3,
        num_workers=1,
        on_progress=lambda *numbers: progress.append(numbers),
    )
    assert made == 1
    assert progress == [(2, 3), (3, 3)]
    assert contents(out) == whole
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_more_videos_of_the_same_data_set_may_be_added(written, tmp_path):
    dataset.write_dataset(tmp_path, {"train": 1}, HEIGHT, WIDTH, 3, num_workers=1)
    assert dataset.write_dataset(tmp_path, COUNTS, HEIGHT, WIDTH, 3, 1) == 2
    assert contents(tmp_path) == contents(written)
    assert dataset.write_dataset(tmp_path, {"train": 1}, HEIGHT, WIDTH, 3, 1) == 0
    assert contents(tmp_path) == contents(written)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 4}, "seed 3 instead of 4; delete the folder"),
        ({"width": 64}, "width 48 instead of 64"),
        ({"height": 33}, "height 33; wanted an even number"),
        ({"width": 8}, "width 8; wanted an even number of at least 16"),
        ({"seed": -1}, "seed -1; wanted 0 or more"),
        ({"num_workers": 0}, "0 workers; wanted 1 or more"),
        ({"num_videos": {"train": 10_001}}, "10001 videos of split 'train'; wanted"),
        ({"num_videos": {"test": -1}}, "-1 videos of split 'test'"),
        ({"num_videos": {"val": 1}}, "split 'val'; wanted train 0 to 10000"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(written, changes, message):
    arguments = {
        "num_videos": COUNTS,
        "height": HEIGHT,
        "width": WIDTH,
        "seed": 3,
        "num_workers": 1,
    }
    before = contents(written)
    with pytest.raises(schema.DataError) as caught:
        dataset.write_dataset(written, **(arguments | changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(written) == before


def test_foreign_and_damaged_folders_are_refused(tmp_path):
    (tmp_path / "video_train").mkdir()
    with pytest.raises(schema.DataError, match="not simulated"):
        dataset.write_dataset(tmp_path, COUNTS, HEIGHT, WIDTH, num_workers=1)
    (tmp_path / "twin.json").write_text('{"seed":')
    with pytest.raises(schema.DataError, match="damaged"):
        dataset.write_dataset(tmp_path, COUNTS, HEIGHT, WIDTH, num_workers=1)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(schema.DataError, match="choose another folder"):
        dataset.write_dataset(file, COUNTS, HEIGHT, WIDTH, num_workers=1)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_file_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, num_workers):
    # A folder in the place of a file stands for everything that a disk may refuse.
    blocked = tmp_path / "derender_proposals/proposal_00000.json"
    (tmp_path / "twin.json").parent.mkdir(exist_ok=True)
    dataset.write_dataset(tmp_path, {}, HEIGHT, WIDTH, num_workers=1)
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(schema.DataError, match=r"proposal_00000.json: cannot be"):
        dataset.write_dataset(
            tmp_path, {"train": 2}, HEIGHT, WIDTH, num_workers=num_workers
        )
    assert not list(tmp_path.rglob("video_00000.mp4"))
    assert not [name for name in contents(tmp_path) if "/." in name]


def test_workers_import_no_machine_learning():
    # Every worker process pays for what this module imports.
    code = (
        "import sys, jax_vidpred.data.twin.dataset;"
        "print([m for m in ('jax', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
