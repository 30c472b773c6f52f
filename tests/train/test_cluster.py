"""Processes that meet, disagree, and miss each other; real ones, on this machine."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from jax_vidpred.train import cluster

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def environment(monkeypatch):
    def put(**values):
        names = {"address": cluster.ADDRESS, "count": cluster.COUNT}
        names["index"] = cluster.INDEX
        for key, name in names.items():
            monkeypatch.delenv(name, raising=False)
            if key in values:
                monkeypatch.setenv(name, values[key])
        return cluster._from_environment()

    return put


def test_environment_says_where_to_meet(environment):
    assert environment(address="10.0.0.1:1234", count="4", index="3") == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 3,
    }
    # Under Slurm or on a TPU JAX knows; an address alone is its own setting.
    assert environment() == {}
    assert environment(address="10.0.0.1:1234") == {}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"count": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID not set"),
        ({"address": "host", "count": "2", "index": "0"}, "wanted host:port"),
        ({"address": "h:1", "count": "2", "index": "2"}, "from 0 to below it"),
        ({"address": "h:1", "count": "two", "index": "0"}, "JAX_NUM_PROCESSES=two"),
    ],
)
def test_half_an_environment_is_explained(environment, values, message):
    with pytest.raises(cluster.ClusterError, match=message) as caught:
        environment(**values)
    assert "\n" not in str(caught.value)


def test_difference_names_the_keys():
    assert cluster._difference('{"a": 1, "b": 2}', '{"a": 1, "b": 3}') == (
        "differs in b"
    )
    assert cluster._difference("0.10.2", "0.10.1") == "0.10.2, process 0 has 0.10.1"


def test_alone_everything_is_a_formality():
    cluster.check_same(config="{}")
    with cluster.first_process_first("data"):
        cluster.leave(0)


def start(arguments, port, index, count=2):
    meet = {cluster.ADDRESS: f"127.0.0.1:{port}", cluster.COUNT: str(count)}
    flags = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    others = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=others | flags | meet | {cluster.INDEX: str(index)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ends(processes, timeout=60):
    """(exit status, output) of each; none may hang."""
    try:
        texts = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    return list(zip(codes, texts, strict=True))


def main_of(workdir, *arguments):
    line = ["-m", "jax_vidpred.main", "--distributed", f"--workdir={workdir}"]
    return [*line, "--config=configs/vae.py:smoke", *arguments]


@pytest.mark.slow
def test_who_waits_in_vain_says_so(tmp_path, port):
    command = main_of(tmp_path, "--join_timeout=3")
    for index in (0, 1):
        ((status, text),) = ends([start(command, port, index)])
        assert status == 2
        assert f"not all processes of the run came to 127.0.0.1:{port}" in text
        assert text.count("\n") == 1


@pytest.mark.slow
def test_another_config_is_refused_and_the_other_process_ends(tmp_path, port):
    lines = [main_of(tmp_path), main_of(tmp_path, "--config.seed=1")]
    both = [start(line, port, index) for index, line in enumerate(lines)]
    (first, said_first), (second, said_second) = ends(both)
    assert second == 2 and "another config (differs in seed)" in said_second
    assert first == cluster.LOST
    assert "process 1 on" in said_first and "is gone" in said_first
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_batch_that_cannot_be_shared_is_refused_at_once(tmp_path, port):
    line = main_of(tmp_path, "--config.data.batch_size=3")
    for status, text in ends([start(line, port, index) for index in (0, 1)]):
        assert status in (2, cluster.LOST)
        if status == 2:
            assert "config.data.batch_size=3 cannot be dealt evenly to 2" in text
    assert not list(tmp_path.glob("requires/twin"))


SILENT = """
import os, sys, time
sys.path.insert(0, "tests/train")
import jax
from jax_vidpred.train import cluster
cluster.join(peer_timeout=3.0)
print("joined", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0, 1])
def test_silent_process_ends_the_others(port, silent):
    both = [start(["-c", SILENT], port, index) for index in (0, 1)]
    for process in both:
        while process.stdout.readline() not in ("joined\n", ""):
            pass
    both[silent].send_signal(signal.SIGSTOP)  # as a machine that hangs
    ((status, text),) = ends([both[1 - silent]])
    both[silent].kill()
    assert status == cluster.LOST
    assert f"process {silent}" in text and "is silent for 3 s" in text
    assert text.count("\n") == 1


MEET = """
import jax
from jax_vidpred.train import cluster
cluster.join(timeout=60)
print("here is", jax.process_index(), "of", jax.process_count(), flush=True)
cluster.leave(0)
"""


@pytest.mark.slow
def test_slurm_needs_no_arguments():
    job = str(2**20 + os.getpid())  # JAX takes its port from the number of the job
    both = []
    for index in "01":
        slurm = {"JOB_ID": job, "STEP_NODELIST": "localhost", "STEP_NUM_TASKS": "2"}
        slurm |= {"NTASKS": "2", "PROCID": index, "LOCALID": index}
        environment = os.environ | {f"SLURM_{k}": v for k, v in slurm.items()}
        both.append(
            subprocess.Popen(
                [sys.executable, "-c", MEET],
                env=environment | {"JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = ends(both)
    assert [status for status, _ in said] == [0, 0]
    for index, (_, text) in enumerate(said):
        assert f"here is {index} of 2" in text
