# ruff: noqa: E402  (the environment and the import hook come before the imports that they are for)
"""What all rooms' tests share: the real default model once, tiny random models of each family, small real tokenizers.

Every function of ivlens runs under beartype with jaxtyping's shapes here; nothing may reach a model hub. Tests run
on the CPU, unless CUDA_VISIBLE_DEVICES says otherwise.
"""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    "effects", "heads", "vectors", "steering", "checkpoints", "training", "views", "explorer", "demo", "_laboratory",
)  # fmt: skip
if "IVLENS_UNHOOKED" not in os.environ:  # test_fuzz.py runs ivlens as users have it
    install_import_hook(
        ["figures", *(f"ivlens.{room}" for room in ROOMS)], f"beartype.beartype(conf=beartype.BeartypeConf({CONF}))"
    )

import joblib
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import ivlens
from tiny_models import CHATML, byte_level_tokenizer, random_model

for name in ivlens.__all__:  # which are imported at their first use
    getattr(ivlens, name)
gc.freeze()  # a comparison collects garbage after each checkpoint, which would look through all of these libraries

REAL_MODELS = {"smollm2", "smollm2_folder", "gemma"}  # fixtures
TIERS = {"model", "browser", "notebook", "slow"}


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


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("no-models")


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The packaged default, SmolLM2-135M-Instruct: shared by all tests, never changed by one."""
    return ivlens.load_model("smollm2")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Any) -> Path:
    """The Hugging Face folder that ``smollm2`` was loaded from."""
    return next(path for path in ivlens.models.cache_folder().glob("smollm2-*") if path.is_dir())


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``tiny_tokenizer(template="<s> $A", chat_template=None)``: a byte-level BPE, with what ``template`` adds."""
    return byte_level_tokenizer


@pytest.fixture(scope="session")
def chatml() -> str:
    return CHATML


@pytest.fixture(scope="session")
def tiny_hf() -> Callable[..., PreTrainedModel]:
    """``tiny_hf(model_type, seed=0, **config)``: a random Hugging Face model, every parameter far from its default."""
    return random_model


@pytest.fixture
def tiny_hooked(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``tiny_hooked(model_type, seed=0, **config)``: the HookedTransformer of ``tiny_hf`` with a tiny tokenizer."""

    def made(model_type: str = "llama", **config: Any) -> Any:
        return ivlens.load_model(tiny_hf(model_type, **config), tokenizer=tiny_tokenizer())

    return made


@pytest.fixture
def two_workers() -> Iterator[None]:
    """Two processes of loky, the same for all tests, and one thread here as there: results are the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator[Any]:
    """Two dask workers on this machine, shared by all tests."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def two_dask_workers(dask_cluster: Any) -> Iterator[None]:
    """Two workers of a dask cluster, and one thread here as there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with joblib.parallel_config("dask", client=dask_cluster):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_seed_leaks() -> Iterator[None]:
    """Code that seeds or draws from torch's global generator cannot make another test pass."""
    with torch.random.fork_rng(devices=[]):
        yield
