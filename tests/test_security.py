"""Checkpoints, weights and names from outside are data: nothing of them is run."""

import io
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from PIL import EpsImagePlugin

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "features"), str(HERE / "report")]
from test_page import Outline, browse  # noqa: E402
from torch_writer import Tensor, zip_bytes  # noqa: E402

from jax_vidpred import forecast  # noqa: E402
from jax_vidpred.data import flow_files, video_io  # noqa: E402
from jax_vidpred.data.schema import DataError  # noqa: E402
from jax_vidpred.features import torch_files, weights  # noqa: E402
from jax_vidpred.report import flow_page  # noqa: E402

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
ATTACK = "\"'><script>document.title='run'</script><img src=x onerror=alert(1)>.mp4"

# Loads work directories as `predict` and `evaluate` do, the first one twice; says how
# it ended and what Python was asked to do meanwhile. The first load imports what is
# imported late; after it no program must start any more.
AUDITED = """
import json, os, sys
from absl import logging
from jax_vidpred import command, experiment
logging.set_verbosity(logging.ERROR)
WATCHED = ("pickle", "marshal", "import", "exec", "compile", "os.", "subprocess",
    "shutil", "socket.connect", "ctypes", "cpython.run")
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
seen, watching = [], False
def watch(event, arguments):
    if not watching:
        return
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(WATCHED) and event not in HARMLESS:
        seen.append(f"{event} {arguments}"[:300])
sys.addaudithook(watch)
def load(workdir):
    try:
        command.data_folder(workdir)
        experiment.load(workdir)
        return "loaded"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
for workdir in sys.argv[1:2] + sys.argv[1:]:
    outcome = load(workdir)
    print(json.dumps([outcome, seen]), flush=True)
    seen, watching = [], True
import jax
print(json.dumps(jax.config.jax_compilation_cache_dir))
"""
# What may load code by its name: "module.Class" in JSON, or in text within JSON.
NAME = re.compile(rb'(?<=")[A-Za-z_]\w*(?:\.\w+)+(?=\\?")|(?<="name": ")\w+(?=")')


@pytest.mark.slow
def test_loading_a_work_directory_runs_nothing_of_it(smoke_workdir, tmp_path):
    whole = smoke_workdir / "requires" / "vae"
    trap = "import pathlib; pathlib.Path(__file__).with_name('sprung').touch()\n"
    (tmp_path / "trap.py").write_text(trap)
    tampered = []
    for path in sorted(whole.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        changed = NAME.sub(b"trap.Handler", content)
        if content[:1] == b"{" and changed != content:
            tampered.append(tmp_path / f"tampered{len(tampered)}")
            shutil.copytree(whole, tampered[-1])
            (tampered[-1] / path.relative_to(whole)).write_bytes(changed)
            for sums in tampered[-1].rglob("crc32.json"):
                sums.unlink()  # who tampers would make them again
    assert len(tampered) > 3
    environment = {k: v for k, v in os.environ.items() if "COMPILATION" not in k}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", AUDITED, whole, *tampered],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    *told, cache = map(json.loads, run.stdout.splitlines())
    outcomes, events = zip(*told, strict=True)
    assert outcomes[:2] == ("loaded", "loaded")
    assert "ExperimentError" in str(outcomes) or "ValueError" in str(outcomes)
    assert all("\n" not in outcome for outcome in outcomes)
    assert list(events[1:]) == [[]] * (len(tampered) + 1)
    assert not (tmp_path / "sprung").exists()
    # Compiled programs are machine code, which a work directory must not bring along.
    assert cache == str(tmp_path / "cache" / "jax_vidpred")


def archive(**members):
    """A file of torch.save with some bytes besides, or instead."""
    stream = io.BytesIO(zip_bytes({"weight": MATRIX}))
    with zipfile.ZipFile(stream, "a") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def test_members_of_an_archive_stay_in_it(tmp_path, monkeypatch):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    members = {"../../up": "x", str(tmp_path / "absolute"): "x", "archive/../../x": "x"}
    link = zipfile.ZipInfo("archive/link")
    link.external_attr = 0o120777 << 16  # a symbolic link
    path = place / "net.pt"
    path.write_bytes(archive(**members))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    assert list(weights.read_tensors(path)) == ["weight"]
    assert sorted(tmp_path.rglob("*")) == before


def pickled(code, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/data/0", bytes(10**6))
    return stream.getvalue()


def nested(times):
    """Ten times a list of ten times a list of ... in a few bytes each."""
    each = [b"](" + bytes([0x68, k]) * 10 + bytes([0x65, 0x71, k + 1]) for k in times]
    return b"\x80\x02]q\x00" + b"".join(each) + b"."


def claiming(size):
    """An archive whose storage is said to be as large as that, at both places."""
    raw = bytearray(archive())
    at = raw.index(b"PK\x01\x02", raw.index(b"archive/data/0"))
    while raw[at + 46 : at + 60] != b"archive/data/0":
        at = raw.index(b"PK\x01\x02", at + 1)
    raw[at + 20 : at + 28] = struct.pack("<II", size, size)
    return bytes(raw)


ONE_STORAGE = np.zeros((1000, 1000), np.float32)
TOO_LARGE = {
    "compressed": (pickled(b"\x80\x02}.", zipfile.ZIP_DEFLATED), "is compressed"),
    "claims 4 GB": (claiming(2**32 - 2), "claims 4294967294 bytes"),
    "lists in lists": (pickled(nested(range(40))), "unfolds to more than"),
    "one storage": (
        zip_bytes([Tensor(ONE_STORAGE, (1000, 1000), (1, 1000)) for _ in range(99)]),
        "16 times as large as the file",
    ),
}


@pytest.mark.parametrize("content, reason", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_small_file_cannot_become_large(tmp_path, content, reason):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=reason) as caught:
        weights.read_sections(path)
    assert "\n" not in str(caught.value)


LIMITED = """
import resource, sys
from jax_vidpred.features import torch_files
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, -1))
print(torch_files.read_torch_file(sys.argv[1]))
"""


def test_a_place_in_a_pickle_takes_no_memory(tmp_path):
    # The unpickler in C would make room for so many places: 2 GB.
    (tmp_path / "net.pt").write_bytes(pickled(b"\x80\x02}r\0\0\0\x08."))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "net.pt")]
    assert subprocess.check_output(command, text=True) == "{}\n"


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    # Pillow goes by content, not by name, and gives this to Ghostscript.
    script = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    (tmp_path / "0.png").write_bytes(script)
    started = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a)
    )
    with pytest.raises(video_io.VideoError, match="0.png: not a readable picture"):
        video_io.read_video(tmp_path)
    assert not started


@pytest.mark.parametrize(
    "name, state",
    [
        # Item size 100 of bfloat16 for the whole process: reads beyond its arrays.
        ("torch BFloat16Storage", b"(K\x03X\x01\0\0\0<NNNK\x64K\x01K\0t"),
        (
            "torch.jit._pickle restore_type_tag",
            b"N}X\x0c\0\0\0__defaults__K\x05\x85s\x86",
        ),
        ("torch._utils _rebuild_tensor_v2", b"}X\x04\0\0\0noteK\x05s"),
    ],
)
def test_a_pickle_cannot_change_what_it_names(tmp_path, name, state):
    before = np.dtype(ml_dtypes.bfloat16).itemsize
    path = tmp_path / "net.pt"
    known = b"c" + name.replace(" ", "\n").encode() + b"\n"
    path.write_bytes(pickled(b"\x80\x02" + known + state + b"b."))
    with pytest.raises(weights.WeightsError, match="changed, which is refused"):
        weights.read_sections(path)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == before == 2
    assert torch_files._first.__defaults__ is None
    assert not vars(torch_files._rebuild_tensor)


def safetensors(header, *, length=None, data=bytes(8)):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "header of 2^60 bytes": safetensors({"w": entry()}, length=2**60),
    "header beyond the file": safetensors({"w": entry()}, length=9 * 10**7),
    "overlap": safetensors({"w": entry(), "v": entry(offsets=(4, 12))}, data=bytes(12)),
    "out of range": safetensors({"w": entry((2**40,), (0, 2**42))}),
    "negative size": safetensors({"w": entry((-2,))}),
    "negative offset": safetensors({"w": entry(offsets=(-8, 0))}),
    "size that overflows": safetensors({"w": entry((2**63, 2), (0, 0))}, data=b""),
    "another size": safetensors({"w": entry((3,))}),
    "numbers that NumPy lacks": safetensors({"w": entry((8,), dtype="F8_E4M3")}),
    "deep": safetensors(b'{"a":' * 10**5),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES)
def test_a_safetensors_file_that_lies_is_refused(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError) as caught:
        weights.read_sections(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_names_that_make_no_tree_are_refused(names):
    with pytest.raises(weights.WeightsError, match="is there beside"):
        weights.unflatten({name: MATRIX + k for k, name in enumerate(names)})


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return pathlib.Path.touch, (self.place,)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    assert trap.place.exists()  # it works
    trap.place.unlink()
    bad = np.array([trap], dtype=object)
    names = ("flow", "visible", "weights", "about", "context", "truth")
    np.savez(tmp_path / "clip.npz", **dict.fromkeys(names, bad))
    for kind in ("mp4", "gif"):
        (tmp_path / f"clip.{kind}").touch()
    with pytest.raises(DataError, match="no stored flow"):
        flow_files.read_flow(tmp_path / "clip.npz", 1, (1, 1))
    assert not flow_files.is_flow_of(tmp_path / "clip.npz", "abc")
    assert forecast.Forecast.load(tmp_path, "clip", {}) is None
    assert not trap.place.exists()


def test_names_on_the_page_of_two_flows_are_text(tmp_path):
    field = np.zeros((2, 4, 4, 2))
    flat = np.zeros((2, 4, 4))
    pair = flow_page.FlowPair(
        name=ATTACK,
        frames=np.zeros((2, 8, 8, 3), np.uint8),
        flow=(field, field),
        visible=(flat, flat),
        errors=flat,
        note=ATTACK,
    )
    flow_page.write_flow_page(
        tmp_path / "page.html",
        names=(ATTACK, ATTACK),
        headline=ATTACK,
        table={ATTACK: {ATTACK: ATTACK}},
        mean_error=flat[0],
        videos=[pair],
        provenance={ATTACK: ATTACK},
    )
    outline = Outline((tmp_path / "page.html").read_text())
    assert "script" not in outline.tags and "img" not in outline.tags
    assert outline.text.count(ATTACK) > 10
    if shutil.which("chromium"):
        document, complaints = browse(tmp_path / "page.html", tmp_path / "profile")
        assert complaints == [] and "<title>Flow: " in document
