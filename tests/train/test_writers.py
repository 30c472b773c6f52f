"""What is written can be read back, byte by byte where it matters."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from jax_vidpred.train import writers


def read_events(folder):
    """Values of an event file: records of length, CRC, payload, CRC (TFRecord)."""
    (path,) = folder.iterdir()
    data, place, values = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
        values += [(event.step, value.tag, value) for value in event.summary.value]
        place += 12 + length + 4
    return values


@pytest.fixture
def written(tmp_path):
    writer = writers.make_writer(tmp_path)
    writer.write_hparams({"rate": 0.5})
    writer.write_scalars(3, {"loss": np.float32(0.25), "bad": np.float32("nan")})
    video = np.zeros((4, 6, 8, 3), np.uint8)
    video[np.arange(4), :, np.arange(4)] = 255  # a bar that moves right
    writer.write_videos(5, {"clip": video, "pair": np.stack([video, video]) / 255.0})
    writer.write_images(5, {"frame": video[0] / 255.0})
    writer.write_texts(6, {"note": "hello"})
    writer.write_histograms(6, {"weights": np.arange(10.0)})
    writer.flush()
    writer.close()
    return tmp_path, video


def test_event_file_holds_scalars_images_and_texts(written):
    folder, video = written
    values = read_events(folder / writers.EVENTS_FOLDER)
    found = {(step, tag): value for step, tag, value in values}
    assert found[3, "loss"].simple_value == 0.25
    image = Image.open(io.BytesIO(found[5, "frame"].image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(image), video[0])
    assert any("note" in tag for _, tag in found)
    assert sum(found[6, "weights"].histo.bucket) == 10


def test_videos_are_gifs_that_play(written):
    folder, video = written
    values = read_events(folder / writers.EVENTS_FOLDER)
    found = {tag: value.image for step, tag, value in values if step == 5}
    for tag in ("clip", "pair/0", "pair/1"):
        gif = Image.open(io.BytesIO(found[tag].encoded_image_string))
        assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", 4, 0)
        for index in range(4):
            gif.seek(index)
            np.testing.assert_array_equal(gif.convert("RGB"), video[index])


def test_json_lines(written):
    folder, _ = written
    texts = (folder / writers.METRICS_FILE).read_text().splitlines()
    hparams, scalars, note = (json.loads(text) for text in texts)
    assert hparams["hparams"] == {"rate": 0.5}
    assert (scalars["step"], scalars["loss"], scalars["bad"]) == (3, 0.25, None)
    assert abs(scalars["time"] - note["time"]) < 60
    assert note["note"] == "hello"


def test_lines_of_a_killed_run_are_mended(tmp_path):
    assert writers.read_metrics(tmp_path) == []
    path = tmp_path / writers.METRICS_FILE
    path.write_text(
        '{"step": 1, "loss": 4}\n{"step": 2, "loss": 3}\n'
        '{"step": 2, "psnr": 30}\n{"step": 3, "lo'
    )
    writer = writers.JsonLinesWriter(path)  # resumed after step 1
    writer.write_scalars(2, {"loss": 2.5})
    lines = writers.read_metrics(tmp_path)
    assert [line.get("loss") for line in lines] == [4, 3, None, 2.5]
    writer.close()


def test_only_process_0_writes(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(writers.jax, "process_index", lambda: 1)
    with caplog.at_level("INFO"):
        writer = writers.make_writer(tmp_path)
        writer.write_scalars(1, {"loss": 2.0})
        writer.write_videos(1, {"clip": np.zeros((2, 4, 4, 3), np.uint8)})
        writer.flush()
        writer.close()
    assert not list(tmp_path.iterdir()) and not caplog.records
