"""A disk that gets full, by filling one: one line, nothing half-made, then it works."""

import pathlib
import re
import subprocess

import pytest
from tiny_clevrer import IDS

from jax_vidpred.data.builder import prepare
from jax_vidpred.data.latents import with_latents
from jax_vidpred.data.schema import DataError
from jax_vidpred.data.twin.dataset import write_dataset

SIZES = {"height": 16, "width": 24, "grid_stride": 4}


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of a size in KiB, or changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, change=""):
        command = ["mount", "-t", "tmpfs", "-o", f"{change}size={size}k", "none"]
        result = subprocess.run([*command, folder], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"no disk can be mounted here: {result.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)


def files(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


# There is room for nothing, for the first split, for all records but no metadata.
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(8, marks=pytest.mark.slow),
        400,
        pytest.param(648, marks=pytest.mark.slow),
    ],
)
def test_preparing(data_root, prepared, disk, size):
    folder = disk(size)
    with pytest.raises(DataError, match="No space left on device") as caught:
        prepare(data_root, folder / "out", **SIZES)
    assert re.search(
        r"it takes about 1\.\d MiB .*, and 0\.\d MiB are free; free space or choose",
        str(caught.value),
    )
    assert "\n" not in str(caught.value)
    assert files(folder) == []
    disk(4096, "remount,")
    sources = prepare(data_root, folder / "out", **SIZES)
    assert {s: tuple(source.video_ids) for s, source in sources.items()} == IDS
    for split, source in sources.items():
        assert list(source.records) == list(prepared[split].records)


# There is room for the list of what the folder holds, for the annotation too.
@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 140])
def test_simulating(disk, size):
    out = disk(size) / "twin"
    with pytest.raises(DataError, match=r"cannot be written \(No space left on devic"):
        write_dataset(out, {"train": 1}, 16, 24, num_workers=1)
    assert not [name for name in files(out) if name.startswith(".")]
    assert not [name for name in files(out) if name.endswith(".mp4")]
    disk(4096, "remount,")
    assert write_dataset(out, {"train": 1}, 16, 24, num_workers=1) == 1
    assert write_dataset(out, {"train": 1}, 16, 24, num_workers=1) == 0


def test_encoding_latents(prepared, disk):
    def encode(frames):
        return frames[:, ::2, ::2] / 255

    source, folder = prepared["train"], disk(8)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on devic"):
        with_latents(source, encode, folder / "latents", "one")
    assert not [name for name in files(folder) if not name.endswith(".lock")]
    disk(4096, "remount,")
    made = with_latents(source, encode, folder / "latents", "one")
    assert len(made.latents) == source.num_frames.sum()
