# ruff: noqa: E402  (the environment and the import hook come before the imports that they are for)
"""What all rooms' tests share: the real default model once, tiny random models of each family, small real tokenizers.

Every function of ivlens runs under beartype with jaxtyping's shapes here; nothing may reach a model hub. Tests run
on the CPU, unless CUDA_VISIBLE_DEVICES says otherwise.
"""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
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
from distributed import Client, LocalCluster
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import ivlens

for name in ivlens.__all__:  # which are imported at their first use
    getattr(ivlens, name)
gc.freeze()  # a comparison collects garbage after each checkpoint, which would look through all of these libraries

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the capital of France is Paris and the quick brown fox jumps over the lazy dog", "Q: A: 1 + 2 = 3"] * 3
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 320
WIDE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GLOBAL_LOCAL = {
    "full_attention": {"rope_type": "default", "rope_theta": 100_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
SANDWICH = {
    "num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "llama": WIDE | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": WIDE,
    "qwen2": WIDE | {"num_key_value_heads": 2},
    "gemma3_text": WIDE | SANDWICH | {"rope_parameters": GLOBAL_LOCAL},
    "gemma2": WIDE | SANDWICH | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "gemma": WIDE | {"num_key_value_heads": 1, "head_dim": 12},
    "mistral": WIDE | {"num_key_value_heads": 2, "sliding_window": 6},
    "qwen3": WIDE | {"num_key_value_heads": 2, "head_dim": 12},
    "phi3": WIDE | {"num_key_value_heads": 2, "sliding_window": 6},
    "phi": WIDE | {"partial_rotary_factor": 0.5},
    "olmo": WIDE | {"num_key_value_heads": 2, "clip_qkv": 1.0},
    "olmo2": WIDE | {"num_key_value_heads": 2},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128}
    | {"window_size": 6, "attention_types": [[["global", "local"], 1]]},
    "opt": WIDE | {"ffn_dim": 48},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks first: they take one worker as long as everything else takes the other."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


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
def dask_cluster() -> Iterator[Client]:
    """Two dask workers on this machine, shared by all tests."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def two_dask_workers(dask_cluster: Client) -> Iterator[None]:
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


@cache
def _trained() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend.to_str()


def byte_level_tokenizer(template: str | None = None, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(_trained())
    if template is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(token, backend.token_to_id(token)) for token in SPECIAL[:2]]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", extra_special_tokens=SPECIAL[2:],
        chat_template=chat_template,
    )  # fmt: skip


def random_model(model_type: str, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    facts = {"vocab_size": VOCAB, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
    config = facts | TINY.get(model_type, WIDE) | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).eval()
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
            parameter.data = parameter.data + noise if parameter.ndim == 1 else 2 * noise
    return model
