"""The never-rules of the house: who may import whom, and what ``import ivlens`` must not do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ivlens"
FILES = sorted(PACKAGE.rglob("*.py"))
# Top to bottom; a room imports from rooms above it only. Rooms on one line do not import each other.
ORDER = [
    ["errors", "visible"],
    ["kinds", "folders"],
    ["checks"],
    ["vocabulary"],
    ["files"],
    ["records", "parallel"],
    ["models", "tasks"],
    ["scoring"],
    ["activations"],
    ["effects"],
    ["heads"],
    ["vectors"],
    ["steering"],
    ["checkpoints", "training"],
    ["views"],
    ["explorer"],
    ["experiments"],
    ["cli"],
    ["__init__", "__main__"],
]
DEPTH = {room: depth for depth, rooms in enumerate(ORDER) for room in rooms}
PURE = {
    "errors": set(), "visible": set(), "kinds": {"errors"}, "checks": {"errors", "kinds"}, "folders": set(),
    "vocabulary": {"errors", "checks"},
    "files": {"errors", "folders"}, "records": {"errors", "visible", "checks", "vocabulary", "files"},
    "heads": {"errors", "checks", "vocabulary", "records"},
}  # fmt: skip
ALLOWED = PURE | {"views": {"errors", "visible", "checks", "vocabulary", "files", "records", "heads"}}
PLOTTING = {"plotly", "circuitsvis", "matplotlib", "IPython", "ipywidgets", "anywidget"}
HEAVY = PLOTTING | {"tqdm", "transformers", "transformer_lens", "rich"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Absolute names that a file imports anywhere, a from-import with the name taken."""
    package = ("ivlens", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    """Rooms of ivlens that a file imports, other than its own."""
    inside = [name.split(".") for name in imports(path) if name.split(".")[0] == "ivlens"]
    known = {room if room in DEPTH else "__init__" for room in (parts[1] if len(parts) > 1 else "" for parts in inside)}
    return known - {room_of(path)}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def files_of(*rooms: str) -> list[Path]:
    return [path for path in FILES if room_of(path) in rooms]


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_room_is_in_the_order(path: Path) -> None:
    assert room_of(path) in DEPTH


def test_only_models_imports_transformer_lens(path: Path) -> None:
    assert room_of(path) == "models" or "transformer_lens" not in libraries(path)


def test_only_views_imports_plotting(path: Path) -> None:
    assert room_of(path) == "views" or not libraries(path) & PLOTTING


def test_a_room_imports_only_from_above(path: Path) -> None:
    below = {room for room in rooms_used(path) if DEPTH[room] >= DEPTH[room_of(path)]}
    assert not below


def test_pure_rooms_and_views_import_only_what_they_may(path: Path) -> None:
    assert rooms_used(path) <= ALLOWED.get(room_of(path), set(DEPTH))


def test_pure_rooms_know_no_model_no_plot_no_bar() -> None:
    for path in files_of(*PURE):
        assert not libraries(path) & HEAVY, path


def test_no_machines_path_and_no_pickle_is_in_the_package(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for unwanted in ("/home/", "/root", "/work/", "/tmp/", "/Users/", "C:\\", "torch.load(", "import pickle"):
        assert unwanted not in text, unwanted


def test_nothing_in_the_package_seeds_the_global_generators(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for unwanted in ("manual_seed_all", "torch.manual_seed(", "np.random.seed(", "random.seed(", "set_seed("):
        assert unwanted not in text, unwanted


def test_the_walker_sees_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "views").mkdir()
    path = tmp_path / "views" / "bad.py"
    path.write_text(
        "import plotly.express as px\nfrom .. import effects\nfrom ..models.hooks import hooked\n"
        "from .page import page\ndef f():\n    import ivlens.steering\n    from ivlens import load_model\n"
    )
    assert rooms_used(path) == {"effects", "models", "steering", "__init__"}
    assert "plotly" in libraries(path)


CHECKS = """
import logging, random, sys
import numpy, torch
handlers, state, numpy_state = logging.root.handlers[:], torch.get_rng_state(), numpy.random.get_state()[1].copy()
python_state, grad, dtype = random.getstate(), torch.is_grad_enabled(), torch.get_default_dtype()
import ivlens
unwanted = {"plotly", "circuitsvis", "matplotlib", "IPython", "ipywidgets", "peft", "wandb", "joblib", "dask"}
wrong = sorted(unwanted & set(sys.modules))
wrong += ["torch's seed"] * (not torch.equal(state, torch.get_rng_state()))
wrong += ["numpy's seed"] * (not (numpy_state == numpy.random.get_state()[1]).all())
wrong += ["python's seed"] * (python_state != random.getstate())
wrong += ["torch's defaults"] * ((grad, dtype) != (torch.is_grad_enabled(), torch.get_default_dtype()))
wrong += ["logging"] * (handlers != logging.root.handlers)
print(wrong)
"""


def test_importing_ivlens_loads_no_plotting_and_changes_nothing() -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:ivlens", "-c", CHECKS],
        capture_output=True, text=True, cwd=PACKAGE.parent, check=False,
    )  # fmt: skip
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
