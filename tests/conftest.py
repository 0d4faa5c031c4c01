# ruff: noqa: E402  (the environment comes before the imports that it is for)
"""How all tests run: the environment, the type checker, the tiers; what they share is in ``shared_fixtures.py``.

Every function of ivlens runs under beartype with jaxtyping's shapes here; nothing may reach a model hub. Tests run
on the CPU, unless CUDA_VISIBLE_DEVICES says otherwise.
"""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers, and what they start, would wait for each other's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Whole numbers are floats too; and beartype refuses ``Self`` on functions decorated one by one, as the hook does it.
CONF = "is_pep484_tower=True, hint_overrides=beartype.FrozenDict({__import__('typing').Self: object})"
# Not ivlens.tasks: it has no tensors, and its constructors take wider types than they keep.
ROOMS = (
    "vocabulary", "stats", "files", "tensor_files", "parallel", "records", "models", "scoring", "activations",
    "part_activations", "effects", "heads", "vectors", "steering", "checkpoints", "training", "integrations", "views",
    "explorer", "demo", "_laboratory", "_relearning",
)  # fmt: skip
if "IVLENS_UNHOOKED" not in os.environ:  # test_fuzz.py runs ivlens as users have it
    install_import_hook(
        ["figures", *(f"ivlens.{room}" for room in ROOMS)], f"beartype.beartype(conf=beartype.BeartypeConf({CONF}))"
    )

import pytest

gc.disable()  # until all is imported and collected: there is no garbage yet to look for

REAL_MODELS = {"smollm2", "smollm2_folder", "gemma"}  # fixtures
TIERS = {"model", "browser", "notebook", "slow"}


def pytest_configure(config: pytest.Config) -> None:
    """The process that only hands the tests to workers does without the fixtures, and the libraries that they need."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_finish() -> None:
    gc.freeze()  # a comparison collects garbage after each checkpoint, which would look through all of the libraries
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _what_a_file_leaves_is_not_looked_through_again() -> Iterator[None]:
    """Libraries that it imported and what it cached are no garbage, and comparisons collect garbage often."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its tier; notebooks first, which take one worker as long as everything else takes the other."""
    for item in items:
        if REAL_MODELS & {*getattr(item, "fixturenames", ())}:
            item.add_marker("model")
        if not TIERS & {marker.name for marker in item.iter_markers()}:
            item.add_marker("fast")
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(autouse=True)
def _fast_tests_find_no_real_model(request: pytest.FixtureRequest, empty_cache: Path) -> Iterator[None]:
    """In the fast tier, and in processes that it starts, the cache of models is empty and pip has no index."""
    with pytest.MonkeyPatch.context() as environment:
        if request.node.get_closest_marker("fast"):
            environment.setenv("IVLENS_CACHE", str(empty_cache))
            environment.setenv("PIP_NO_INDEX", "1")
        yield


@pytest.fixture(autouse=True)
def _no_test_leaves_a_level_of_logging() -> Iterator[None]:
    """A program that a test runs shows its progress, which later tests of the same process would log too."""
    log = logging.getLogger("ivlens")
    before = log.level
    yield
    log.setLevel(before)


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("no-models")
