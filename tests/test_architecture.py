"""The house rules that a machine can check: floors, sizes, names, imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "jax_vidpred"
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))
SOURCES = [*MODULES, *(ROOT / "configs").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]

# What a floor may import besides its own folder; a name covers what lies below it.
# Top-level modules are the commands, they may import everything.
MAY_IMPORT = {
    "ops": [],
    "models": ["ops"],
    "features": ["ops"],
    "losses": ["ops"],
    "metrics": ["ops"],
    "data": ["ops"],
    "report": ["ops", "data.schema", "data.video_io"],
    "train": ["ops", "data.schema", "clu_compat"],
    "systems": [
        *("ops", "models", "features", "losses", "metrics", "data.schema"),
        *("train.protocol", "train.state", "train.steps", "train.optim", "train.rngs"),
        "train.adversarial",
    ],
    # What the commands that judge have in common: all floors, and no command.
    "evaluation": [
        *("ops", "features", "metrics", "data", "train", "systems", "report"),
        *("experiment", "predictor"),
    ],
    "benchmarking": [
        *("ops", "features", "data", "train", "systems", "evaluation"),
        *("experiment", "predictor", "stopwatch"),
    ],
}
TOP_LEVEL_LEAVES = {"clu_compat": []}  # commands by place, but below the floors
THIRD_PARTY_OF_OPS = {"jax", "numpy", "jaxtyping"}
HEAVY = ["tensorflow", "mujoco", "av", "matplotlib", "torch"]
LIGHT_FLOORS = ["ops", "models", "features", "losses", "metrics", "systems"]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def module_name(path):
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(source):
    """Full names of all that is imported anywhere in a source text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import: write the full name"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def upward_edges(module, source):
    """Imports that the floor of `module` (without the package's name) forbids."""
    floor = module.split(".")[0]
    if floor in MAY_IMPORT:
        allowed = [floor, *MAY_IMPORT[floor]]
    elif floor in TOP_LEVEL_LEAVES:
        allowed = TOP_LEVEL_LEAVES[floor]
    else:
        return []
    wrong = []
    for name in imports(source):
        parts = name.split(".")
        if parts[0] != PACKAGE:
            continue
        inner = ".".join(parts[1:]) + "."
        if not any(inner.startswith(f"{prefix}.") for prefix in allowed):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_module_imports_only_lower_floors(path):
    wrong = upward_edges(module_name(path), path.read_text())
    assert not wrong, f"{path.relative_to(ROOT)} imports from a higher floor: {wrong}"


def test_the_check_finds_what_it_should():
    for module, line in [
        ("ops.warp", "from jax_vidpred.models import vae"),
        ("models.vae", "def f():\n    import jax_vidpred.losses.kl"),
        ("losses.kl", "from jax_vidpred import train"),
        ("train.loop", "from jax_vidpred.data import schema, pipeline"),
        ("report.page", "from jax_vidpred.data.schema_of_old import X"),
        ("systems.vae", "from jax_vidpred.train import loop"),
        ("systems.vae", "from jax_vidpred import main"),
        ("clu_compat", "from jax_vidpred.ops import conv"),
        ("evaluation.judge", "from jax_vidpred import predict"),
    ]:
        assert len(upward_edges(module, line)) == 1, (module, line)
    for module, line in [
        ("train.loop", "from jax_vidpred.data import schema"),
        ("report.page", "from jax_vidpred.data.schema import VIDEO"),
        ("models.layers.conv", "from jax_vidpred.models.vae import VAE"),
        ("predict", "from jax_vidpred.systems import ttt"),
    ]:
        assert not upward_edges(module, line), (module, line)


def test_every_folder_has_its_place():
    folders = {
        p.name for p in (ROOT / PACKAGE).iterdir() if (p / "__init__.py").exists()
    }
    assert folders <= set(MAY_IMPORT)


def test_ops_need_only_jax_and_numpy():
    for path in MODULES:
        if not module_name(path).startswith("ops"):
            continue
        roots = {name.split(".")[0] for name in imports(path.read_text())}
        foreign = roots - sys.stdlib_module_names - THIRD_PARTY_OF_OPS - {PACKAGE}
        assert not foreign, f"{path.name} imports {foreign}"


def test_files_are_short():
    sizes = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {str(path): size for path, size in sizes.items() if size > 400}


def test_no_module_is_a_catch_all():
    catch_all = {"utils", "util", "common", "helpers", "misc"}
    assert not [p for p in SOURCES if catch_all & set(p.with_suffix("").parts[-2:])]


def test_every_module_says_what_it_is_for():
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            silent.append(str(path.relative_to(ROOT)))
    assert not silent


def test_annotations_are_evaluated():
    # Postponed annotations break CLU's metrics and jaxtyping.
    postponed = [
        p for p in SOURCES if "__future__.annotations" in imports(p.read_text())
    ]
    assert not postponed


def test_test_files_have_unique_names():
    tests = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(tests) == len(set(tests))


def test_models_and_systems_import_nothing_heavy():
    light = [
        f"{PACKAGE}.{module_name(path)}"
        for path in MODULES
        if module_name(path).split(".")[0] in LIGHT_FLOORS
    ]
    script = "import sys, importlib\n"
    script += f"for name in {light}: importlib.import_module(name)\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
