"""The reader of torch files: what it reads, and what it refuses."""

import ml_dtypes
import numpy as np
import pytest
from torch_writer import Call, Instance, Tensor, legacy_bytes, zip_bytes

from jax_vidpred.features.torch_files import TorchFileError, read_torch_file

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
FORMATS = {"zip": zip_bytes, "legacy": legacy_bytes}


@pytest.fixture(params=FORMATS)
def saved(request, tmp_path):
    """Writes a value to a file, in each format."""

    def save(value):
        path = tmp_path / "saved.pt"
        path.write_bytes(FORMATS[request.param](value))
        return path

    return save


def test_what_was_saved_comes_back(saved):
    value = {
        "model": {"a.weight": MATRIX, "a.bias": np.array([1, 2], np.int64)},
        "epoch": 3,
        "rates": [0.5, True, None, "x"],
    }
    again = read_torch_file(saved(value))
    np.testing.assert_array_equal(again["model"]["a.weight"], MATRIX)
    np.testing.assert_array_equal(again["model"]["a.bias"], [1, 2])
    assert again["model"]["a.bias"].dtype == np.int64
    assert again["epoch"] == 3 and again["rates"] == [0.5, True, None, "x"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_number_formats(saved, dtype):
    again = read_torch_file(saved([MATRIX.astype(dtype)]))[0]
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.astype(np.float32), MATRIX)


def test_views_of_one_storage(saved):
    storage = np.arange(12, dtype=np.float32)
    value = {
        "transposed": Tensor(storage, (4, 3), (1, 4)),
        "later": Tensor(storage, (2,), (1,), offset=10),
        "scalar": Tensor(storage, (), (), offset=5),
        "empty": Tensor(storage, (0, 3), (3, 1)),
    }
    again = read_torch_file(saved(value))
    np.testing.assert_array_equal(again["transposed"], storage.reshape(3, 4).T)
    np.testing.assert_array_equal(again["later"], [10, 11])
    assert again["scalar"].shape == () and again["scalar"] == 5
    assert again["empty"].shape == (0, 3)


def test_parameters_and_what_training_scripts_add(saved):
    value = {
        "weight": Call("torch._utils", "_rebuild_parameter", MATRIX, True, None),
        "args": Call("argparse", "Namespace"),
        "device": Call("torch", "device", "cpu"),
    }
    np.testing.assert_array_equal(read_torch_file(saved(value))["weight"], MATRIX)


def test_script_archive_is_read_as_nested_records(tmp_path):
    inner = Instance("__torch__.net", "Conv", weight=MATRIX, training=False)
    path = tmp_path / "script.pt"
    path.write_bytes(zip_bytes(Instance("__torch__", "Net", conv=inner), "net"))
    np.testing.assert_array_equal(read_torch_file(path)["conv"]["weight"], MATRIX)


@pytest.mark.parametrize(
    "module, name",
    [("os", "system"), ("builtins", "eval"), ("posix", "system"), ("torch.nn", "ReLU")],
)
def test_a_pickle_that_calls_something_is_refused(saved, tmp_path, module, name):
    trap = tmp_path / "sprung"
    command = f"touch {trap}" if name == "system" else f"open({str(trap)!r}, 'w')"
    path = saved({"weight": MATRIX, "trap": Call(module, name, command)})
    with pytest.raises(TorchFileError, match=rf"{module}\.{name}.*refused"):
        read_torch_file(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "view",
    [
        Tensor(MATRIX.reshape(-1), (7,), (1,)),  # longer than its storage
        Tensor(MATRIX.reshape(-1), (2,), (1,), offset=5),
        Tensor(MATRIX.reshape(-1), (2,), (-1,), offset=1),
        Tensor(MATRIX.reshape(-1), (10**9, 10**9), (0, 0)),  # as large as one likes
    ],
)
def test_a_view_beyond_its_storage_is_refused(saved, view):
    with pytest.raises(TorchFileError, match="leaves its storage"):
        read_torch_file(saved({"weight": view}))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, tmp_path, share):
    whole = saved({"weight": np.ones((100, 10), np.float32)}).read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(TorchFileError):
        read_torch_file(cut)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02N.", b"\x80\x02)Q."])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(TorchFileError):
        read_torch_file(path)


def test_damaged_bytes_never_escape_as_other_errors(saved, tmp_path):
    whole = bytearray(saved({"weight": MATRIX, "epoch": 1}).read_bytes())
    path = tmp_path / "damaged.pt"
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        damaged = whole.copy()
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except TorchFileError:
            continue


class TestAgainstTorch:
    """Files that torch itself wrote."""

    @pytest.fixture
    def net(self, torch):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    @pytest.mark.parametrize("is_zip", [True, False])
    def test_checkpoint(self, torch, net, tmp_path, is_zip):
        optimizer = torch.optim.Adam(net.parameters())
        net(torch.ones(1, 3, 8, 8)).sum().backward()
        optimizer.step()
        saved = {
            "model": net.state_dict(),
            "half": net.state_dict()["0.weight"].permute(3, 1, 0, 2).bfloat16(),
            "optimizer": optimizer.state_dict(),
            "loss": np.float64(0.5),
        }
        path = tmp_path / "net.pt"
        torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
        again = read_torch_file(path)
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(again["model"][name], value.numpy())
        np.testing.assert_array_equal(
            again["half"].astype(np.float32), saved["half"].float().numpy()
        )

    def test_whole_module_is_refused(self, torch, net, tmp_path):
        torch.save(net, tmp_path / "net.pt")
        with pytest.raises(TorchFileError, match="state_dict"):
            read_torch_file(tmp_path / "net.pt")

    def test_script_archive(self, torch, net, tmp_path):
        torch.jit.script(net).save(tmp_path / "net.pt")
        again = read_torch_file(tmp_path / "net.pt")
        weight = net.state_dict()["0.weight"].numpy()
        np.testing.assert_array_equal(again["0"]["weight"], weight)
