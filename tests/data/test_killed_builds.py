"""Processes that are killed while they make data, or that make the same at once."""

import multiprocessing
import pathlib
import subprocess
import sys
import time

import pytest

from jax_vidpred.data import clevrer, records
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.source import record_payloads
from jax_vidpred.data.twin.dataset import write_dataset

SIZES = {"height": 16, "width": 24, "grid_stride": 4}
SPAWN = multiprocessing.get_context("spawn")


def until(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.01)


def contents(root: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def payloads(source) -> list[dict]:
    """What records hold; in which order is different in every process."""
    return [
        {key: bytes(value) for key, value in record_payloads(record).items()}
        for record in source.records
    ]


def _prepare_and_stop(root, out, reached):
    """Reads some videos, and then waits to be killed."""

    def read(files, **options):
        if files.video_id == 10001:
            reached.set()
            time.sleep(60)
        return clevrer.read_or_error(files, **options)

    records.read_or_error = read
    prepare(root, out, **SIZES)


@pytest.mark.slow
def test_a_killed_preparation_is_begun_again(data_root, prepared, tmp_path):
    reached = SPAWN.Event()
    process = SPAWN.Process(
        target=_prepare_and_stop, args=(data_root, tmp_path / "out", reached)
    )
    process.start()
    assert reached.wait(60)
    process.kill()
    process.join()
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert any(name.startswith("incomplete") for name in left)
    assert "clevrer-train.array_record-00000" in left
    sources = prepare(data_root, tmp_path / "out", **SIZES)
    for split, source in sources.items():
        assert payloads(source) == payloads(prepared[split])
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert not [n for n in left if n.startswith("incomplete") or n.endswith(".lock")]


def _prepare(root, out, gate, results):
    gate.wait()
    sources = prepare(root, out, **SIZES)
    results.put({split: payloads(source) for split, source in sources.items()})


@pytest.mark.slow
def test_processes_that_prepare_at_once_make_it_once(
    data_root, prepared, tmp_path, capfd
):
    gate, results = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=_prepare, args=(data_root, tmp_path, gate, results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    wanted = {split: payloads(source) for split, source in prepared.items()}
    assert [results.get(timeout=60) for _ in processes] == [wanted] * 3
    for process in processes:
        process.join()
    printed = capfd.readouterr().err
    assert printed.count("Prepared 8 videos") == 1
    assert 1 <= printed.count("another process makes") <= 2


@pytest.mark.slow
def test_a_killed_simulation_goes_on(tmp_path):
    counts = {"train": 2}
    process = SPAWN.Process(
        target=write_dataset,
        args=(tmp_path / "killed", counts, 16, 24),
        kwargs={"num_workers": 1},
    )
    process.start()
    until(lambda: list(tmp_path.rglob("*.mp4")))
    process.kill()
    process.join()
    made = write_dataset(tmp_path / "killed", counts, 16, 24, num_workers=1)
    assert made == 1
    write_dataset(tmp_path / "whole", counts, 16, 24, num_workers=1)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_simulations_at_once_share_nothing_but_the_result(tmp_path, capfd):
    arguments = (tmp_path / "both", {"train": 2}, 16, 24, 0, 1)
    other = SPAWN.Process(target=write_dataset, args=arguments)
    other.start()
    until((tmp_path / "both" / "twin.json").exists)
    assert write_dataset(*arguments) == 0
    other.join()
    assert "another process makes" in capfd.readouterr().err


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from jax_vidpred.data.workers import ordered_map\n"
        "import killed_worker\n"
        "list(ordered_map(killed_worker.sleep, range(2), 2))\n"
    )
    (tmp_path / "killed_worker.py").write_text(
        "import os, pathlib, time\n"
        "def sleep(number):\n"
        "    pathlib.Path(__file__).with_name(f'worker {os.getpid()}').touch()\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script])
    until(lambda: len(list(tmp_path.glob("worker *"))) == 2)
    parent.kill()
    parent.wait()
    numbers = [path.name.split()[1] for path in tmp_path.glob("worker *")]
    until(lambda: not any(map(_runs, numbers)), seconds=10)


def _runs(number: str) -> bool:
    try:
        state = pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")")[1]
    except OSError:
        return False
    return state.split()[0] != "Z"
