"""The commands that estimate flow beforehand and compare its sources."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jax_vidpred import compare_flow, precompute_flow
from jax_vidpred.data.clevrer import Files, index_files
from jax_vidpred.data.flow_files import FlowGrid, flow_path, read_flow, write_flow
from jax_vidpred.data.schema import Annotation, DataError
from jax_vidpred.data.twin.dataset import write_dataset
from jax_vidpred.data.twin.groundtruth import cast_flow
from jax_vidpred.data.video_io import write_mp4

ROOT = pathlib.Path(__file__).parents[1]
GRID = FlowGrid(height=32, width=32, grid_stride=4, frame_stride=2)
SIZES = ["--size", "32x32", "--frame_stride", "2"]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Two simulated videos with annotations."""
    root = tmp_path_factory.mktemp("flow") / "twin"
    write_dataset(root, {"train": 1, "validation": 1, "test": 0}, 128, 128, seed=3)
    return root


@pytest.fixture
def root(tmp_path):
    """Five short videos without annotations, one of them unreadable."""
    for video_id in range(4):
        frames = np.full((7, 32, 48, 3), 40 * video_id, np.uint8)
        write_mp4(tmp_path / f"videos/video_{video_id:05d}.mp4", frames)
    (tmp_path / "videos/video_00004.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


class Fake:
    """In the place of RAFT: flow is the grey value and place of the later frame."""

    checksum = "abc"

    def __init__(self, *_):
        pass

    def __call__(self, frames, cells):
        value = frames[1:, 0, 0, 0].astype(np.float32) / 255
        flow = np.broadcast_to(value[:, None, None, None], (len(value), *cells, 2))
        return flow, np.broadcast_to(value[:, None, None], (len(value), *cells))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, without RAFT; returns exit code and text."""
    monkeypatch.setattr(precompute_flow, "Estimator", Fake)
    (tmp_path / "weights.pth").touch()

    def run(*arguments, module=precompute_flow):
        line = [*map(str, arguments), *SIZES]
        if module is precompute_flow:
            line += ["--weights", str(tmp_path / "weights.pth")]
        code = module.main(line)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_failures_are_counted_and_the_rest_is_made_once(run, root):
    code, said = run("--root", root)
    assert code == 2 and "4 of 5 videos have flow" in said and "4 made now" in said
    assert "video_00004.mp4" in said and "Traceback" not in said
    folder = flow_path(root, "raft_small", GRID, 0).parent
    ledger = json.loads((folder / "failures-0-of-1.json").read_text())
    assert [pathlib.Path(one["video"]).name for one in ledger] == ["video_00004.mp4"]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert len(before) == 4
    (root / "video_00004.mp4").unlink()
    damaged = folder / "flow_00002.npz"
    damaged.write_bytes(damaged.read_bytes()[:99])
    code, said = run("--root", root)
    assert code == 0 and "4 of 4 videos" in said and "1 made now" in said
    assert not list(folder.glob("failures*"))
    after = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert [path.name for path in before if before[path] != after[path]] == [
        damaged.name
    ]


def test_every_video_has_one_shard(run, root):
    (root / "video_00004.mp4").unlink()
    folder = flow_path(root, "raft_small", GRID, 0).parent
    made = []
    for index in range(3):
        assert run("--root", root, "--shard", f"{index}/3")[0] == 0
        made.append({path.name for path in folder.glob("*.npz")})
        shutil.rmtree(folder, ignore_errors=True)
    assert sum(map(len, made)) == len(set.union(*made)) == 4


def test_each_step_gets_the_flow_of_its_own_pair(tmp_path):
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    frames += np.arange(8, dtype=np.uint8)[:, None, None, None] * 30
    write_mp4(tmp_path / "video_00000.mp4", frames, crf=1)
    files = Files(0, tmp_path / "video_00000.mp4")
    for stride in (1, 2, 3, 7):
        grid = FlowGrid(16, 16, 4, stride)
        flow, visible = precompute_flow.flow_of_video(files, grid, Fake(), 320)
        assert flow.shape == (8 - stride, 4, 4, 2) and visible.shape == flow.shape[:3]
        later = np.arange(stride, 8) * 30 / 255
        np.testing.assert_allclose(flow[:, 0, 0, 0], later, atol=0.02)
    with pytest.raises(
        DataError, match="8 frames; flow over 8 frames wants at least 9"
    ):
        precompute_flow.flow_of_video(files, FlowGrid(16, 16, 4, 8), Fake(), 320)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--short_side", "100"], "at least 128"),
        (["--grid_stride", "5"], "does not divide"),
        (["--root", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(run, root, arguments, said):
    code, text = run("--root", root, *arguments)
    assert code == 2 and said in text and len(text.splitlines()) == 1
    assert not (root / "flow").exists()


@pytest.mark.slow
def test_absent_weights_name_the_file(root):
    line = [sys.executable, "-m", "jax_vidpred.precompute_flow", "--root", str(root)]
    line += ["--weights", str(root / "raft.pth")]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "raft.pth: no such file" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_comparison_with_flow_of_known_error(run, twin, tmp_path):
    """Cast flow that is shifted by a tenth of a cell."""
    for files in (one for split in index_files(twin).values() for one in split):
        annotation = Annotation.from_json(files.annotation)
        flow, visible = cast_flow(annotation, 8, 8, frame_stride=2)
        path = flow_path(twin, "raft_small", GRID, files.video_id)
        write_flow(path, flow + np.float32([0.1, 0]), visible, "abc")
    out = tmp_path / "out"
    code, said = run("--root", twin, "--out", out, module=compare_flow)
    assert code == 0 and "2 videos" in said
    result = json.loads((out / "flow.json").read_text())
    for one in result["distance"].values():
        assert one["mean"] == pytest.approx(0.1, abs=2e-3)
        assert one["q99"] == pytest.approx(0.1, abs=2e-3)
    assert result["hidden"]["f1"] == pytest.approx(1, abs=0.01)
    page = (out / "index.html").read_text()
    assert page.count("<article>") == 2 and page.count("<video") == 3
    assert "http:" not in page and "https:" not in page
    shutil.rmtree(twin / "flow")
    code, said = run("--root", twin, "--out", out, module=compare_flow)
    assert code == 2 and "precompute_flow --annotated" in said


@pytest.mark.slow
def test_windows_of_a_video_are_compiled_once(weights_dir, monkeypatch):
    """And do not show: the flow of a pair is that of the pair alone."""
    traced = []

    class Counted(precompute_flow.Estimator):
        def _window(self, params, frames, cells):
            traced.append(frames.shape)
            return super()._window(params, frames, cells)

    monkeypatch.setattr(precompute_flow, "WINDOW", 3)
    network = precompute_flow.NETWORKS[0]
    estimate = Counted(network, weights_dir / "raft-small.pth")
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (17, 17, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    shifts = [0, 2, 5, 8, 6, 4]
    frames = np.stack([texture[:128, 8 - s : 136 - s] for s in shifts])
    flow, visible = estimate(frames, (16, 16))
    assert flow.shape == (5, 16, 16, 2) and visible.shape == (5, 16, 16)
    fewer, _ = estimate(frames[:4], (16, 16))
    assert traced == [(3, 128, 128, 3)]
    np.testing.assert_allclose(fewer, flow[:3], atol=1e-3)
    # The content went 2 pixels to the right, a quarter of a cell: it came from there.
    inner = flow[0, 4:12, 4:12].reshape(-1, 2)
    np.testing.assert_allclose(inner, np.float32([[-0.25, 0]]).repeat(64, 0), atol=0.05)


@pytest.mark.slow
def test_raft_sees_what_the_simulator_has_moved(twin, weights_dir, tmp_path):
    """The real network on simulated videos, by the command lines that people use."""
    root = tmp_path / "twin"
    shutil.copytree(twin, root, ignore=shutil.ignore_patterns("*1*.mp4", "flow"))

    def command(module, *arguments):
        line = [sys.executable, "-m", f"jax_vidpred.{module}", "--root", str(root)]
        result = subprocess.run(
            [*line, *SIZES, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    weights = str(weights_dir / "raft-small.pth")
    command("precompute_flow", "--weights", weights, "--annotated")
    flow, visible = read_flow(flow_path(root, "raft_small", GRID, 0), 126, (8, 8))
    assert np.isfinite(flow).all() and 0.5 < visible.mean() <= 1
    command("compare_flow", "--out", str(tmp_path / "out"))
    result = json.loads((tmp_path / "out/flow.json").read_text())
    assert result["distance"]["moving"]["mean"] < 0.5 * result["length_moving"]
