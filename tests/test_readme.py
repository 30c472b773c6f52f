"""What the README tells people to type is what exists."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def command_lines():
    for block in re.findall(r"```bash\n(.*?)```", README, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def modules():
    return {w[2]: w[3:] for w in command_lines() if w[:2] == ["python", "-m"]}


def test_the_two_commands_are_the_scripts():
    lines = [words[0] for words in command_lines()]
    assert lines[:2] == ["launch/quickstart.sh", "launch/test.sh"]
    assert "launch/test.sh" in (ROOT / ".ci/run").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(modules()))
def test_flags_exist(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    help_text = result.stdout + result.stderr
    for words in command_lines():
        if words[:3] == ["python", "-m", module]:
            for word in words[3:]:
                flag = word.split("=")[0]
                if flag.startswith("--") and not flag.startswith("--config."):
                    assert flag in help_text, f"{module} has no {flag}"


def test_paths_exist():
    for path in re.findall(
        r"\b(?:configs|launch|jax_vidpred)/[\w/]+\.(?:py|sh)", README
    ):
        assert (ROOT / path).exists(), path


def test_configs_named_are_complete():
    sys.path.insert(0, str(ROOT))
    try:
        for path, variant in re.findall(
            r"--config=(configs/\w+\.py)(?::(\w+))?", README
        ):
            get_config = runpy.run_path(str(ROOT / path))["get_config"]
            config = get_config(*([variant] if variant else []))
            assert {"seed", "system", "model", "data", "train"} <= set(config)
    finally:
        sys.path.remove(str(ROOT))


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"@\w+@|TODO|XXX|[A-Z]{4,}TABLE", README)
