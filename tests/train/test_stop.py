"""SIGTERM that reaches processes of a run when they take no steps."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

# Two runs in one process, as of a stage and of what requires it.
SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import jax
from jax_vidpred.train import cluster
cluster.join(timeout=60)
import conftest
status = 0
try:
    conftest.toy_train(sys.argv[2] + "/first", num_steps=20)
    print("between", flush=True)
    time.sleep(2)
    state = conftest.toy_train(sys.argv[2] + "/second", num_steps=2000)
    print("all steps done")
except SystemExit as stop:
    status = stop.code
cluster.leave(status)
"""


def run_and_stop(workdir, count):
    """Ends with the exit statuses and what process 0 says after SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    here = str(pathlib.Path(__file__).parent)
    meet = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, here, str(workdir)],
            env=os.environ
            | meet
            | {"JAX_PROCESS_ID": str(index), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        while processes[0].stdout.readline() not in ("between\n", ""):
            pass
        processes[-1].send_signal(signal.SIGTERM)  # only one is told
        said = processes[0].communicate(timeout=60)[0]
        return [process.wait(timeout=60) for process in processes], said
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_it_is_heard_between_runs_and_before_a_resumed_one(tmp_path, count):
    statuses, said = run_and_stop(tmp_path, count)
    assert statuses == [0] * count
    assert "stopped after step" in said and "all steps done" not in said
    # Once more: now the second run has been begun, and asks from there on.
    statuses, said = run_and_stop(tmp_path, count)
    assert statuses == [0] * count
    assert "stopped after step" in said and "all steps done" not in said
