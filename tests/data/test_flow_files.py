"""Flow that a network has estimated, from its file into the records."""

import pathlib
import shutil

import numpy as np
import pytest
from tiny_clevrer import NUM_FRAMES

from jax_vidpred.data import pipeline
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.flow_files import (
    FlowGrid,
    find_flow,
    flow_path,
    is_flow_of,
    read_flow,
    source_of,
    write_flow,
)
from jax_vidpred.data.schema import COLLISION, FLOW, VIDEO, VISIBLE, DataError

GRID = FlowGrid(height=16, width=24, grid_stride=4, frame_stride=2)
STEPS = NUM_FRAMES - 2
RNG = np.random.default_rng(0)
FIELD = RNG.normal(size=(STEPS, 4, 6, 2)).astype(np.float32)
SEEN = RNG.uniform(size=(STEPS, 4, 6)).astype(np.float32)


@pytest.fixture
def root(data_root, tmp_path):
    """A copy that a test may add to."""
    return pathlib.Path(shutil.copytree(data_root, tmp_path / "clevrer"))


def test_what_is_written_is_read(tmp_path):
    path = flow_path(tmp_path, "raft_small", GRID, 7)
    assert str(path.relative_to(tmp_path)) == (
        "flow/raft_small/16x24_grid4_stride2/flow_00007.npz"
    )
    assert find_flow(tmp_path, GRID, 7) is None
    write_flow(path, FIELD, SEEN, "abc")
    assert find_flow(tmp_path, GRID, 7) == path and source_of(path) == "raft_small"
    flow, visible = read_flow(path, STEPS, (4, 6))
    np.testing.assert_allclose(flow, FIELD, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(visible, SEEN, atol=0.5 / 255 + 1e-6)
    assert find_flow(tmp_path, FlowGrid(16, 24, 4, 1), 7) is None
    assert is_flow_of(path, "abc") and not is_flow_of(path, "abd")


def test_damaged_or_foreign_files_are_refused(tmp_path):
    path = flow_path(tmp_path, "raft_small", GRID, 7)
    write_flow(path, FIELD, SEEN, "abc")
    with pytest.raises(DataError, match=r"wanted \(5, 4, 6, 2\)\); delete it"):
        read_flow(path, 5, (4, 6))
    path.write_bytes(path.read_bytes()[:200])
    assert not is_flow_of(path, "abc")
    with pytest.raises(DataError, match="no stored flow .*precompute_flow"):
        read_flow(path, STEPS, (4, 6))


def sources(root, out):
    sizes = {"height": 16, "width": 24, "grid_stride": 4, "frame_stride": 2}
    return prepare(root, out, num_workers=1, **sizes)


def test_stored_flow_takes_the_place_of_annotations(root, tmp_path):
    before = sources(root, tmp_path / "out")
    assert before["test"].flow_source == ("",)
    with pytest.raises(DataError, match="precompute_flow"):
        pipeline.check_keys(before["test"], [VIDEO, FLOW])
    # Of an unannotated video it is taken, of an annotated one it is not.
    for video_id in (15000, 10000):
        write_flow(flow_path(root, "raft_small", GRID, video_id), FIELD, SEEN, "abc")
    after = sources(root, tmp_path / "out")
    assert after["test"].flow_source == ("raft_small",)
    assert after["validation"].flow_source == ("annotations", "annotations")
    cast = "annotations"  # the third training video has none
    assert after["train"].flow_source == (cast, cast, "", cast, cast)
    clip = after["test"].empty([FLOW, VISIBLE], 1, 4)
    after["test"].read(0, 3, 2, {key: array[0] for key, array in clip.items()})
    np.testing.assert_allclose(clip[FLOW][0], FIELD[3:8:2], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(clip[VISIBLE][0, ..., 0], SEEN[3:8:2], atol=3e-3)
    pipeline.check_keys(after["test"], [VIDEO, FLOW, VISIBLE])
    with pytest.raises(DataError, match="no annotated video"):
        pipeline.check_keys(after["test"], [VIDEO, FLOW, COLLISION])
