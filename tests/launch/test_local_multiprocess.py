"""launch/local_multiprocess.sh: with a stand-in for Python, and with the real thing."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHOW = 'echo "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"'
SAVE_AND_END = (
    "trap 'echo saved; exit 0' TERM; echo began; while true; do sleep 0.1; done"
)


@pytest.fixture
def launch(clone, start):
    """`launch(*ARGUMENTS)` starts the script."""
    script = clone / "launch/local_multiprocess.sh"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lambda *arguments: start([script, *map(str, arguments)], **pipes)


@pytest.fixture
def run(launch):
    """`run(*ARGUMENTS)` waits for the script: exit code, stdout, stderr."""

    def finish(*arguments):
        process = launch(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return finish


def logs(clone):
    """Text of each log, by the number of its process."""
    return {int(p.stem): p.read_text() for p in clone.glob("runs/logs/*/*.log")}


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_processes_of_a_run_know_each_other(run, clone, fake_python):
    fake_python(SHOW)
    code, out, err = run(3, "main", "--config=a  b.py", "--workdir=w")
    assert code == 0, err
    said = {0: out, **logs(clone)}
    assert sorted(said) == [0, 1, 2]
    address = re.search(r"127\.0\.0\.1:\d+", out).group()
    for index, text in said.items():
        line = "-m jax_vidpred.main --config=a  b.py --workdir=w --distributed"
        assert text == f"{index}/3 at {address}: {line}\n"
    assert str(clone / "runs/logs") in err


@pytest.mark.parametrize("module", ["evaluate", "precompute_flow"])
def test_other_commands_share_the_work(module, run, clone, fake_python):
    fake_python('echo "${JAX_NUM_PROCESSES:-alone}: $*"')
    code, out, err = run(2, module, "--x", "y")
    assert code == 0, err
    for index, text in {0: out, **logs(clone)}.items():
        assert text == f"alone: -m jax_vidpred.{module} --x y --shard {index}/2\n"


@pytest.mark.parametrize(
    "accelerator, visible, count, shown",
    [
        ("cuda13", None, 4, ["0", "1", "2", "3"]),
        ("cuda13", None, 2, ["0,1", "2,3"]),
        ("cuda12", "5,7", 2, ["5", "7"]),
        ("cuda13", None, 3, "4 GPUs cannot be dealt to 3 processes"),
        ("cpu", None, 2, [" cpu 1", " cpu 1"]),
    ],
)
def test_gpus_are_dealt_out(
    accelerator,
    visible,
    count,
    shown,
    run,
    clone,
    fake_python,
    fake_commands,
    monkeypatch,
):
    for variable in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ACCELERATOR", accelerator)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake_commands("nvidia-smi", r"printf '0\n1\n2\n3\n'")
    others = ' ${JAX_PLATFORMS:-} ${JAX_NUM_CPU_DEVICES:-}"'
    fake_python('echo "${CUDA_VISIBLE_DEVICES:-}' + others)
    code, out, err = run(count, "evaluate", "--workdir", "w")
    if isinstance(shown, str):
        assert code == 2 and shown in err
        return
    said = {0: out, **logs(clone)}
    assert [said[index].rstrip() for index in range(count)] == shown, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_save(number, launch, clone, fake_python):
    fake_python(SAVE_AND_END)
    process = launch(2, "main", "--workdir=w")
    wait_for(lambda: "began" in logs(clone).get(1, ""))
    assert process.stdout.readline() == "began\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == "saved\n" and logs(clone) == {1: "began\nsaved\n"}
    assert "failed" not in err


@pytest.mark.slow
def test_a_second_signal_kills(launch, clone, fake_python):
    fake_python("trap '' TERM; echo began; while true; do sleep 0.1; done")
    process = launch(1, "main", "--workdir=w")
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    "stubborn", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_one_that_fails_stops_the_others(
    stubborn, run, clone, fake_python, monkeypatch
):
    monkeypatch.setenv("LAUNCH_GRACE_SECONDS", "1")
    others = "trap '' TERM; while true; do sleep 0.1; done"
    others = others if stubborn else SAVE_AND_END
    fails = '[ "$JAX_PROCESS_ID" != 1 ] || { echo "main: no such file" >&2; exit 7; }'
    fake_python(f'{fails}\necho "$$" > "{clone}/$JAX_PROCESS_ID"; {others}')
    code, _, err = run(3, "main", "--workdir=w")
    assert code == 7
    assert "main: no such file" in err  # from its log
    assert "Process 1 failed with status 7" in err
    for index in (0, 2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((clone / str(index)).read_text()), 0)


def test_the_status_is_that_of_who_died_first(run, clone, fake_python):
    fake_python('[ "$JAX_PROCESS_ID" = 1 ] && exec kill -KILL $$; exit 3')
    code, _, err = run(2, "main", "--workdir=w")
    assert code == 137 and "Process 1 failed with status 137" in err


@pytest.mark.slow
def test_evaluate_in_two_processes(run, clone, smoke_workdir, tmp_path):
    out = tmp_path / "evaluation.json"
    code, said, err = run(
        2,
        "evaluate",
        "--workdir",
        smoke_workdir,
        "--num_future",
        4,
        "--out",
        out,
    )
    assert code == 0, err
    assert sorted(logs(clone)) == [1]
    assert "Written: " in said + logs(clone)[1]
    assert json.loads(out.read_text())["clips"]


@pytest.mark.slow
def test_two_processes_train_together(run, clone, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # configs/ import each other from it
    config, workdir = ROOT / "configs/vae.py:smoke", tmp_path / "vae"
    arguments = (f"--config={config}", f"--workdir={workdir}")
    code, out, err = run(2, "main", *arguments)
    assert code == 0, err + logs(clone)[1]
    assert f"Trained: {workdir}" in out
