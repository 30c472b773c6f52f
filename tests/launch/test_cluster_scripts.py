"""slurm.sh, pod.sh and tpu_pod.sh in a real bash, on clusters that are stand-ins.

What a real scheduler does with signals and statuses cannot be seen here.
"""

import pathlib
import shutil
import signal
import subprocess
import time

import pytest

SAVE_AND_END = (
    "trap 'echo saved; exit 0' TERM; echo \"began $*\"; while true; do sleep 0.1; done"
)
# Two processes of one step, like srun; their ids are for scancel.
SRUN = """
while [[ $1 == --* ]]; do shift; done
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID; "$@" & echo $! >> "{folder}/tasks"
done
status=0
for task in $(jobs -p); do wait "$task" || status=$?; done
exit $status
"""
SCANCEL = '[ "$*" = "--signal=TERM 123" ] && kill -TERM $(cat "{folder}/tasks")'


def wait_for(path, text, seconds=20):
    """Waits until a file holds a text."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, f"no {text!r} in {path}"
        time.sleep(0.05)


@pytest.fixture
def slurm(clone, start, fake_commands, tmp_path, monkeypatch):
    """`slurm(*ARGUMENTS)` starts the script as Slurm does; its output is in job.log."""
    for variable in ("SLURM_GPUS_ON_NODE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(clone))
    fake_commands("srun", SRUN.format(folder=tmp_path))
    fake_commands("scancel", SCANCEL.format(folder=tmp_path))
    fake_commands("scontrol", f'echo "$*" >> "{tmp_path}/scontrol"')
    copy = tmp_path / "slurm_script"  # Slurm runs a copy from its own folder
    shutil.copy(clone / "launch/slurm.sh", copy)

    def submit(*arguments):
        with (tmp_path / "job.log").open("a") as log:
            return start([copy, *arguments], cwd=tmp_path, stdout=log, stderr=log)

    return submit


def queued_again(tmp_path):
    path = tmp_path / "scontrol"
    return path.read_text().splitlines() if path.exists() else []


def test_slurm_queues_again_what_its_time_stopped(slurm, fake_python, tmp_path):
    fake_python(SAVE_AND_END)
    job, log = slurm("--config=c.py", "--workdir=a  b"), tmp_path / "job.log"
    wait_for(log, "began")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0
    assert log.read_text().count("saved") == 2
    line = "-m jax_vidpred.main --config=c.py --workdir=a  b --distributed"
    assert log.read_text().count(f"began {line}\n") == 2
    assert queued_again(tmp_path) == ["requeue 123"]


@pytest.mark.slow
def test_slurm_queues_again_what_cannot_save(
    slurm, fake_python, fake_commands, tmp_path
):
    fake_python("trap '' TERM; echo began; while true; do sleep 1; done")
    fake_commands("sleep", f"exec {shutil.which('sleep')} 0.01")
    # As Slurm does with a job that it takes off.
    kill = f'kill -KILL $(cat "{tmp_path}/tasks")'
    fake_commands("scontrol", f'echo "$*" >> "{tmp_path}/scontrol"; {kill}')
    job = slurm("--workdir=w")
    wait_for(tmp_path / "job.log", "began")
    job.send_signal(signal.SIGUSR1)
    job.wait(timeout=60)
    assert queued_again(tmp_path)[0] == "requeue 123"


@pytest.mark.parametrize("status", [0, 2])
def test_slurm_leaves_what_ended_by_itself(status, slurm, fake_python, tmp_path):
    fake_python(f"exit {status}")
    assert slurm("--workdir=w").wait(timeout=20) == status
    assert queued_again(tmp_path) == []


def test_slurm_leaves_what_was_cancelled(slurm, fake_python, tmp_path):
    fake_python(SAVE_AND_END)
    job = slurm("--workdir=w")
    wait_for(tmp_path / "job.log", "began")
    job.send_signal(signal.SIGTERM)  # the shell gets it as well
    subprocess.run(["scancel", "--signal=TERM", "123"], check=True)
    assert job.wait(timeout=20) == 0
    assert (tmp_path / "job.log").read_text().count("saved") == 2
    assert queued_again(tmp_path) == []


def test_slurm_wants_a_process_per_gpu(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    assert slurm("--workdir=w").wait(timeout=20) == 2
    told = (tmp_path / "job.log").read_text()
    assert "1 processes for the 8 GPUs" in told and "--ntasks-per-node" in told


def test_slurm_wants_the_root_of_the_clone(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(tmp_path))
    assert slurm("--workdir=w").wait(timeout=20) == 2
    assert "is not the root of the clone" in (tmp_path / "job.log").read_text()


@pytest.mark.parametrize(
    "script, number, status",
    [
        (SAVE_AND_END, signal.SIGTERM, 143),  # stopped: to be started again
        ("exit 0", None, 0),
        ("exit 2", None, 2),
    ],
)
def test_a_pod_tells_stopped_from_finished(
    script, number, status, clone, start, fake_python, tmp_path
):
    fake_python(script)
    with (log := tmp_path / "pod.log").open("w") as file:
        pod = start([clone / "launch/pod.sh", "--workdir=w"], stdout=file)
    if number:
        wait_for(log, "--workdir=w --distributed")
        pod.send_signal(number)
    assert pod.wait(timeout=20) == status
    assert ("saved" in log.read_text()) == bool(number)


# Two workers, each a folder; as gcloud does, a command runs in its home.
GCLOUD = """
echo "$*" >> "{folder}/calls"
shift 3
action=$1; shift
for argument; do case $argument in
  --worker=all) workers="0 1" ;; --worker=*) workers=${{argument#*=}} ;;
  --command=*) command=${{argument#*=}} ;; *:*) target=${{argument#*:}} ;;
esac; done
for worker in $workers; do
  home="{folder}/worker$worker"; mkdir -p "$home"
  case $action in
    scp) cp "$1" "$home/$target" ;;
    ssh) (cd "$home" && HOME=$home bash -c "$command") || exit $? ;;
  esac
done
"""


@pytest.fixture
def tpu_pod(clone, fake_commands, fake_python, tmp_path, monkeypatch):
    """`tpu_pod(*ARGUMENTS)` runs the script: exit code, output."""
    monkeypatch.setenv("TPU_NAME", "name")
    monkeypatch.setenv("TPU_ZONE", "zone")
    monkeypatch.delenv("PYTHON", raising=False)
    fake_commands("gcloud", GCLOUD.format(folder=tmp_path))
    fake_python(SAVE_AND_END)
    who = ["-c", "user.name=a", "-c", "user.email=a"]
    for line in (["init", "-q"], ["add", "-A", "-f"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *line], cwd=clone, check=True)

    def run(*arguments):
        result = subprocess.run(
            [clone / "launch/tpu_pod.sh", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return result.returncode, result.stdout

    yield run
    run("stop")


@pytest.mark.slow
def test_tpu_workers_start_and_stop_together(tpu_pod, clone, tmp_path):
    line = ("start", "--config=c.py", "--workdir=a  b")
    code, told = tpu_pod(*line)
    assert code == 0, told
    logs = [tmp_path / f"worker{i}/jax_vidpred/run.log" for i in range(2)]
    for log in logs:
        wait_for(log, "--config=c.py --workdir=a  b --distributed")
    code, told = tpu_pod(*line)
    assert code and "runs already" in told
    assert tpu_pod("status")[1].count("runs\n") == 2
    code, told = tpu_pod("stop")
    assert code == 0 and told.count("saved") == 2
    assert tpu_pod("log")[1].splitlines()[-1] == "saved"
    assert tpu_pod("status")[1].count("does not run") == 2
    (clone / "launch/pod.sh").write_text("changed")
    code, told = tpu_pod(*line)
    assert code == 0 and "not committed" in told  # and it runs again
    assert tpu_pod("status")[1].count("runs\n") == 2
    calls = (tmp_path / "calls").read_text()
    assert "--zone=zone" in calls and "project" not in calls


@pytest.mark.slow
def test_a_tpu_worker_without_its_environment_starts_nothing(tpu_pod, clone, tmp_path):
    (clone / "launch/environment.sh").write_text("false\n")
    who = ["-c", "user.name=a", "-c", "user.email=a"]
    subprocess.run(["git", *who, "commit", "-qam", "broken"], cwd=clone, check=True)
    code, told = tpu_pod("start", "--workdir=w")
    assert code and "Started" not in told
    assert not list(tmp_path.glob("worker*/jax_vidpred/run.log"))
    assert pathlib.Path(tmp_path / "worker0/jax_vidpred/launch/pod.sh").exists()
