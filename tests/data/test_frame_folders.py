"""Folders of frames per split: into batches bit by bit, labels too, bad ones not."""

import json
import pathlib
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_frames import NUM_FRAMES, SIZE, make_video, whole_video, write_pictures

from jax_vidpred.data import clevrer, pipeline
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.flow_files import FlowGrid, flow_path, write_flow
from jax_vidpred.data.schema import (
    FLOW,
    LABEL,
    SEGMENTS,
    START,
    VIDEO,
    VIDEO_ID,
    DataError,
)
from jax_vidpred.data.video_io import read_video

SIZES = {"height": SIZE[0], "width": SIZE[1], "grid_stride": 4}
NUMBERS = {"train": (0, 1, 43263), "val": (0, 7), "test": (0,)}
OURS = {"train": "train", "val": "validation", "test": "test"}


def seed_of(split: str, number: int) -> int:
    return 10 * number + list(NUMBERS).index(split)


@pytest.fixture
def root(tmp_path):
    """Frames of all splits; the same numbers are other videos in other splits."""
    for split, numbers in NUMBERS.items():
        for number in numbers:
            folder = tmp_path / "frames" / split / f"{number:05d}"
            write_pictures(folder, make_video(seed_of(split, number)))
    return tmp_path / "frames"


def skipped(out: pathlib.Path) -> dict[str, str]:
    (listing,) = out.rglob("skipped.json")
    rows = json.loads(listing.read_text())
    return {pathlib.Path(row["video"]).name: row["reason"] for row in rows}


def test_frames_reach_batches_bit_by_bit(root, tmp_path):
    sources = prepare(root, tmp_path / "out", **SIZES)
    assert list(sources) == ["train", "validation", "test"]
    for split, numbers in NUMBERS.items():
        source = sources[OURS[split]]
        assert tuple(source.video_ids) == numbers
        assert not source.annotated.any() and LABEL not in source.fields
        for index, number in enumerate(numbers):
            video = make_video(seed_of(split, number))
            np.testing.assert_array_equal(whole_video(source, index, VIDEO), video)
    made = pipeline.train_batches(
        sources["train"], keys=(VIDEO,), batch_size=3, clip_frames=4, num_threads=0
    )
    batch = next(iter(made))
    assert sorted(batch[VIDEO_ID]) == [0, 1, 43263]
    for row, start, number in zip(
        batch[VIDEO], batch[START], batch[VIDEO_ID], strict=True
    ):
        wanted = make_video(seed_of("train", int(number)))[start : start + 4]
        np.testing.assert_array_equal(row, wanted)
    (metadata,) = (tmp_path / "out").rglob("metadata.json")
    assert list(json.loads(metadata.read_text())) == ["videos"]
    with pytest.raises(DataError, match="no annotated video, but segments are"):
        pipeline.usable_videos(sources["train"], (VIDEO, SEGMENTS), 4, 1)


def test_another_size_is_reached_by_averaging_areas(root, tmp_path):
    half = SIZES | {"height": SIZE[0] // 2, "width": SIZE[1] // 2}
    source = prepare(root, tmp_path / "out", **half)["validation"]
    video = make_video(seed_of("val", 7)).astype(float)
    cells = video.reshape(NUM_FRAMES, SIZE[0] // 2, 2, SIZE[1] // 2, 2, 3)
    difference = whole_video(source, 1, VIDEO) - cells.mean(axis=(2, 4))
    assert np.abs(difference).max() <= 1  # rounded twice, once a direction


def test_labels_come_with_the_frames(root, tmp_path):
    for split, number in (("train", 1), ("val", 0), ("val", 7)):
        folder = root / "labels" / split / f"{number:05d}"
        write_pictures(folder, make_video(1000 + seed_of(split, number)))
    write_pictures(root / "labels/train/09999", make_video(0))  # of no video
    sources = prepare(root, tmp_path / "out", **SIZES)
    assert list(sources["train"].labelled) == [False, True, False]
    assert sources["validation"].labelled.all()
    keys = (VIDEO, LABEL)
    assert list(pipeline.usable_videos(sources["train"], keys, 3, 1)) == [1]
    made = pipeline.eval_batches(
        sources["validation"],
        keys=keys,
        batch_size=2,
        clip_frames=3,
        clips=((1, 2), (0, 3)),
        num_threads=0,
    )
    (batch,) = made
    for row, (number, start) in enumerate(((7, 2), (0, 3))):
        for key, more in ((VIDEO, 0), (LABEL, 1000)):
            wanted = make_video(more + seed_of("val", number))[start : start + 3]
            np.testing.assert_array_equal(batch[key][row], wanted)
    with pytest.raises(DataError, match="'test' has no label pictures.*labels/test/0"):
        pipeline.check_keys(sources["test"], keys)


def test_labels_that_are_not_there(root, tmp_path):
    source = prepare(root, tmp_path / "out", **SIZES)["train"]
    for check in (
        lambda: pipeline.check_keys(source, (VIDEO, LABEL)),
        lambda: pipeline.usable_videos(source, (LABEL,), 2, 1),
    ):
        with pytest.raises(DataError, match="no label pictures, but 'label'") as caught:
            check()
        assert "\n" not in str(caught.value)


def test_changed_labels_are_prepared_anew(root, tmp_path):
    prepare(root, tmp_path / "out", **SIZES)
    write_pictures(root / "labels/train/00000", make_video(5))
    first = prepare(root, tmp_path / "out", **SIZES)["train"]
    np.testing.assert_array_equal(whole_video(first, 0, LABEL), make_video(5))
    write_pictures(root / "labels/train/00000", make_video(6, size=(8, 8)))
    second = prepare(root, tmp_path / "out", **SIZES)["train"]
    assert (whole_video(second, 0, LABEL) != make_video(5)).any()


def test_bad_videos_are_skipped_and_counted(root, tmp_path, capsys):
    train = root / "train"

    def spoil(name):
        write_pictures(train / name, make_video(0))
        return train / name / "00002.png"

    cut = spoil("00010")
    cut.write_bytes(cut.read_bytes()[:300])
    spoil("00011").unlink()
    (train / "00012/thumbnail.png").write_bytes(spoil("00012").read_bytes())
    write_pictures(train / "00013", make_video(0, 2), "{:05d}.jpg")
    write_pictures(train / "00013", make_video(0, 2))
    bomb = spoil("00014")
    picture = bytearray(bomb.read_bytes())
    picture[16:24] = (10**5).to_bytes(4, "big") * 2  # width and height of the header
    picture[29:33] = zlib.crc32(picture[12:29]).to_bytes(4, "big")
    bomb.write_bytes(picture)
    outside = tmp_path / "secret"
    write_pictures(outside, make_video(3))
    frame = spoil("00015")
    frame.unlink()
    frame.symlink_to(outside / "00002.png")
    (train / "00016").symlink_to(outside)
    spoil("00017").unlink()
    (train / "00017/00002.png").symlink_to("nothing")
    (train / "00018").mkdir()
    (spoil("00019")).write_text("%!PS (no picture) show")
    write_pictures(root / "labels/train/00000", make_video(0, NUM_FRAMES - 1))
    write_pictures(root / "labels/train/00001", make_video(0))
    (root / "labels/train/00001/00000.png").write_bytes(b"")
    (train / "00000/.hidden.png").write_bytes(b"")

    sources = prepare(root, tmp_path / "out", **SIZES)
    assert list(sources["train"].video_ids) == [43263]
    reasons = skipped(tmp_path / "out")
    for name, reason in {
        "00000": "has 5 pictures, but",
        "00001": "labels/train/00001/00000.png: not a readable picture",
        "00010": "00002.png: not a readable picture",
        "00011": "00003.png: wanted frame 2 after 1; number the frames",
        "00012": "thumbnail.png: frames are named by their numbers",
        "00013": "00000.png: wanted frame 1 after 0",
        "00014": "00002.png: not a readable picture .Image size .* exceeds limit",
        "00015": "00002.png: leads out of .*, and such links are not followed",
        "00016": "train/00016: leads out of .*, and such links are not followed",
        "00017": "00002.png: not a readable picture",
        "00018": "00018: no frames in it",
        "00019": "00002.png: not a readable picture",
    }.items():
        given = reasons.pop(name)
        pytest.raises(DataError, _raise, given).match(reason)
        assert "\n" not in given
    assert not reasons
    assert "Skipped 12 videos that cannot be used" in capsys.readouterr().err


def _raise(text):
    raise DataError(text)


def test_a_split_that_is_a_link_out_of_the_root(root, tmp_path):
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="none of the 3 videos.*leads out of"):
        prepare(root, tmp_path / "out", **SIZES)
    linked = tmp_path / "linked"  # the root itself may be one
    linked.symlink_to(root)
    (root / "train").unlink()
    assert list(prepare(linked, tmp_path / "out", **SIZES)) == ["validation", "test"]


def test_more_training_videos_than_clevrer_has(tmp_path):
    count = 10_050
    for number in range(count):
        (tmp_path / f"train/{number:05d}").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"validation/{number:05d}").mkdir(parents=True)
    index = clevrer.index_files(tmp_path)
    assert {split: len(videos) for split, videos in index.items()} == {
        "train": count,
        "validation": 3,
    }
    assert [one.video_id for one in index["train"]] == list(range(count))
    assert index["train"][10_001].video == tmp_path / "train/10001"


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    video = make_video(1, 12)
    write_pictures(tmp_path / "train/00000", video, "frame{}.png")
    (files,) = clevrer.index_files(tmp_path)["train"]
    arrays = clevrer.read_pictures(files, None)
    np.testing.assert_array_equal(arrays[VIDEO], video)
    np.testing.assert_array_equal(read_video(files.video, max_frames=3), video[:3])


def test_names_that_are_no_numbers_are_counted(tmp_path):
    for name in ("walking_d2", "boxing_d1", ".cache", "__MACOSX", "running_d9"):
        write_pictures(tmp_path / "train" / name, make_video(0, 1))
    names = [one.video.name for one in clevrer.index_files(tmp_path)["train"]]
    assert names == ["boxing_d1", "running_d9", "walking_d2"]
    write_pictures(tmp_path / "labels/train/running_d9", make_video(0, 1))
    with pytest.raises(DataError, match="running_d9 would be the labels of .*boxing"):
        clevrer.index_files(tmp_path)
    write_pictures(tmp_path / "labels/train/boxing_d1", make_video(0, 1))
    files = clevrer.index_files(tmp_path)["train"]
    assert [one.label and one.label.name for one in files] == [
        *("boxing_d1", "running_d9"),
        None,
    ]


@pytest.mark.parametrize(
    "folders, message",
    [
        (("val/00000", "validation/00000"), "is there twice, val and validation"),
        (("train/1", "train/01"), "video 1 is there twice"),
        (("trane/00000",), "no videos in it; wanted files video_NNNNN.mp4.*or folders"),
    ],
)
def test_layouts_that_are_ambiguous(tmp_path, folders, message):
    for folder in folders:
        write_pictures(tmp_path / folder, make_video(0, 1))
    with pytest.raises(DataError, match=message) as caught:
        clevrer.index_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_pictures_beside_clevrers_own_files_change_nothing(tmp_path):
    write_pictures(tmp_path / "train/previews", make_video(0, 1))
    (tmp_path / "video_10000.mp4").touch()
    assert list(clevrer.index_files(tmp_path)) == ["validation"]


def test_stored_flow_is_of_the_right_split(root, tmp_path):
    grid, cells = FlowGrid(*SIZE, 4, 1), (NUM_FRAMES - 1, 4, 6)
    for value, split in ((1, "train"), (2, "validation")):
        path = flow_path(root, "raft_small", grid, 0, split)
        write_flow(path, np.full((*cells, 2), value), np.ones(cells), "abc")
    sources = prepare(root, tmp_path / "out", **SIZES)
    for value, split in ((1, "train"), (2, "validation")):
        assert (whole_video(sources[split], 0, FLOW) == value).all()
        assert sources[split].flow_source[:2] == ("raft_small", "")
    assert sources["test"].flow_source == ("",)


def test_jpeg_files_are_frames_too(tmp_path):
    write_pictures(tmp_path / "train/00000", make_video(2), "{:05d}.JPG")
    (files,) = clevrer.index_files(tmp_path)["train"]
    for at, frame in enumerate(clevrer.read_pictures(files, None)[VIDEO]):
        with Image.open(files.video / f"{at:05d}.JPG") as picture:
            np.testing.assert_array_equal(frame, np.asarray(picture))


def test_folders_called_as_videos_of_clevrer_stay_in_their_split(tmp_path):
    for folder in ("train/video_00000", "val/video_00001"):
        write_pictures(tmp_path / folder, make_video(0))
    found = clevrer.index_files(tmp_path)
    assert {split: len(files) for split, files in found.items()} == {
        "train": 1,
        "validation": 1,
    }
