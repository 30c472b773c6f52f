"""The converter: which network, is it the published file, what it writes."""

import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "features"))
from torch_writer import Call, zip_bytes  # noqa: E402

from jax_vidpred import convert_weights, experiment  # noqa: E402
from jax_vidpred.features import raft_weights, weights  # noqa: E402
from jax_vidpred.models.vae import VAE  # noqa: E402
from jax_vidpred.systems import reference  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
RAFT_SMALL = raft_weights.NETWORKS[0]


@pytest.fixture
def run(capsys):
    """Runs the command in this process; returns exit code and text."""

    def run(*arguments):
        code = convert_weights.main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def refused(result, said, folder):
    code, text = result
    assert code == 2 and said in text and len(text.splitlines()) == 1
    assert not list(folder.rglob("*.safetensors")) and not list(folder.rglob("*.md"))


@pytest.mark.slow
def test_published_file_by_its_command_line(weights_dir, tmp_path):
    line = [sys.executable, "-m", "jax_vidpred.convert_weights"]
    line += [str(weights_dir / "raft-small.pth"), "--to", str(tmp_path / "new")]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "RAFT small" in result.stdout and "990,162 parameters" in result.stdout
    card = (tmp_path / "new/raft_small.md").read_text()
    assert "c7d41b9cc88442bb" in card and "BSD-3-Clause" in card
    assert "the published raft-small.pth" in card
    converted = weights.load_params(RAFT_SMALL, tmp_path / "new/raft_small.safetensors")
    original = weights.load_params(RAFT_SMALL, weights_dir / "raft-small.pth")
    jax.tree.map(np.testing.assert_array_equal, converted, original)
    found = weights.find_file(RAFT_SMALL, tmp_path / "new")
    assert found.name == "raft_small.safetensors"


def test_changed_file_is_refused_unless_trusted(weights_dir, run, tmp_path):
    tensors = weights.read_tensors(weights_dir / "raft-small.pth")
    tensors["fnet.conv1.bias"] = tensors["fnet.conv1.bias"] + 1
    changed = tmp_path / "changed.pth"
    changed.write_bytes(zip_bytes({f"module.{k}": v for k, v in tensors.items()}))
    out = tmp_path / "out"
    refused(run(changed, "--to", out), "pass --trust", out)
    code, _ = run(changed, "--to", out / "mine.safetensors", "--trust")
    assert code == 0
    assert "converted with --trust" in (out / "mine.md").read_text()
    assert weights.load_params(RAFT_SMALL, out / "mine.safetensors")


def test_truncated_file_is_refused(weights_dir, run, tmp_path):
    whole = (weights_dir / "raft-small.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[:-1000])
    refused(run(cut, "--to", tmp_path / "out"), "cut short", tmp_path)


@pytest.mark.parametrize("name", ["alex", "vgg", "squeeze"])
def test_lpips_heads(weights_dir, run, tmp_path, name):
    code, said = run(weights_dir / f"lpips_v0.1/{name}.pth", "--to", tmp_path)
    assert code == 0 and "LPIPS" in said
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_pickle_that_runs_code_is_refused(run, tmp_path):
    trap = tmp_path / "sprung"
    file = tmp_path / "evil.pt"
    file.write_bytes(zip_bytes({"a": Call("os", "system", f"touch {trap}")}))
    refused(run(file, "--to", tmp_path / "out"), "os.system", tmp_path)
    assert not trap.exists()


@pytest.mark.slow
def test_checkpoint_of_the_reference_becomes_a_work_directory(run, tmp_path):
    vae = VAE(preset="reference", latent_channels=4, stride=8)
    params = vae.init(jax.random.key(0), jax.numpy.zeros((1, 16, 16, 3)))["params"]
    file = tmp_path / "vae_epoch1.pt"
    file.write_bytes(zip_bytes({"model": reference.export_torch(params), "epoch": 1}))
    workdir = tmp_path / "run"
    code, said = run(file, "--to", workdir, "--size", "16x16")
    assert code == 0 and f"--workdir {workdir}" in said
    stage = experiment.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, stage.params["net"], params)
    code, said = run(file, "--to", workdir)
    assert code == 2 and "holds something already" in said


def test_unknown_network_is_refused(run, tmp_path):
    file = tmp_path / "other.pt"
    file.write_bytes(zip_bytes({"my.weight": np.zeros(3, np.float32)}))
    refused(run(file, "--to", tmp_path / "out"), "none of the known networks", tmp_path)


def test_a_folder_that_cannot_be_written(weights_dir, run, tmp_path):
    shutil.copy(weights_dir / "raft-small.pth", tmp_path / "file")
    to = tmp_path / "file" / "out"  # a file where a folder should be
    refused(run(weights_dir / "raft-small.pth", "--to", to), "cannot be written", to)


def test_names_are_unique_and_files_are_known():
    names = [one.name for one in convert_weights.NETWORKS]
    assert len(set(names)) == len(names)
    for network in convert_weights.NETWORKS:
        assert network.marks and network.title
        for one in network.published:
            assert one.file and one.where and one.licence
            assert set(one.sha256) <= set("0123456789abcdef")
