"""What runs survive: done to real processes, real files and a real small disk."""

import contextlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jax_vidpred import command
from jax_vidpred.data import schema
from jax_vidpred.train import checkpoint, cluster, state

HERE = pathlib.Path(__file__).parent
KILLS = 20


class Runs:
    """The toy run in processes of its own; the same job again resumes."""

    def __init__(self, folder):
        self.folder, self._child = folder, None
        self._parent = subprocess.Popen(
            [sys.executable, HERE / "run_toy.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, workdir, **changes):
        """Process id of a new run; its log starts anew."""
        self.log, self.result = self.folder / "log", self.folder / "result.npz"
        for path in (self.log, self.result):
            path.unlink(missing_ok=True)
        places = {"workdir": workdir, "log": self.log, "result": self.result}
        job = {name: str(place) for name, place in places.items()} | changes
        print(json.dumps(job), file=self._parent.stdin, flush=True)
        self._child = int(self._parent.stdout.readline())
        return self._child

    def wait(self):
        """Exit status of the last one; negative where a signal has ended it."""
        self._child = None
        return int(self._parent.stdout.readline())

    def finish(self, workdir, **changes):
        """Runs to the end; returns all arrays of the final state."""
        self.start(workdir, **changes)
        assert self.wait() == 0, self.said
        with np.load(self.result) as arrays:
            return [arrays[name] for name in arrays.files]

    @property
    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def close(self):
        if self._child:
            kill(self._child)
        self._parent.kill()
        self._parent.communicate()


@pytest.fixture
def runs(tmp_path):
    made = Runs(tmp_path)
    yield made
    made.close()


def leaves_of(state):
    return jax.tree.leaves(state.replace(frozen={}))


def same(one, other):
    pairs = zip(one, other, strict=True)
    return len(one) > 0 and all(np.array_equal(a, b) for a, b in pairs)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)


def until(condition, seconds=30.0):
    """Waits for something that another process does; says whether it came."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.slow
def test_killed_twenty_times_at_random(tmp_path, runs):
    # Each start comes some 10 steps further, 50 at most: it cannot finish before.
    job = {"num_steps": 600, "checkpoint_every": 5, "log_every": 20, "eval_every": 50}
    whole = runs.finish(tmp_path / "whole", **job)
    moments, killed, starts = random.Random(0), 0, []
    while killed < KILLS:
        pid = runs.start(tmp_path / "killed", pause=0.02, **job)
        if killed % 4 == 3:  # while it restores and compiles
            time.sleep(moments.uniform(0, 1.5))
        else:  # in the middle of steps, and of checkpoints of every third of them
            batches = moments.randint(1, 14)
            assert until(lambda n=batches: runs.said.count("batch\n") > n), runs.said
            time.sleep(moments.uniform(0, 0.1))
        kill(pid)
        ended = runs.wait()
        assert ended in (0, -signal.SIGKILL), runs.said
        assert ended, f"finished after {killed} kills: too few steps"
        killed += 1
        starts += map(int, re.findall(r"goes on after step (\d+)", runs.said))
    assert same(whole, runs.finish(tmp_path / "killed", **job))
    assert starts == sorted(starts) and len(set(starts)) > KILLS // 3, starts


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path, runs):
    job = {"ballast": 4_000_000}
    whole = runs.finish(tmp_path / "whole", **job)
    folder = tmp_path / "killed" / checkpoint.FOLDER
    pid = runs.start(tmp_path / "killed", **job)
    assert until(lambda: any(folder.glob("20.*tmp*")))
    os.kill(pid, signal.SIGKILL)
    assert runs.wait() == -signal.SIGKILL
    assert not (folder / "20").exists() and any(folder.glob("20.*tmp*"))
    assert same(whole, runs.finish(tmp_path / "killed", **job))
    assert "goes on after step 10" in runs.said
    assert not any(folder.glob("*tmp*"))


def flip(content, moments):
    place = moments.randrange(len(content))
    return (
        content[:place]
        + bytes([content[place] ^ 1 << moments.randrange(8)])
        + (content[place + 1 :])
    )


DAMAGE = {"flipped": flip, "halved": lambda content, _: content[: len(content) // 2]}


@pytest.mark.slow
def test_any_damaged_file_is_noticed_or_harmless(tmp_path, toy, caplog):
    class Wide(toy.System):
        """With an array that is large enough to be stored by itself."""

        def init(self, rng, batch):
            made = super().init(rng, batch)
            return state.TrainState.create(
                params=made.params | {"wide": jax.random.normal(rng, (2000,))},
                optimizer=self.optimizer,
                extra=made.extra,
                ema=True,
                frozen=made.frozen,
            )

    whole, known = tmp_path / "whole", {}
    options = {"best_metric": "error", "best_mode": "min"}
    for steps in (10, 20):
        trained = toy.train(whole, Wide(), num_steps=steps, **options)
        known[steps] = leaves_of(trained)
    best = jax.tree.leaves(checkpoint.restore_params(whole))
    latest = whole / checkpoint.FOLDER / "20"
    files = [path for path in sorted(latest.rglob("*")) if path.is_file()]
    files.append(latest.with_name("10") / "metrics" / "metrics")
    moments, wrong, fallen_back = random.Random(0), [], 0
    for file, (kind, damage) in itertools.product(files, DAMAGE.items()):
        workdir = tmp_path / "damaged"
        shutil.copytree(whole, workdir)
        damaged = workdir / file.relative_to(whole)
        damaged.write_bytes(damage(file.read_bytes(), moments))
        caplog.clear()
        try:  # what predict and evaluate do: tell, or give what it was
            params = checkpoint.restore_params(workdir)
            told = same(jax.tree.leaves(params), best)
        except checkpoint.CheckpointError as error:
            told = "\n" not in str(error)
        try:  # what training does: go on from here, or from before and say so
            checkpoints = checkpoint.Checkpoints(workdir, **options)
            resumed = checkpoints.restore_latest(trained)
            checkpoints.close()
            step = int(resumed.step)
            goes_on = same(leaves_of(resumed), known[step])
            goes_on &= (step == 10) == ("step 20 is damaged" in caplog.text)
            fallen_back += step == 10
        except checkpoint.CheckpointError as error:
            goes_on = str(error)
        if told is not True or goes_on is not True:
            what = f"{file.relative_to(latest.parent)} {kind}"
            wrong.append(f"{what}: predict {told}, resume {goes_on}")
        shutil.rmtree(workdir)
    assert not wrong, "\n".join(wrong)
    assert fallen_back > len(files)  # of twice as many


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 12 MB of room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_disk_full_while_saving(tmp_path, runs, small_disk):
    job = {"ballast": 500_000, "keep": 1}  # 2 MB
    whole = runs.finish(tmp_path / "whole", **job)
    runs.finish(small_disk / "run", **job, num_steps=10)
    # Room for the arrays, as far as anyone can tell beforehand, but not for the rest.
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2_010_000))
    runs.start(small_disk / "run", **job)
    assert runs.wait() == command.FAILED, runs.said
    complaint = runs.said.splitlines()[-1]  # after what threads of Orbax may print
    assert complaint.startswith("toy: ") and "disk full" in complaint, runs.said
    params, _ = checkpoint.restore_params(small_disk / "run")
    assert np.all(np.isfinite(params["linear"]["kernel"]))
    filler.unlink()
    assert same(whole, runs.finish(small_disk / "run", **job))
    assert "goes on after step 10" in runs.said


@pytest.mark.slow
def test_nan_in_a_batch_names_the_video(tmp_path, toy, capfd):
    class Flowing(toy.System):
        required_keys = (*toy.System.required_keys, schema.FLOW)

        def errors(self, params, now, batch):
            return super().errors(params, now, batch) + batch[schema.FLOW].mean((1, 2))

    def flowing(batch):
        flow = np.zeros((len(batch[schema.VIDEO_ID]), 2, 2), np.float32)
        flow[batch[schema.VIDEO_ID] == 17, 1, 0] = np.nan
        return batch | {schema.FLOW: flow}

    def train():
        toy.train(
            tmp_path,
            Flowing(),
            train_batches=lambda step: map(flowing, toy.train_batches(step)),
            eval_batches=lambda: map(flowing, toy.eval_batches()),
        )

    assert command.run("main", train) == command.FAILED
    (line,) = capfd.readouterr().err.splitlines()
    first = next(
        step
        for step, batch in enumerate(toy.train_batches(0), 1)
        if 17 in batch[schema.VIDEO_ID]
    )
    assert f"main: not finite at step {first}: " in line and "loss=nan" in line
    assert re.findall(r"video \d+", line) == ["video 00017"] and "(flow)" in line


PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import conftest
from jax_vidpred import main
from jax_vidpred.train import cluster
def batches(first_step):
    for batch in conftest.toy_train_batches(first_step):
        print("batch", flush=True)
        time.sleep(0.02)
        yield batch
def train():
    cluster.join(timeout=60, peer_timeout=4)
    conftest.toy_train(sys.argv[2], train_batches=batches, num_steps=10**6)
main.train = train
main.main(sys.argv[:1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost, number, how",
    [(0, signal.SIGKILL, "gone"), (1, signal.SIGKILL, "gone")]
    + [(1, signal.SIGSTOP, "silent for 4 s")],
)
def test_a_process_that_is_left_alone_ends_with_one_line(tmp_path, lost, number, how):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for rank in (0, 1):
        joined = {"JAX_COORDINATOR_ADDRESS": address, "JAX_PLATFORMS": "cpu"}
        joined |= {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(rank)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, HERE, tmp_path / "run"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | joined,
            )
        )
    try:
        batches = itertools.islice(processes[1 - lost].stdout, 30)  # well under way
        assert len(list(batches)) == 30
        processes[lost].send_signal(number)
        began = time.monotonic()
        _, said = processes[1 - lost].communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - lost].returncode == cluster.LOST, said
    assert took < 15 and "Traceback" not in said
    assert re.findall(r"^main: .*", said, re.M) == said.strip().splitlines()[-1:], said
    assert f"process {lost}" in said and f"of 2 is {how}" in said
    assert checkpoint.restore_config(tmp_path / "run") == {"name": "toy"}
