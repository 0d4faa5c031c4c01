"""What all tests share: the real default model once, tiny random models of each family, small real tokenizers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import ivlens
from tiny_models import CHATML, byte_level_tokenizer, random_model

for name in ivlens.__all__:  # which are imported at their first use
    getattr(ivlens, name)


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


@pytest.fixture(scope="session")
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
