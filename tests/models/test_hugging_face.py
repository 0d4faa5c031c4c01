"""What is exported is what was measured: plain transformers and PEFT compute the same logits from the folders."""

import copy
import errno
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ivlens import files, load_model
from ivlens.errors import ArgumentError, MismatchError, RecordError, UnsupportedError
from ivlens.models import add_lora, export, export_adapter, export_hf, lora_factors, lora_off, merge_lora, model_facts
from ivlens.models.export import trainable_names
from ivlens.models.facts import weights_sha256
from ivlens.models.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:peft")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with grouped queries, tied": ("llama", {}),
    "llama with wide heads, untied": (
        "llama",
        {"num_key_value_heads": 4, "tie_word_embeddings": False, "head_dim": 12},
    ),
    "gpt2": ("gpt2", {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", {}),
    "gemma3 untied": ("gemma3_text", {"tie_word_embeddings": False}),
    "gptj tied": ("gptj", {"tie_word_embeddings": True}),
    "phi with grouped queries": ("phi", {"num_key_value_heads": 2}),
    "olmo2 with as many KV heads as heads": ("olmo2", {"num_key_value_heads": 4}),
    **{name: (name, {}) for name in FAMILIES if name not in ("llama", "gpt2", "gpt_neox", "qwen2", "gemma3_text")},
}
EXACT = [case for case in CASES if case != "gemma3 untied"]  # whose scaled embedding is known to the last bit only
LENGTHS = (30, 11, 4)
UNGATED = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")


@pytest.fixture
def made(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., tuple[Any, Any]]:
    """``made(case)``: a tiny Hugging Face model and its HookedTransformer."""

    def pair(case: str) -> tuple[Any, Any]:
        model_type, config = CASES.get(case, (case, {}))
        theirs = tiny_hf(model_type, **config)
        return theirs, load_model(theirs, tokenizer=tiny_tokenizer("<s> $A"))

    return pair


@torch.no_grad()
def perturb(model: Any, names: list[str], seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        weight = model.get_parameter(name)
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def lora_of(model: Any, *targets: str, layers: Any = None) -> None:
    """Updates that matter, on the ``targets`` or all there are."""
    gated = (*UNGATED, "W_gate") if model.cfg.gated_mlp else UNGATED
    add_lora(model, 3, 6.0, targets or gated, layers, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, outer in lora_factors(model).values():
            outer.copy_(torch.randn(outer.shape, generator=generator) * 0.3)


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def difference(ours: Any, theirs: Any) -> float:
    """Largest difference of logits on ragged rows, relative to the largest logit."""
    tokens = torch.randint(4, 320, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    here = ours(tokens * mask, attention_mask=mask)[mask.bool()]
    there = theirs(tokens * mask, attention_mask=mask).logits[mask.bool()]
    assert there.std() > 0.1, "logits near zero would hide mistakes"
    return ((here - there).abs().max() / there.abs().max()).item()


def saved(theirs: Any, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config as Hugging Face itself saves them."""
    theirs.save_pretrained(folder)
    return read(folder)


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_a_model_whose_every_weight_was_changed_comes_back(tmp_path: Path, made: Any, case: str) -> None:
    theirs, model = made(case)
    before = difference(model, theirs)
    perturb(model, trainable_names(model))
    assert difference(model, theirs) > 1e-3 > before
    folder = export_hf(model, tmp_path / "new" / "export")
    assert folder == tmp_path / "new" / "export"
    assert difference(model, plain(folder)) < 1e-5
    assert {weight.dtype for weight in read(folder)[0].values()} == {torch.float32}


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unchanged_weights_come_back_bit_for_bit(tmp_path: Path, made: Any, case: str, dtype: torch.dtype) -> None:
    theirs, model = made(case)
    if dtype == torch.bfloat16:
        theirs = theirs.to(dtype)
        model = load_model(theirs, tokenizer=model.tokenizer, dtype=dtype)
    weights, config = saved(theirs, tmp_path / "source")
    found, found_config = read(export_hf(model, tmp_path / "export"))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert found_config == config


def test_an_untied_gemmas_embedding_comes_back_to_the_last_bit_but_one(tmp_path: Path, made: Any) -> None:
    theirs, model = made("gemma3 untied")
    weights, config = saved(theirs, tmp_path / "source")
    found, found_config = read(export_hf(model, tmp_path / "export"))
    assert found_config == config
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(found.pop(name), weights.pop(name), rtol=2**-22, atol=0)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("case", "ours", "theirs"),
    [
        ("llama with grouped queries, tied", "blocks.1.attn._W_V", "model.layers.1.self_attn.v_proj.weight"),
        ("gpt2", "blocks.1.attn.b_K", "transformer.h.1.attn.c_attn.bias"),
        ("gpt_neox", "blocks.0.attn.W_K", "gpt_neox.layers.0.attention.query_key_value.weight"),
        ("qwen2", "blocks.0.attn.b_Q", "model.layers.0.self_attn.q_proj.bias"),
        ("gemma3", "blocks.0.ln2_post.w", "model.layers.0.post_feedforward_layernorm.weight"),
        ("gemma2", "blocks.0.ln1_post.w", "model.layers.0.post_attention_layernorm.weight"),
        ("gemma", "blocks.0.ln2.w", "model.layers.0.post_attention_layernorm.weight"),
        ("gpt_neo", "blocks.0.attn.W_O", "transformer.h.0.attn.attention.out_proj.weight"),
        ("gptj", "unembed.b_U", "lm_head.bias"),
        ("gptj", "blocks.1.ln1.w", "transformer.h.1.ln_1.weight"),
        ("opt", "pos_embed.W_pos", "model.decoder.embed_positions.weight"),
        ("bloom", "embed.ln.w", "transformer.word_embeddings_layernorm.weight"),
        ("bloom", "blocks.1.attn.W_V", "transformer.h.1.self_attention.query_key_value.weight"),
        ("mistral", "blocks.1.attn._W_K", "model.layers.1.self_attn.k_proj.weight"),
        ("qwen3", "blocks.1.attn.k_norm.w", "model.layers.1.self_attn.k_norm.weight"),
        ("phi", "blocks.1.ln1.b", "model.layers.1.input_layernorm.bias"),
        ("phi3", "blocks.1.attn._W_V", "model.layers.1.self_attn.qkv_proj.weight"),
        ("phi3", "blocks.1.mlp.W_in", "model.layers.1.mlp.gate_up_proj.weight"),
        ("olmo", "blocks.1.mlp.W_gate", "model.layers.1.mlp.gate_proj.weight"),
        ("olmo2", "blocks.1.ln1.w", "model.layers.1.post_attention_layernorm.weight"),
    ],
)
def test_a_change_of_one_weight_is_in_one_weight(tmp_path: Path, made: Any, case: str, ours: str, theirs: str) -> None:
    source, model = made(case)
    perturb(model, [ours])
    weights, _ = saved(source, tmp_path / "source")
    found, _ = read(export_hf(model, tmp_path / "export"))
    assert [name for name in weights if not torch.equal(found[name], weights[name])] == [theirs]


@pytest.mark.parametrize(
    "case", ["llama with grouped queries, tied", "gpt2", "qwen2 tied", "gemma3", "gptj tied", "opt", "bloom"]
)
@pytest.mark.parametrize("name", ["unembed.W_U", "embed.W_E"])
def test_embeddings_that_differ_now_are_untied(tmp_path: Path, made: Any, case: str, name: str) -> None:
    _, model = made(case)
    assert read(export_hf(model, tmp_path / "tied"))[1]["tie_word_embeddings"]
    perturb(model, [name])
    folder = export_hf(model, tmp_path / "untied")
    weights, config = read(folder)
    assert not config["tie_word_embeddings"]
    assert torch.equal(weights["lm_head.weight"], model.W_U.T)
    assert difference(model, plain(folder)) < 1e-5
    assert model.ivlens_config.tie_word_embeddings


@pytest.mark.parametrize("case", [case for case in EXACT if "gemma" not in case])
def test_the_exported_model_is_loaded_as_the_model_that_was_exported(tmp_path: Path, made: Any, case: str) -> None:
    _, model = made(case)
    perturb(model, trainable_names(model))
    again = load_model(export_hf(model, tmp_path / "export"))
    assert model_facts(again)["weights_sha256"] == model_facts(model)["weights_sha256"]
    assert again.to_tokens("the capital").tolist() == model.to_tokens("the capital").tolist()
    assert again.cfg.default_prepend_bos


def test_a_cast_model_is_exported_in_its_own_dtype(tmp_path: Path, made: Any) -> None:
    _, model = made("gemma3")
    weights, config = read(export_hf(model.to(torch.bfloat16), tmp_path / "export"))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert config["dtype"] == "bfloat16"


def test_tokenizer_generation_config_and_provenance_are_written(
    tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any, chatml: str
) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "source")
    odd = {"eos_token_id": [1, 3], "temperature": 0.3, "do_sample": False}  # which Hugging Face refuses to save
    (tmp_path / "source" / "generation_config.json").write_text(json.dumps(odd))
    model = load_model(tmp_path / "source", tokenizer=tiny_tokenizer("<s> $A", chatml))
    folder = export_hf(model, tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "the quick fox"}]
    assert tokenizer.apply_chat_template(chat) == model.tokenizer.apply_chat_template(chat)
    assert tokenizer("the quick fox")["input_ids"] == model.tokenizer("the quick fox")["input_ids"]
    assert plain(folder).generation_config.eos_token_id == [1, 3]
    facts = json.loads((folder / "ivlens.json").read_text())
    assert facts["model"] == model_facts(model)
    assert facts["versions"].keys() >= {"ivlens", "torch", "transformers"}
    assert facts["files"] == sorted(path.name for path in folder.iterdir())
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_the_packaged_model_comes_back(tmp_path: Path, smollm2: Any, smollm2_folder: Path) -> None:
    folder = export_hf(smollm2, tmp_path / "export")
    weights, config = read(folder)
    source, source_config = read(smollm2_folder)
    assert weights.keys() == source.keys()
    assert all(torch.equal(weights.pop(name), source.pop(name)) for name in list(source))
    assert config == source_config
    generation = [json.loads((each / "generation_config.json").read_text()) for each in (folder, smollm2_folder)]
    assert generation[0] == generation[1]
    theirs = plain(folder)
    tokens = smollm2.to_tokens("The capital of France is Paris, and that of Italy is")
    with torch.inference_mode():
        here, there = smollm2(tokens), theirs(tokens).logits
    assert (here - there).abs().max() < 1e-4 * there.abs().max()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Bonjour, ça va?"}]
    assert tokenizer.apply_chat_template(chat) == smollm2.tokenizer.apply_chat_template(chat)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_trainable_are_the_parameters_that_hugging_face_has(made: Any, tmp_path: Path, model_type: str) -> None:
    theirs, model = made(model_type)
    names = trainable_names(model)
    invented = {name: weight for name, weight in model.named_parameters() if name not in names}
    assert len(invented) + len(names) == len(dict(model.named_parameters()))
    assert ("unembed.b_U" in invented) == (model_type not in ("gptj", "phi"))
    assert all((weight == name.endswith(".w")).all() for name, weight in invented.items())
    count = sum(weight.numel() for weight in theirs.parameters())
    count -= 2 * model.cfg.d_model if model_type == "opt" else 0  # positions that no token has
    tied = model.W_U.numel() if theirs.config.tie_word_embeddings else 0
    assert sum(model.get_parameter(name).numel() for name in names) == count + tied
    lora_of(model)
    assert sorted(trainable_names(model)) == sorted(names)


def test_of_an_unknown_model_every_parameter_is_trainable(made: Any) -> None:
    _, model = made("llama")
    del model.ivlens_config
    assert trainable_names(model) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("llama", "blocks.1.attn.b_Q"),
        ("gpt2", "unembed.b_U"),
        ("qwen2", "blocks.0.mlp.b_in"),
        ("olmo", "blocks.1.ln2.w"),
        ("bloom", "pos_embed.W_pos"),
    ],
)
def test_a_bias_that_the_family_has_not_is_refused_by_name(
    tmp_path: Path, made: Any, model_type: str, name: str
) -> None:
    _, model = made(model_type)
    perturb(model, [name])
    with pytest.raises(MismatchError, match=rf"{model_type} model has no parameter; got other values in {name}; train"):
        export_hf(model, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_models_that_were_not_loaded_or_were_processed_are_refused(tmp_path: Path, made: Any) -> None:
    _, model = made("gpt2")
    elsewhere, folded = copy.deepcopy(model), copy.deepcopy(model)
    del elsewhere.ivlens_facts, elsewhere.ivlens_config
    folded.process_weights_()
    for other, processing in ((elsewhere, "unknown"), (folded, "folded norms")):
        for write in (export_hf, export_adapter):
            with pytest.raises(UnsupportedError, match=rf"made by load_model.*'{processing}'; load it with load_model"):
                write(other, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_model_with_lora_is_exported_when_merged(tmp_path: Path, made: Any) -> None:
    _, model = made("llama")
    lora_of(model)
    with pytest.raises(ArgumentError, match=r"one that has it; call merge_lora\(model\) first, or export_adapter"):
        export_hf(model, tmp_path / "export")
    merge_lora(model)
    assert difference(model, plain(export_hf(model, tmp_path / "export"))) < 1e-5


def test_an_earlier_export_is_replaced_whole(tmp_path: Path, made: Any) -> None:
    _, model = made("llama")
    folder = export_hf(model, tmp_path / "export")
    perturb(model, ["unembed.W_U"])
    export_hf(model, folder)
    assert torch.equal(read(folder)[0]["lm_head.weight"], model.W_U.T)
    lora_of(model)
    export_adapter(model, folder)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "ivlens.json",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [folder]


def test_an_empty_folder_is_filled(tmp_path: Path, made: Any) -> None:
    (tmp_path / "export").mkdir()
    assert difference(made("llama")[1], plain(export_hf(made("llama")[1], tmp_path / "export"))) < 1e-5


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "in an earlier export"])
def test_files_of_others_are_never_replaced(tmp_path: Path, made: Any, earlier: bool) -> None:
    _, model = made("llama")
    folder = tmp_path / "export"
    if earlier:
        export_hf(model, folder)
    folder.mkdir(exist_ok=True)
    (folder / "thesis.tex").write_text("years of work")
    there = sorted(folder.iterdir())
    with pytest.raises(RecordError, match=r"an earlier export, at .*; got one that holds thesis\.tex; choose another"):
        export_hf(model, folder)
    assert sorted(folder.iterdir()) == there
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("where", ["file", "file/export"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, made: Any, where: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(RecordError, match=r"to write the folder .*file.*NotADirectoryError.*choose a folder"):
        export_hf(made("llama")[1], tmp_path / where)
    assert (tmp_path / "file").read_text() == "a file"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_rust(*_: Any, **__: Any) -> None:
    raise Exception("No space left on device (os error 28)")


def moves_in(at: Path, to: Path) -> bool:
    """Whether a rename puts a new folder in place, rather than an old one aside or back."""
    return to.name == "export" and at.suffix != files.ASIDE


@pytest.fixture(params=["weights", "tokenizer", "move"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made: Any) -> Iterator[Callable[..., Any]]:
    """``failing(model)``: from now on a write of the model fails, at one step or another."""

    def fails(model: Any) -> None:
        if request.param == "weights":
            monkeypatch.setattr(export, "save_file", full)
        elif request.param == "tokenizer":
            monkeypatch.setattr(model.tokenizer, "save_pretrained", full_in_rust)
        else:
            rename = Path.rename
            monkeypatch.setattr(files, "_exchange", lambda *_: False)
            monkeypatch.setattr(Path, "rename", lambda at, to: (full if moves_in(at, to) else rename)(at, to))

    yield fails
    monkeypatch.undo()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, made: Any, failing: Any) -> None:
    _, model = made("llama")
    failing(model)
    with pytest.raises(RecordError, match=r"to write the folder .*No space left.*choose a folder on a disk with room"):
        export_hf(model, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_earlier_export(tmp_path: Path, made: Any, failing: Any) -> None:
    _, model = made("llama")
    folder = export_hf(model, tmp_path / "export")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    perturb(model, ["embed.W_E"])
    failing(model)
    with pytest.raises(RecordError, match="No space left"):
        export_hf(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("case", "targets", "layers"),
    [
        *((case, (), None) for case in CASES),
        ("llama", ("W_K", "W_out"), [1]),
        ("gpt2", ("W_V",), None),
        ("gpt2", ("W_Q", "W_V", "W_O"), [0]),
        ("gpt_neox", ("W_K", "W_in"), [1]),
        ("gpt_neox", ("W_V", "W_Q"), None),
        ("gemma3_text", ("W_V", "W_gate"), [0]),
        ("bloom", ("W_K",), None),
        ("phi3", ("W_K", "W_in"), [1]),
        ("phi3", ("W_V", "W_Q", "W_gate"), None),
    ],
)
def test_peft_computes_what_the_updated_model_does(
    tmp_path: Path, made: Any, tiny_tokenizer: Any, case: str, targets: tuple[str, ...], layers: Any
) -> None:
    theirs, model = made(case)
    lora_of(model, *targets, layers=layers)
    assert difference(model, theirs) > 1e-3
    folder = export_adapter(model, tmp_path / "adapter")
    again = load_model(theirs, adapter=folder, tokenizer=tiny_tokenizer())
    adapted = peft.PeftModel.from_pretrained(theirs, str(folder)).eval()
    assert difference(model, adapted) < 1e-5
    assert difference(again, adapted) < 1e-5
    asked = sum(name.endswith("lora_A.default.weight") for name, _ in adapted.named_parameters())
    assert asked == len(load_file(folder / "adapter_model.safetensors")) // 2
    assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] == case.startswith("gpt2")


def test_an_adapter_says_what_it_is_of(tmp_path: Path, made: Any) -> None:
    _, model = made("llama")
    base = weights_sha256(model)
    lora_of(model)
    folder = export_adapter(model, tmp_path / "adapter")
    facts = json.loads((folder / "ivlens.json").read_text())
    assert facts["settings"] == {"base_weights_sha256": base}
    assert facts["model"]["weights_sha256"] == weights_sha256(model) != base
    assert model_facts(model)["weights_sha256"] == weights_sha256(model)


def test_peft_is_not_needed_to_write(tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = made("llama")
    lora_of(model)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert (export_adapter(model, tmp_path / "adapter") / "adapter_config.json").is_file()


def test_without_lora_in_use_there_is_no_adapter(tmp_path: Path, made: Any) -> None:
    _, model = made("llama")
    with pytest.raises(ArgumentError, match="a model with LoRA; got one without"):
        export_adapter(model, tmp_path / "adapter")
    lora_of(model)
    with lora_off(model), pytest.raises(ArgumentError, match="switched on; got a model within lora_off; leave"):
        export_adapter(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
