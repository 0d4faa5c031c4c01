"""The rules of the house: who may import whom, what ``import ivlens`` does not do, how things are named and said."""

import ast
import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import ivlens
from ivlens.records import Record, load_record

PACKAGE = Path(__file__).parents[1] / "ivlens"
FILES = sorted(PACKAGE.rglob("*.py"))
# Top to bottom; a room imports from rooms above it only. Rooms on one line do not import each other.
ORDER = [
    ["text"],
    ["errors"],
    ["remedies"],
    ["kinds"],
    ["checks"],
    ["vocabulary", "stats"],
    ["files", "progress"],
    ["tensor_files"],
    ["records", "parallel"],
    ["models", "tasks"],
    ["scoring"],
    ["activations"],
    ["part_activations"],
    ["heads"],
    ["vectors"],
    ["steering"],
    ["effects"],
    ["checkpoints", "training"],
    ["integrations"],
    ["views"],
    ["explorer"],
    ["_laboratory", "_relearning"],
    ["demo"],
    ["cli"],
    ["__init__", "__main__"],
]
DEPTH = {room: depth for depth, rooms in enumerate(ORDER) for room in rooms}
GROUND = {"errors", "text", "checks", "vocabulary", "stats", "files", "tensor_files"}
PURE = {
    "errors": {"text"}, "text": set(), "remedies": {"errors"}, "kinds": {"errors", "remedies", "text"},
    "checks": {"errors", "kinds"},
    "vocabulary": {"errors", "checks"},
    "stats": {"errors", "checks"}, "files": {"errors"}, "tensor_files": {"errors", "files"}, "records": GROUND,
    "heads": GROUND | {"records"},
}  # fmt: skip
ALLOWED = PURE | {"views": GROUND - {"stats"} | {"records"}}
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


def names_defined(path: Path) -> set[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def names_from_modules(path: Path) -> set[str]:
    """Names that a file imports out of modules of its package."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    nodes = [node for node in body if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def test_no_module_shares_its_name_with_what_it_or_its_package_holds(path: Path) -> None:
    """``import ivlens.steering.steer as m`` would give the function."""
    held = names_defined(path) | names_from_modules(path.parent / "__init__.py")
    assert path.stem not in held - {"__init__"}
    assert path.parent == PACKAGE or path.parent.name not in {*ivlens.__all__}


def test_dir_is_the_api() -> None:
    assert dir(ivlens) == sorted([*ivlens.__all__, "__version__", "views"])
    assert all(hasattr(ivlens, name) for name in dir(ivlens))
    assert ivlens.__version__ == version("ivlens")


def test_a_misspelt_public_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'locate_head'; did you mean 'locate_heads'\?$"):
        _ = ivlens.locate_head
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        _ = ivlens.zzz


def public(kind: Callable[[Any], bool]) -> dict[str, Any]:
    """Functions, or classes that a caller makes or gets, by their public names."""
    found = {name: getattr(ivlens, name) for name in ivlens.__all__}
    return {name: each for name, each in found.items() if kind(each)}


def methods() -> dict[str, Any]:
    """Public methods that public classes define here."""
    return {
        f"{name}.{method.__name__}": method
        for name, kind in public(inspect.isclass).items()
        for method in map(inspect.unwrap, filter(callable, map(functools.partial(getattr, kind), dir(kind))))
        if (getattr(method, "__module__", "") or "").startswith("ivlens.") and not method.__name__.startswith("_")
    }


def undocumented(section: str, things: dict[str, Any]) -> list[str]:
    return [name for name, each in things.items() if f"\n{section}:\n" not in (inspect.getdoc(each) or "")]


def test_every_public_function_and_method_says_its_arguments() -> None:
    things = public(inspect.isfunction) | methods()
    asked = {name: each for name, each in things.items() if {*inspect.signature(each).parameters} - {"self", "cls"}}
    assert undocumented("Args", asked) == []


def test_every_public_function_and_class_has_an_example() -> None:
    raised = public(lambda each: inspect.isclass(each) and issubclass(each, Exception))
    things = public(inspect.isfunction) | public(inspect.isclass)
    assert undocumented("Example", {name: each for name, each in things.items() if name not in raised}) == []


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len((PACKAGE.parent / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


SAVED = sorted((PACKAGE.parent / "figures").rglob("*.safetensors"))


def test_the_repr_of_every_record_is_a_line() -> None:
    shown = [repr(load_record(path)) for path in SAVED]
    assert len(shown) > 100
    assert [line for line in shown if len(line) > 120 or "\n" in line or "tensor(" in line] == []
    kinds = {each for name, each in public(inspect.isclass).items() if issubclass(each, Record)}
    assert {kind.__repr__ for kind in kinds} == {Record.__repr__}


# Private vocabulary, code golf and riddles, as patterns, with how many are left: a number may only fall.
# Names in quotation marks are those of fields in earlier files; what changes "in place" is a term.
RIDDLES = {
    r"-\(-": 0,
    r"\* \([^()]+ (?:!=|==|>) [^()]+\)": 0,
    r"\* bool\(": 0,
    r"\[::sign\]": 0,
    r"\bsay[(:=]": 0,
    r"\bjobs\s*[:=]": 0,
    r"\bspread(?:_\w+)?\b": 0,
    r"\bslopes?(?:_\w+)?\b": 0,
    r"\b(?:Course|Lesson|Learner|learner|Said|Cells|Measuring)\b": 0,
    r"(?<!\")\b(?:told|ledger|read_out|hits)\b": 0,
    r"\brecall\w*\(": 0,
    r"(?<!\")(?<!\bin )\bplaces?\b": 0,
    r"\bcells?\b": 0,
    r"\b[Oo]ne row an? ": 0,
    r"\bof which each\b": 0,
    r"\b[Ww]hat is asked\b": 0,
    r"\b(?:that|as it) (?:is|are) there\b": 0,
    r"\bon the way\b": 0,
    r"\bso many\b": 0,
    r"\bnot known here\b": 0,
    r"\bread off\b": 0,
    r"\ba (?:family|model) has not\b": 0,
}


@pytest.mark.parametrize("pattern", RIDDLES)
def test_riddles_only_become_fewer(pattern: str) -> None:
    lines = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for _ in re.findall(pattern, line)
    ]
    assert len(lines) <= RIDDLES[pattern], "say it in the field's words:\n" + "\n".join(lines)


OWN_FILES = sorted(Path(__file__).parent.rglob("*.py"))
OUTSIDE = ("/work/", "shared/", "Path.home(", "expanduser(")


def test_no_test_reads_outside_the_clone() -> None:
    """Temporary folders, and the cache of packaged models in the tier that has real models, are no reading outside."""
    for path in OWN_FILES:
        text = path.read_text(encoding="utf-8")
        above = [int(number) for number in re.findall(r"parents\[(\d)\]", text)]
        assert max(above, default=0) < len(path.relative_to(PACKAGE.parent).parts), path
        if path.name not in ("test_house.py", "test_notebooks.py"):  # which look for such paths elsewhere
            assert [name for name in OUTSIDE if name in text] == [], path
