"""The command that predicts and the library call, on a model of a few steps."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jax_vidpred
from jax_vidpred import annotated, predict
from jax_vidpred.data.schema import Collision
from jax_vidpred.data.twin.groundtruth import cast_flow
from jax_vidpred.data.video_io import read_video, write_mp4
from jax_vidpred.predictor import resize_area

ROOT = pathlib.Path(__file__).parents[1]
TWIN = "requires/twin/video_validation/video_10000-11000"


@pytest.fixture(scope="session")
def predictor(smoke_workdir):
    return jax_vidpred.load(smoke_workdir)


@pytest.fixture
def clips(tmp_path, smoke_workdir):
    """A folder with two usable videos, one below it, of another size, and three bad."""
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    source = smoke_workdir / TWIN / "video_10000.mp4"
    shutil.copy(source, folder / "good.mp4")
    video = read_video(source, size=(61, 97), max_frames=40)
    write_mp4(folder / "below" / "odd.mp4", video)
    (folder / "cut.mp4").write_bytes(source.read_bytes()[:5000])
    (folder / "text.mp4").write_text("no video")
    write_mp4(folder / "short.mp4", video[:4])
    return folder


def command(*arguments):
    return [sys.executable, "-m", "jax_vidpred.predict", *map(str, arguments)]


@pytest.mark.slow
def test_a_folder_of_good_and_bad_videos(clips, tmp_path, smoke_workdir, predictor):
    out = tmp_path / "out"
    line = command(
        *("--workdir", smoke_workdir, "--videos", clips, "--out", out),
        *("--num_context", 6, "--num_future", 12, "--ttt_steps", 2),
    )
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    complaints = [x for x in result.stderr.splitlines() if x.startswith("predict: ")]
    assert len(complaints) == 3
    for name in ("cut.mp4", "text.mp4", "short.mp4"):
        assert sum(name in complaint for complaint in complaints) == 1
    assert f"Page: {out / 'index.html'}" in result.stdout
    files = sorted(path.name for path in out.iterdir())
    kinds = ("gif", "mp4", "npz")
    wanted = [f"{name}.{kind}" for name in ("good", "odd") for kind in kinds]
    assert files == sorted([*wanted, "index.html", "metrics.json"])

    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["videos"]) == ["odd", "good"]
    assert metrics["settings"]["ttt"] == {"num_steps": 2, "mode": "offline"}
    scores = metrics["videos"]["good"]["scores"]
    assert list(scores)[:2] == ["flow-warp + TTT", "flow-warp"]
    assert {"copy-last", "constant velocity", "VAE ceiling"} < set(scores)
    with np.load(out / "good.npz") as stored:
        truth, prediction = stored["truth"] / 255, stored["prediction"] / 255
        last = stored["context"][-1] / 255
        assert stored["aux_flow"].shape == (17, 8, 8, 2)
        assert stored["prediction_without_ttt"].shape == (12, 32, 32, 3)
    # The library call on the same frames; the file holds it in steps of 1/255.
    video = read_video(clips / "good.mp4", size=(32, 32))[::2]
    exact = predictor.predict(video[:6], 12, ttt=2).video
    np.testing.assert_allclose(prediction, exact, atol=0.51 / 255)
    for name, frames in (("flow-warp + TTT", exact), ("copy-last", last[None])):
        psnr = -10 * np.log10(((frames - truth) ** 2).mean((1, 2, 3)))
        np.testing.assert_allclose(scores[name]["psnr"], psnr, atol=0.05)
    assert len(metrics["videos"]["odd"]["scores"]["flow-warp"]["psnr"]) == 12
    movie = read_video(out / "good.mp4")
    assert movie.shape == (18, 256, 256, 3)
    page = (out / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "Training: vae" in page and "Training: temporal" in page


def run(capsys, *arguments):
    """Exit code and the lines on stderr; in this process, which has it all compiled."""
    code = predict.main([str(a) for a in arguments])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if not line.startswith("predicting")]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(clips, tmp_path, smoke_workdir, capsys):
    out = tmp_path / "out"
    videos = (clips / "good.mp4", clips / "below")
    line = ("--workdir", smoke_workdir, "--videos", *videos, "--out", out)
    assert run(capsys, *line) == (0, [])
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    page = (out / "index.html").read_text()
    good, odd = out / "good.npz", out / "odd.npz"
    odd.write_bytes(odd.read_bytes()[:-100])  # damaged
    assert run(capsys, *line) == (0, [])
    assert good.stat().st_mtime_ns == before[good]
    assert odd.stat().st_mtime_ns > before[odd]
    # The page is made of what was stored, and says the same.
    again = (out / "index.html").read_text()
    assert page[: page.index("How this")] == again[: again.index("How this")]
    (out / "odd.gif").unlink()
    assert run(capsys, *line) == (0, [])
    assert (out / "odd.gif").exists()
    assert run(capsys, *line, "--start", 1) == (0, [])
    assert good.stat().st_mtime_ns > before[good]


@pytest.mark.slow
def test_the_future_is_known_in_part_or_not_at_all(
    clips, tmp_path, smoke_workdir, capsys
):
    """Of 40 frames every second, from frame 11: 15, 6 of them context; from 29: 6."""
    video, out = clips / "below" / "odd.mp4", tmp_path / "out"
    line = ("--workdir", smoke_workdir, "--videos", video, "--out", out)
    for start, known in ((11, 9), (29, 0)):
        assert run(capsys, *line, "--start", start) == (0, [])
        with np.load(out / "odd.npz") as stored:
            assert len(stored["truth"]) == known
            assert stored["prediction"].shape == (12, 32, 32, 3)
            frames = read_video(video, size=(32, 32))
            np.testing.assert_array_equal(stored["context"], frames[start::2][:6])
        scores = json.loads((out / "metrics.json").read_text())["videos"]["odd"]
        assert [len(row["psnr"]) for row in scores["scores"].values()] == [known] * (
            4 if known else 0
        )
        page = (out / "index.html").read_text()
        assert f"{known or 'none'} of the 12" in page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--num_context", 100], "128 frames, but --num_context 100"),
        (["--num_context", 1], "--num_context 1; wanted at least 2"),
        (["--num_future", 0], "--num_future 0"),
        (["--start", 128], "--start 128"),
        (["--ttt_steps", -1], "num_steps"),
        (["--videos", "nowhere.mp4"], "nowhere.mp4: no such file"),
        (["--workdir", "."], "no work directory"),
        (["--workdir", "VAE"], "predicts no future"),
    ],
)
def test_bad_input_is_one_line(arguments, told, clips, smoke_workdir, tmp_path, capsys):
    out = tmp_path / "out"
    vae = smoke_workdir / "requires" / "vae"
    arguments = [vae if value == "VAE" else value for value in arguments]
    line = ["--workdir", smoke_workdir, "--videos", clips / "good.mp4", "--out", out]
    code, lines = run(capsys, *line, *arguments)
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("predict: ") and told in lines[0]
    assert list(out.iterdir()) == []


def test_when_no_video_can_be_used(clips, smoke_workdir, tmp_path, capsys):
    bad = (clips / "cut.mp4", clips / "text.mp4")
    line = ("--workdir", smoke_workdir, "--videos", *bad, "--out", tmp_path / "out")
    code, lines = run(capsys, *line)
    assert (code, len(lines)) == (2, 3)
    assert "none of these 2" in lines[-1]


def test_a_checkpoint_that_is_not_whole(smoke_workdir, clips, tmp_path, capsys):
    workdir = tmp_path / "broken"
    workdir.mkdir()
    record = json.loads((smoke_workdir / "experiment.json").read_text())
    for key in record["requires"]:
        record["requires"][key] = str(smoke_workdir / "requires" / key)
    (workdir / "experiment.json").write_text(json.dumps(record))
    line = ("--workdir", workdir, "--videos", clips, "--out", tmp_path / "out")
    code, lines = run(capsys, *line)
    assert code == 2 and len(lines) == 1
    assert "no checkpoint" in lines[0]


def test_a_checkpoint_of_another_model(smoke_workdir, clips, tmp_path, capsys):
    workdir = tmp_path / "joint"
    workdir.mkdir()
    (workdir / "checkpoints").symlink_to(smoke_workdir / "checkpoints")
    record = json.loads((smoke_workdir / "experiment.json").read_text())
    for key in record["requires"]:
        record["requires"][key] = str(smoke_workdir / "requires" / key)
    record["config"]["model"]["head_features"] += 1
    (workdir / "experiment.json").write_text(json.dumps(record))
    video = clips / "good.mp4"
    line = ("--workdir", workdir, "--videos", video, "--out", tmp_path / "out")
    code, lines = run(capsys, *line)
    assert code == 2 and len(lines) == 1
    assert "do not fit the model" in lines[0]


def test_every_video_has_a_name_of_its_own(tmp_path):
    out = tmp_path / "clips" / "out"
    usable = ["a/x.mp4", "b/x.mp4", "b/y.MP4", "b/y.webm"]
    for name in [*usable, "z.txt", ".z.mp4", "out/q.mp4"]:
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = tmp_path / "clips"
    found, errors = predict.find_videos([folder, folder / "a" / "x.mp4"], out)
    assert errors == []
    assert [p.relative_to(folder).as_posix() for p in found.values()] == usable
    assert len(found) == 4 and all("/" not in name for name in found)
    assert {name[-3:] for name in found} >= {"a_x", "b_x"}
    assert predict.find_videos([out], out)[0] == {}


def test_annotations_are_found_in_the_layouts_of_clevrer(smoke_workdir):
    setting = annotated.Setting(6, 12, stride=2, start=0, ttt=None)
    video = smoke_workdir / TWIN / "video_10001.mp4"
    found = annotated.read_annotation(video)
    assert found.video_id == 10001
    assert annotated.find_annotation(video.with_name("good.mp4")) is None
    # A collision of raw frames 2k and 2k + 1 shows in frame k + 1 of the clip.
    raw = (0, 3, 20, 33, 34, 90)
    found = dataclasses.replace(
        found, collisions=tuple(Collision(frame, (0, 1), (0, 0, 0)) for frame in raw)
    )
    assert annotated.true_collisions(found, setting) == [1, 2, 11, 17]
    later = dataclasses.replace(setting, start=20)
    assert annotated.true_collisions(found, later) == [1, 7, 8]
    assert annotated.true_collisions(None, setting) is None
    everything, _ = cast_flow(found, 8, 8, frame_stride=2)
    aux = {"flow": np.zeros((17, 8, 8, 2), np.float32)}
    flow = annotated.last_flow(found, aux, setting)
    np.testing.assert_allclose(flow, everything[8:9], atol=1e-6)  # frame 8 to 10
    np.testing.assert_array_equal(annotated.last_flow(None, aux, setting), 0)


def test_prediction_of_a_batch_and_of_one(predictor):
    rng = np.random.default_rng(0)
    context = rng.integers(0, 256, (2, 6, 32, 32, 3)).astype(np.uint8)
    both = predictor.predict(context, num_future=12)
    assert both.video.shape == (2, 12, 32, 32, 3) and both.video.dtype == np.float32
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(both))
    one = predictor.predict(context[1] / 255, num_future=12)
    assert one.video.shape == (12, 32, 32, 3)
    np.testing.assert_allclose(one.video, both.video[1], atol=1e-4)
    assert one.aux["flow"].shape == (17, 8, 8, 2)


def test_frames_of_another_size_are_scaled_by_area(predictor):
    rng = np.random.default_rng(0)
    small = rng.uniform(size=(6, 32, 32, 3)).astype(np.float32)
    large = small.repeat(3, 1).repeat(2, 2)
    np.testing.assert_allclose(
        predictor.predict(large, 12).video,
        predictor.predict(small, 12).video,
        atol=1e-4,
    )
    # 5 -> 2 pixels: the middle one is shared.
    row = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5, 1) / 8
    scaled = resize_area(row.repeat(3, -1), 1, 2)[0, 0, 0, :, 0] * 8
    np.testing.assert_allclose(
        scaled, [(0 + 1 + 1) / 2.5, (1 + 3 + 4) / 2.5], rtol=1e-6
    )


@pytest.mark.slow
def test_test_time_training_by_number_and_by_name(predictor, smoke_workdir):
    path = smoke_workdir / TWIN / "video_10000.mp4"
    context = read_video(path, size=(32, 32), max_frames=12)[::2]
    plain = predictor.predict(context, 12)
    adapted = predictor.predict(context, 12, ttt=2)
    named = predictor.predict(context, 12, ttt={"num_steps": 2, "mode": "offline"})
    np.testing.assert_array_equal(adapted.video, named.video)
    assert adapted.aux["ttt_loss_after"] <= adapted.aux["ttt_loss_before"]
    # Another program, so another rounding, where nothing was kept.
    changed = np.abs(adapted.video - plain.video).max() > 1e-5
    assert adapted.aux["ttt_kept"] == changed
    assert "ttt_kept" not in plain.aux
    np.testing.assert_array_equal(
        predictor.predict(context, 12, ttt=0).video, plain.video
    )


@pytest.mark.parametrize(
    ("shape", "options", "told"),
    [
        ((1, 32, 32, 3), {}, "context of 1 frame"),
        ((2, 1, 32, 32, 3), {}, "context of 1 frame"),
        ((4, 32, 32), {}, r"\[4, 32, 32\]; wanted"),
        ((4, 32, 32, 1), {}, "wanted"),
        ((4, 32, 32, 3), {"num_future": 0}, "num_future=0"),
        ((4, 32, 32, 3), {"ttt": {"steps": 3}}, "'steps'"),
        ((4, 32, 32, 3), {"ttt": {"mode": "online"}}, "num_steps"),
        ((3, 32, 32, 3), {"ttt": 2}, "at least 4 context frames"),
    ],
)
def test_the_library_says_what_is_wrong(predictor, shape, options, told):
    with pytest.raises(ValueError, match=told):
        predictor.predict(np.zeros(shape, np.uint8), **options)


@pytest.mark.parametrize("values", [2.0, -0.1, np.nan, 3])
def test_values_out_of_range(predictor, values):
    with pytest.raises(ValueError, match="wanted uint8"):
        predictor.predict(np.full((4, 32, 32, 3), values), 2)


def test_a_system_that_predicts_nothing(smoke_workdir):
    with pytest.raises(ValueError, match="predicts no future"):
        jax_vidpred.load(smoke_workdir / "requires" / "vae")


def test_importing_is_light():
    heavy = "tensorflow tensorflow_datasets mujoco av matplotlib grain orbax"
    code = (
        "import sys, jax_vidpred, jax_vidpred.models.vae, jax_vidpred.models.flow_warp;"
        f"print(*(set(sys.modules) & set({heavy.split()})))"
    )
    line = [sys.executable, "-c", code]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
