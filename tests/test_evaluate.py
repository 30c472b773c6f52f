"""Evaluation: numbers against independent computations, and the command."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jax_vidpred import evaluate
from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin.groundtruth import cast_flow
from jax_vidpred.data.video_io import read_video
from jax_vidpred.evaluation.result import summary

ROOT = pathlib.Path(__file__).parents[1]
VIDEO = "video_validation/video_10000-11000/video_10000.mp4"
ANNOTATION = "annotation_validation/annotation_10000-11000/annotation_10000.json"


ASKED = dict(clips_per_video=2, ttt=({"num_steps": 2},))


def evaluated(workdir, **asked):
    return evaluate.run(workdir, show=False, **asked).result


@pytest.fixture(scope="session")
def result(smoke_workdir):
    """Two clips of each of two videos, one at a time, with test-time training."""
    return evaluated(smoke_workdir, batch_size=1, **ASKED)


@pytest.fixture(scope="session")
def frames(smoke_workdir):
    return read_video(smoke_workdir / "requires/twin" / VIDEO, size=(32, 32)) / 255


@pytest.mark.slow
def test_copy_last_is_what_the_files_say(result, frames):
    assert result["clips"] == [[10000, 0], [10000, 93], [10001, 0], [10001, 93]]
    expected, moving = [], []
    for start in (0, 93):
        clip = frames[start::2][:18]
        square = (clip[6:] - clip[5]) ** 2
        expected.append(-10 * np.log10(square.mean((1, 2, 3))))
        mask = np.abs(clip[6:] - clip[5]).max(-1) > 0.03
        moving.append(-10 * np.log10(square[mask].mean()))
    scores = result["systems"]["copy-last"]
    per_clip = scores["per_clip"]
    np.testing.assert_allclose(per_clip["psnr"][:2], np.mean(expected, 1), rtol=1e-4)
    np.testing.assert_allclose(per_clip["psnr_moving"][:2], moving, rtol=1e-4)
    assert scores["mean"]["psnr"] == pytest.approx(np.mean(per_clip["psnr"]))
    assert np.mean(scores["per_frame"]["psnr"]) == pytest.approx(scores["mean"]["psnr"])
    assert len(scores["per_frame"]["ssim"]) == 12


@pytest.mark.slow
def test_what_was_scored_can_be_told_from_the_files(result, smoke_workdir):
    """The manifest's hashes, made again from the videos."""
    twin = smoke_workdir / "requires/twin"
    digest = hashlib.sha256()
    for number in (10000, 10001):
        video = read_video(
            twin / VIDEO.replace("10000.m", f"{number}.m"), size=(32, 32)
        )
        for start in (0, 93):
            clip = np.ascontiguousarray(video[start::2][:18])
            digest.update(hashlib.sha256(clip.tobytes()).digest())
    same = result["manifest"]["comparable"]
    assert same["frames_sha256"] == digest.hexdigest()
    listed = json.dumps(result["clips"]).encode()
    assert same["clips_sha256"] == hashlib.sha256(listed).hexdigest()
    assert same["metrics"]["ssim"] == "wang-gauss" and same["resize"] == "area"


@pytest.mark.slow
def test_the_error_of_no_flow_is_the_speed_of_what_moves(result, smoke_workdir):
    annotation = Annotation.from_json(smoke_workdir / "requires/twin" / ANNOTATION)
    flow, _ = cast_flow(annotation, 8, 8, frame_stride=2)
    # The 12 steps to predicted frames, from the last of 6 context frames on.
    speed = np.linalg.norm(flow[10:34:2], axis=-1)
    means = [s[s > 0.05].mean() for s in speed if (s > 0.05).any()]
    measured = result["systems"]["copy-last"]["per_clip"]["flow_error"][0]
    # In pixels: a cell has 4. Stored in half precision, and the norm is softened.
    assert measured == pytest.approx(4 * np.mean(means), rel=0.01)


@pytest.mark.slow
def test_the_batch_size_changes_no_number(result, smoke_workdir):
    """Three to a batch: the last one is filled up with zeros."""
    again = evaluated(smoke_workdir, batch_size=3, **ASKED)
    assert again["manifest"]["comparable"] == result["manifest"]["comparable"]
    assert list(again["systems"]) == list(result["systems"])
    for name, scores in result["systems"].items():
        others = again["systems"][name]
        for part in ("mean", "per_clip", "per_frame"):
            for key, values in scores[part].items():
                np.testing.assert_allclose(
                    others[part][key], values, rtol=1e-5, atol=1e-5, err_msg=key
                )


@pytest.mark.slow
def test_what_test_time_training_gains(result):
    systems = result["systems"]
    gain = np.subtract(
        systems["flow-warp + TTT"]["per_clip"]["psnr"],
        systems["flow-warp"]["per_clip"]["psnr"],
    )
    kept = np.array(systems["flow-warp + TTT"]["per_clip"]["ttt_kept"]) == 1
    told = result["test_time_training"]
    assert told["mean"] == pytest.approx(gain.mean(), abs=1e-5)
    assert told["worst"] == pytest.approx(gain.min(), abs=1e-5)
    assert told["share_improved"] == ((gain > 0) & kept).mean()
    table = {name: scores["mean"] for name, scores in systems.items()}
    assert [name for name, row in table.items() if "ttt_gain" in row] == [
        "flow-warp + TTT"
    ]


@pytest.mark.slow
def test_collisions_are_counted_on_annotated_clips(result, smoke_workdir):
    told = result["collisions"]
    assert told["tolerance"] == 5
    assert told["threshold_chosen_on"] == "6 clips of the training split"
    true = []
    for number in (10000, 10001):
        path = (
            smoke_workdir
            / "requires/twin"
            / ANNOTATION.replace("10000.j", f"{number}.j")
        )
        for collision in Annotation.from_json(path).collisions:
            true += [
                collision.frame - s for s in (0, 93) if 0 <= collision.frame - s < 34
            ]
    parts = told["systems"]["flow-warp"]["head"]
    assert parts["whole_clip"]["true"] == len(true)
    # From the step that leaves the last of 6 context frames: raw frame 10 of the clip.
    assert told["raw_frames_from"] == {"whole_clip": 0, "horizon": 10}
    assert parts["horizon"]["true"] == sum(frame >= 10 for frame in true)


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(result, smoke_workdir, tmp_path):
    partial = tmp_path / "scores.json.partial"
    asked = dict(batch_size=1, partial=partial, **ASKED)

    def stop(what, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(smoke_workdir, on_progress=stop, **asked)
    begun = partial.read_text()
    assert len(begun.splitlines()) >= 1 + 3  # what was under work is there as well
    again = evaluated(smoke_workdir, **asked)
    assert partial.read_text().startswith(begun)
    assert json.dumps(again) == json.dumps(result)  # NaN equals NaN as text


@pytest.mark.slow
def test_the_command(smoke_workdir, tmp_path):
    out = tmp_path / "scores.json"
    line = [sys.executable, "-m", "jax_vidpred.evaluate", "--workdir", smoke_workdir]
    line += ["--out", out, "--num_future", "4", "--max_videos", "1"]
    line += ["--clips_per_video", "1"]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "validation, 1 clips, 6 -> 4 frames of 32x32, stride 2" in result.stdout
    assert f"Written: {out}" in result.stdout
    told = json.loads(out.read_text())
    same = told["manifest"]["comparable"]
    assert same["metrics"]["ssim"] == "wang-gauss"
    assert (same["protocol"], same["num_future"]) == ("custom", 4)
    assert told["settings"]["stride"] == 2
    assert told["clips"] == [[10000, 0]]
    assert "--num_future 4" in told["command"]
    assert list(told["systems"]) == [
        *("flow-warp", "constant velocity", "copy-last", "VAE ceiling", "truth")
    ]
    assert not (smoke_workdir / "evaluation.json").exists()
    kinds = {path.suffix for path in tmp_path.iterdir()}
    assert kinds == {".json", ".md", ".html"}


@pytest.mark.slow
def test_other_videos_without_annotation(smoke_workdir, tmp_path, copied):
    """As the test split of the real data: no flow, no collisions are known."""
    workdir = tmp_path / "joint"
    copied(smoke_workdir, workdir)
    root = tmp_path / "videos"
    root.mkdir()
    video = next((workdir / "requires/twin/video_test").rglob("*.mp4"))
    shutil.copy(video, root)
    told = evaluated(workdir, split="test", data=root, clips_per_video=1)
    assert told["clips"] == [[15000, 0]]
    assert "collisions" not in told
    systems = told["systems"]
    assert "flow_error" not in systems["flow-warp"]["mean"]
    assert "iou_tracked" not in systems["flow-warp"]["mean"]
    assert "truth" not in systems or not systems["truth"]["mean"]
    assert np.isfinite(systems["constant velocity"]["mean"]["psnr"])
    with pytest.raises(ValueError, match="no split 'validation'; it has test"):
        evaluate.run(workdir, data=root)


@pytest.mark.slow
def test_a_vae_is_scored_by_what_it_gives_back(smoke_workdir, frames):
    told = evaluated(smoke_workdir / "requires" / "vae")
    assert list(told["systems"]) == ["VAE"]
    scores = told["systems"]["VAE"]
    assert {"psnr", "ssim", "mse"} <= set(scores["mean"])
    assert "psnr_moving" not in scores["mean"]
    assert told["settings"]["num_context"] == 0
    assert 5 < scores["mean"]["psnr"] < 60


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--num_future", "300"], "128 frames; 306 frames"),
        (["--num_context", "1"], "--num_context 1; wanted at least 2"),
        (["--clips_per_video", "0"], "--clips_per_video 0"),
        (["--clips", "without_entries", "--num_future", "58"], "nothing enters"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--workdir", "."], "no work directory"),
    ],
)
def test_bad_input_is_one_line(arguments, told, smoke_workdir, tmp_path, capsys):
    out = tmp_path / "out.json"
    line = ["--workdir", str(smoke_workdir), "--out", str(out), *arguments]
    assert evaluate.main(line) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith("evaluate: ") and told in complaint
    assert not out.exists()


def test_what_is_not_defined_is_left_out_of_a_mean():
    told = summary(
        {"a": np.array([[1.0, np.nan], [3.0, 5.0]]), "b": np.full(2, np.nan)}
    )
    assert told["per_clip"] == {"a": [1, 4]}
    assert told["per_frame"] == {"a": [2, 5]}
    assert told["mean"] == {"a": 2.5}


def _numbers(path):
    """A result without what depends on who made it, and when."""
    told = json.loads(path.read_text())
    for key in ("command", "date"):
        del told[key]
    return told


@pytest.mark.slow
def test_two_processes_say_what_one_says(smoke_workdir, tmp_path):
    """To the last bit: a batch is the same, whoever works on it."""
    line = [sys.executable, "-m", "jax_vidpred.evaluate", "--workdir", smoke_workdir]
    line += ["--num_future", "4", "--clips_per_video", "9", "--out"]
    alone, shared = tmp_path / "alone.json", tmp_path / "shared.json"
    lines = [[*line, shared, "--shard", f"{i}/2"] for i in range(2)]
    lines.append([*line, alone])
    processes = [
        subprocess.Popen(each, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for each in lines
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    # At least one of the two was last; both may have thought so.
    assert sum("Written: " in text for text in said[:2]) >= 1
    assert _numbers(shared) == _numbers(alone)
    assert len(_numbers(alone)["clips"]) == 18  # three batches, the last one padded
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if "partial" in name}


@pytest.mark.slow
def test_a_protocol_at_another_size_than_that_of_training(
    smoke_workdir, tmp_path, copied
):
    workdir = tmp_path / "joint"
    copied(smoke_workdir, workdir)
    told = evaluated(workdir, protocol="twin-river", clips_per_video=2)
    same = told["manifest"]["comparable"]
    assert (same["height"], same["width"], same["stride"]) == (128, 128, 5)
    assert (same["num_context"], same["num_future"]) == (2, 14)
    root = workdir / "requires/twin_128x128_validation_2"
    frames = read_video(root / VIDEO, size=(128, 128)) / 255
    _, start = told["clips"][0]
    clip = frames[start::5][:16]
    assert told["clips"][0][0] == 10000 and 0 <= start <= 128 - 76
    psnr = -10 * np.log10(((clip[2:] - clip[1]) ** 2).mean((1, 2, 3)))
    measured = told["systems"]["copy-last"]["per_clip"]["psnr"][0]
    assert measured == pytest.approx(psnr.mean(), rel=1e-4)
    # Predicted at 32x32 and enlarged, the ceiling too; there is no grid for a budget.
    assert 10 < told["systems"]["VAE ceiling"]["mean"]["psnr"] < 40
    assert "budget" not in told and np.isfinite(
        told["systems"]["flow-warp"]["mean"]["flow_error"]
    )


@pytest.mark.slow
def test_protocols_want_their_own_data(smoke_workdir, capsys):
    line = ["--workdir", str(smoke_workdir), "--protocol"]
    assert evaluate.main([*line, "river"]) == 2
    assert "take --protocol twin-river" in capsys.readouterr().err
    assert evaluate.main([*line, "twin-river", "--data", "."]) == 2
    assert "take --protocol river for CLEVRER's own" in capsys.readouterr().err
