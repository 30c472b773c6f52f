"""Preparing: records hold what the files hold; bad files counted; nothing stale."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tiny_clevrer import IDS, NUM_FRAMES, UNANNOTATED, frame_values, write_root

from jax_vidpred.data import clevrer, records
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.schema import FLOW, SEGMENTS, STATE, VIDEO, DataError
from jax_vidpred.data.source import FRAMES_PER_RECORD, record_payloads

SIZES = {"height": 16, "width": 24, "grid_stride": 4}


@pytest.fixture
def root(data_root, tmp_path):
    """A copy that a test may spoil."""
    return pathlib.Path(shutil.copytree(data_root, tmp_path / "clevrer"))


def folders(out: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.parent for path in out.rglob("dataset_info.json"))


def whole_video(source, index: int, key: str) -> np.ndarray:
    into = source.empty([key], 1, int(source.num_frames[index]))
    source.read(index, 0, 1, {key: into[key][0]})
    return into[key][0]


def test_every_video_is_there_in_order(prepared):
    assert list(prepared) == ["train", "validation", "test"]
    for split, source in prepared.items():
        assert source.split == split and len(source) == len(IDS[split])
        assert tuple(source.video_ids) == IDS[split]
        assert set(source.num_frames) == {NUM_FRAMES}
        known = [number not in UNANNOTATED for number in IDS[split]]
        assert list(source.annotated) == known


def test_records_hold_what_the_files_hold(prepared, data_root):
    index = clevrer.index_files(data_root)
    for split, source in prepared.items():
        for i, files in enumerate(index[split]):
            wanted = clevrer.read_arrays(files, frame_stride=1, **SIZES)
            for key in source.fields:
                rows = whole_video(source, i, key)
                # Without an annotation there are zeros.
                expected = (
                    wanted.get(key, np.zeros(()))[: len(rows)] if key in wanted else 0
                )
                np.testing.assert_array_equal(rows, expected)
            colour = whole_video(source, i, VIDEO).mean(axis=(1, 2))
            assert np.abs(colour - frame_values(files.video_id)).max() < 3


def test_tfds_reads_the_same_records(prepared):
    source = prepared["train"]
    folder = source.records.dataset_info.data_dir
    plain = tfds.builder_from_directory(folder).as_data_source("train")
    records_per_video = -(-NUM_FRAMES // FRAMES_PER_RECORD)
    assert len(plain) == len(source) * records_per_video
    for at in (0, 7, len(plain) - 1):
        ours = record_payloads(source.records[at])
        for key, value in plain[at].items():
            if key in source.fields:
                assert bytes(ours[key.encode()]) == np.asarray(value).tobytes()
        assert plain[at]["video_id"] == source.video_ids[at // records_per_video]
        assert plain[at]["frame"] == at % records_per_video * FRAMES_PER_RECORD


def test_unreadable_files_are_counted_and_listed(root, tmp_path, capsys):
    video = root / "video_train/video_00000-01000/video_00001.mp4"
    video.write_bytes(video.read_bytes()[:500])
    annotation = root / "annotation_train/annotation_00000-01000/annotation_00005.json"
    annotation.write_text("{")
    sources = prepare(root, tmp_path / "out", **SIZES)
    assert list(sources["train"].video_ids) == [0, 2, 1000]
    (folder,) = folders(tmp_path / "out")
    rows = json.loads((folder / "skipped.json").read_text())
    assert [pathlib.Path(row["video"]).name for row in rows] == [
        "video_00001.mp4",
        "video_00005.mp4",
    ]
    assert "annotation_00005.json: not an official" in rows[1]["reason"]
    printed = capsys.readouterr().err
    assert "Prepared 6 videos (train 3, validation 2, test 1)" in printed
    assert "Skipped 2 videos that cannot be used" in printed
    # The videos behind the skipped ones are still found in the right place.
    colour = whole_video(sources["train"], 2, VIDEO).mean(axis=(1, 2))
    assert np.abs(colour - frame_values(1000)).max() < 3


def test_a_split_without_any_readable_video_is_an_error(root, tmp_path):
    for video in (root / "video_validation").rglob("*.mp4"):
        video.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 2 videos of split 'validation'"):
        prepare(root, tmp_path / "out", **SIZES)
    assert not list((tmp_path / "out").rglob("*.array_record*"))  # nothing half-made


def test_what_is_prepared_is_used_again(root, tmp_path, monkeypatch):
    first = prepare(root, tmp_path / "out", **SIZES)
    monkeypatch.setattr(records, "read_or_error", None)  # reading would fail now
    again = prepare(root, tmp_path / "out", **SIZES)
    np.testing.assert_array_equal(
        whole_video(first["train"], 0, FLOW), whole_video(again["train"], 0, FLOW)
    )


def test_a_changed_source_is_prepared_anew(root, tmp_path):
    prepare(root, tmp_path / "out", **SIZES)
    (root / "video_test/video_15000-16000/video_15000.mp4").unlink()
    assert "test" not in prepare(root, tmp_path / "out", **SIZES)
    annotation = root / "annotation_train/annotation_00000-01000/annotation_00000.json"
    os.utime(annotation, (1, 1))  # same size, another time
    prepare(root, tmp_path / "out", **SIZES)
    annotation.write_text(annotation.read_text() + " ")
    os.utime(annotation, (1, 1))  # same time, another size
    prepare(root, tmp_path / "out", **SIZES)
    assert len(folders(tmp_path / "out")) == 4
    prepare(root, tmp_path / "out", **SIZES)
    assert len(folders(tmp_path / "out")) == 4


def test_other_settings_do_not_share_a_folder(root, tmp_path):
    prepare(root, tmp_path / "out", **SIZES)
    strided = prepare(root, tmp_path / "out", **SIZES, frame_stride=2)["train"]
    small = prepare(
        root, tmp_path / "out", **SIZES | {"grid_stride": 8}, compression="zstd"
    )["train"]
    assert len(folders(tmp_path / "out")) == 3
    assert whole_video(small, 0, FLOW).shape == (NUM_FRAMES - 1, 2, 3, 2)
    assert strided.frame_stride == 2
    assert not whole_video(strided, 0, FLOW)[-1].any()  # no frame two steps ahead


def test_a_damaged_result_is_made_again(root, tmp_path, capsys):
    first = prepare(root, tmp_path / "out", **SIZES)
    (folder,) = folders(tmp_path / "out")
    (shard,) = folder.glob("*validation*")
    wanted = whole_video(first["validation"], 0, SEGMENTS)
    del first
    shard.write_bytes(shard.read_bytes()[:1000])
    capsys.readouterr()
    again = prepare(root, tmp_path / "out", **SIZES)
    assert "is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(whole_video(again["validation"], 0, SEGMENTS), wanted)


def test_an_interrupted_run_leaves_nothing_to_reuse(root, tmp_path, monkeypatch):
    def interrupted(files, **options):
        if files.video_id == 10001:
            raise KeyboardInterrupt
        return clevrer.read_or_error(files, **options)

    with monkeypatch.context() as patch:
        patch.setattr(records, "read_or_error", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(root, tmp_path / "out", **SIZES)
    assert not folders(tmp_path / "out")
    assert len(prepare(root, tmp_path / "out", **SIZES)["validation"]) == 2


def test_sizes_that_the_grid_does_not_divide(root, tmp_path):
    with pytest.raises(DataError, match="width=30 is no multiple of grid_stride=4"):
        prepare(root, tmp_path, height=16, width=30, grid_stride=4)
    with pytest.raises(DataError, match="height=2 .* choose 4"):
        prepare(root, tmp_path, height=2, width=24, grid_stride=4)


def test_no_room_for_the_result(root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(root, tmp_path / "file", **SIZES)


def test_a_full_disk_is_one_clear_line(root, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, options):
            pathlib.Path(path).touch()

        def write(self, record):
            pass  # ArrayRecord writes behind our back and complains in the end

        def close(self):
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(records, "ArrayRecordWriter", Full)
    with pytest.raises(DataError, match="No space left on device.*free space"):
        prepare(root, tmp_path / "out", **SIZES)
    assert not list((tmp_path / "out").rglob("*array_record*"))


def test_several_shards_and_workers_give_the_same(
    data_root, prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 5)
    monkeypatch.setattr(records, "VIDEOS_PER_WORKER", 1)
    sources = prepare(data_root, tmp_path / "out", **SIZES, num_workers=2)
    (folder,) = folders(tmp_path / "out")
    assert len(list(folder.glob("*train*"))) == 6  # 5 videos of 6 records
    for i in range(len(sources["train"])):
        for key in (VIDEO, STATE):
            np.testing.assert_array_equal(
                whole_video(sources["train"], i, key),
                whole_video(prepared["train"], i, key),
            )


def test_clips_beyond_the_end_are_refused(prepared):
    source = prepared["train"]
    into = source.empty([VIDEO], 1, 4)
    with pytest.raises(DataError, match="video 1 has 22 frames; frames 16 to 22 were"):
        source.read(1, 16, 2, {VIDEO: into[VIDEO][0]})


@pytest.mark.slow
def test_the_real_files_are_prepared(tmp_path):
    root = os.environ.get("JAX_VIDPRED_CLEVRER")
    if not root:
        pytest.skip("JAX_VIDPRED_CLEVRER is not set: no real CLEVRER files")
    sources = prepare(root, tmp_path, height=64, width=64, grid_stride=4)
    assert {s: (list(x.video_ids), list(x.annotated)) for s, x in sources.items()} == {
        "train": ([0, 1000, 2000], [True, True, True]),
        "validation": ([10000, 12000], [True, False]),
        "test": ([15000], [False]),
    }
    for source in sources.values():
        assert set(source.num_frames) == {128}
    # The fastest objects move 14.5 pixels of the original, 0.48 cells of 30 pixels.
    assert 0.2 < np.abs(whole_video(sources["train"], 0, FLOW)).max() < 0.8


def test_write_root_is_deterministic(data_root, tmp_path):
    again = write_root(tmp_path / "again")
    for path in sorted(p for p in again.rglob("*") if p.is_file()):
        assert path.read_bytes() == (data_root / path.relative_to(again)).read_bytes()
