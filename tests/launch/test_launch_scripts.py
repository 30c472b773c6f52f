"""What holds for all files of launch/: short, clean, nobody's secrets."""

import pathlib
import re
import subprocess
import sysconfig

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
SHORT = [*SCRIPTS, *LAUNCH.glob("*.yaml")]
# Buckets, registries with a project, keys, tokens, addresses of people.
PRIVATE = re.compile(
    r"gs://|s3://|\bgcr\.io|pkg\.dev|projects/|--project|--account|AKIA|ya29\."
    r"|BEGIN [A-Z ]*PRIVATE KEY|(token|password|secret)\s*[=:]|\w@\w+\.\w|/home/",
    re.IGNORECASE,
)


def name(path):
    return path.name


def test_shellcheck_has_no_complaints():
    shellcheck = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    # From the root, where the scripts' notes of what they source point to.
    line = [shellcheck, *(path.relative_to(LAUNCH.parent) for path in SCRIPTS)]
    result = subprocess.run(line, cwd=LAUNCH.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SHORT, ids=name)
def test_it_is_short(path):
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", [*SHORT, LAUNCH / "README.md"], ids=name)
def test_it_names_no_project_and_no_secret(path):
    found = PRIVATE.search(path.read_text())
    assert not found, found


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_it_ends_at_the_first_error(path):
    if path.name == "environment.sh":  # sourced: the caller has set it
        assert not path.stat().st_mode & 0o100
        return
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert path.stat().st_mode & 0o100


@pytest.mark.parametrize(
    "text",
    [
        "--workdir=gs://b/r",
        "image: gcr.io/p/i",
        "token: abc",
        "me@host.org",
        "--project x",
    ],
)
def test_what_is_private_is_found(text):
    assert PRIVATE.search(text)


@pytest.mark.parametrize(
    "line, told",
    [
        ("local_multiprocess.sh", "wanted COUNT"),
        ("local_multiprocess.sh two main", "given 'two main'"),
        ("local_multiprocess.sh 0 main", "given '0 main'"),
        ("local_multiprocess.sh 2 simulate", "given '2 simulate'"),
        ("slurm.sh --workdir=x", "sbatch"),
        ("tpu_pod.sh", "wanted start"),
        ("tpu_pod.sh start", "TPU_NAME"),
    ],
)
def test_wrong_use_is_one_line(line, told, monkeypatch):
    for variable in ("SLURM_JOB_ID", "TPU_NAME", "TPU_ZONE"):
        monkeypatch.delenv(variable, raising=False)
    script, *arguments = line.split()
    result = subprocess.run(
        [LAUNCH / script, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    (message,) = result.stderr.splitlines()
    assert message.startswith(f"{script}: ") and told in message
