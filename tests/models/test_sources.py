"""What ``load_model`` reads, and how it refuses what it cannot."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from ivlens import load_model
from ivlens.errors import ArgumentError, MismatchError, SourceError
from ivlens.models import cache_folder, packaged
from ivlens.models.facts import model_facts
from ivlens.models.sources import merge_adapter, open_source

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:peft")
TOKENS = torch.arange(10, 40)[None]


@pytest.fixture
def folder(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """A Hugging Face folder of a tiny llama with untied embeddings."""
    tiny_hf("llama", tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path: Path, tiny_hf: Any) -> Callable[..., Path]:
    """``adapter(**config)``: a folder with a random LoRA adapter for the tiny model of that config."""

    def made(model_type: str = "llama", **config: Any) -> Path:
        target = "c_attn" if model_type == "gpt2" else "q_proj"
        lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=[target], init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            peft.get_peft_model(tiny_hf(model_type, **config), lora).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return made


def refused(source: Any, text: str, **options: Any) -> None:
    with pytest.raises(SourceError, match=f"(?s){text}"):
        load_model(source, **options)


def test_a_folder_gives_an_unprocessed_model_in_evaluation_mode_with_its_tokenizer(folder: Path) -> None:
    model = load_model(str(folder))
    assert (model.training, model.cfg.dtype, model.cfg.normalization_type) == (False, torch.float32, "RMS")
    assert model.tokenizer("the capital")["input_ids"] == model.to_tokens("the capital")[0].tolist()
    assert model.ivlens_facts["source"] == str(folder)


def test_a_model_object_is_left_as_it_was(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("llama").to(torch.bfloat16).train()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = load_model(theirs, tokenizer=tiny_tokenizer())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    assert (theirs.dtype, theirs.training) == (torch.bfloat16, True)
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    assert not {p.untyped_storage().data_ptr() for p in theirs.parameters()} & {
        p.untyped_storage().data_ptr() for p in ours.parameters()
    }


def test_a_tied_model_object_is_copied_tied(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    copied = open_source(tiny_hf("llama"), torch.float32, None, tiny_tokenizer()).model
    assert copied.lm_head.weight is copied.model.embed_tokens.weight


def with_a_hook(theirs: Any) -> None:
    theirs.model.norm.register_forward_hook(lambda module, given, output: 3 * output)


def with_another_epsilon(theirs: Any) -> None:
    theirs.model.norm.variance_epsilon = 5.0


def with_another_activation(theirs: Any) -> None:
    theirs.model.layers[0].mlp.act_fn = torch.nn.ReLU()


def with_other_rotary_frequencies(theirs: Any) -> None:
    theirs.model.rotary_emb.inv_freq.mul_(0.5)


def with_another_config(theirs: Any) -> None:
    theirs.config.rms_norm_eps = 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "edit",
    [with_a_hook, with_another_epsilon, with_another_activation, with_other_rotary_frequencies, with_another_config],
)
def test_a_model_object_that_is_not_what_its_config_says_is_refused(
    edit: Callable[[Any], None], dtype: torch.dtype, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    theirs = tiny_hf("llama").to(dtype)
    load_model(theirs, tokenizer=tiny_tokenizer())
    edit(theirs)
    with pytest.raises(MismatchError, match="a model object that its config and weights describe"):
        load_model(theirs, tokenizer=tiny_tokenizer())


def test_a_model_object_of_another_kind_is_refused(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    refused(tiny_hf("llama").model, "a causal language model, not a LlamaModel", tokenizer=tiny_tokenizer())


def test_a_model_object_finds_the_tokenizer_where_it_was_loaded_from(folder: Path) -> None:
    assert load_model(LlamaForCausalLM.from_pretrained(folder)).tokenizer("a")["input_ids"]


def test_a_model_object_of_unknown_origin_needs_a_tokenizer(tiny_hf: Any) -> None:
    refused(tiny_hf("llama"), r"does not say where its tokenizer is; pass load_model\(model, tokenizer=\.\.\.\)")


def test_a_given_tokenizer_is_left_as_it_was(folder: Path, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    assert load_model(folder, tokenizer=tokenizer).tokenizer.padding_side == "right"
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", None)


def test_a_hooked_transformer_passes_through(tiny_hooked: Any) -> None:
    model = tiny_hooked().train()
    assert load_model(model) is model
    assert not model.training
    assert model.ivlens_facts["source"] == "LlamaForCausalLM object"


def test_a_hooked_transformer_made_elsewhere_is_stamped(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    del model.ivlens_facts, model.ivlens_versions
    assert load_model(model).ivlens_facts["source"] == "HookedTransformer object"


def test_a_hooked_transformer_without_a_tokenizer_needs_one(tiny_hooked: Any, tiny_tokenizer: Any) -> None:
    model = tiny_hooked()
    model.tokenizer = None
    refused(model, "a HookedTransformer with a tokenizer")
    assert load_model(model, tokenizer=tiny_tokenizer("<s> $A")).cfg.default_prepend_bos


def test_an_adapter_is_not_merged_into_a_hooked_transformer(tiny_hooked: Any, adapter: Any) -> None:
    with pytest.raises(ArgumentError, match="an adapter only with a Hugging Face source"):
        load_model(tiny_hooked(), adapter=adapter())


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "./no/such/folder", "/no/such/folder", "a b?c"])
def test_a_name_that_leads_nowhere_says_what_can_be_given(name: str) -> None:
    refused(name, f"readable model at {re.escape(name)}.*give the packaged default 'smollm2', a Hugging Face hub name")


@pytest.mark.parametrize(
    ("name", "came"),
    [
        ("./nope", "no such folder and no packaged model of that name;"),
        ("smolm2", "no such folder, no packaged model of that name, and the Hugging Face hub could not be reached; "
                   "did you mean 'smollm2'? If not, give"),
        ("SmolLM2", "did you mean 'smollm2'? If not, give"),
        ("gema3-270m", "did you mean 'gemma3-270m'? If not, give"),
        ("./bse", "did you mean 'base'? If not, give"),
        ("./bsae.gguf", "./bsae.gguf, which does not exist; did you mean 'base.gguf'? If not, give"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_told_in_our_words(
    name: str, came: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "base.gguf").touch()
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SourceError) as caught:
        load_model(name)
    assert came in str(caught.value)
    assert "HFValidationError" not in str(caught.value)


def test_an_adapter_that_is_nowhere_is_told_in_our_words(folder: Path) -> None:
    refused(folder, "at ./nope; got no such folder, and no hub name is written so; give a folder", adapter="./nope")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "a Hugging Face model folder; got .* which has no config.json")


def test_a_folder_with_only_an_adapter_says_how_to_load_it(adapter: Any) -> None:
    refused(adapter(), r"holds only an adapter; load_model\(base, adapter=folder\)")


def test_a_plain_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    refused(path, "a folder or a .gguf file; got the file .*model.bin")


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refused(folder, "readable model at .*base")


def test_a_config_with_an_impossible_value_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    refused(folder, "readable model at .*hidden_size")


def test_a_truncated_weight_file_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(folder, "readable model at .*base.*SafetensorError")


def test_a_missing_weight_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "readable model at .*base")


def test_a_missing_weight_is_refused_rather_than_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "weights for every part of .*base; got none for lm_head.weight")


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "readable model at .*base")


def test_a_missing_tokenizer_is_refused_unless_given(folder: Path, tiny_tokenizer: Any) -> None:
    for path in folder.glob("token*"):
        path.unlink()
    refused(folder, "readable model at .*base")
    load_model(folder, tokenizer=tiny_tokenizer())


def test_bfloat16_stays_bfloat16(folder: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.ivlens_facts["dtype"] == "bfloat16"


def test_an_odd_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match=r"dtype to be float32, float64, bfloat16 or float16.*torch\.int8"):
        load_model(folder, dtype=torch.int8)


def test_loading_inside_inference_mode_works(folder: Path) -> None:
    with torch.inference_mode():
        model = load_model(folder)
        facts = model_facts(model)
    assert facts == model_facts(load_model(folder))
    model.embed.W_E.requires_grad_(True)
    model(TOKENS).sum().backward()
    assert model.embed.W_E.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_merged_adapter_is_pefts_own_merge(folder: Path, adapter: Any, dtype: torch.dtype) -> None:
    lora = adapter(tie_word_embeddings=False)
    theirs = peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(folder, dtype=dtype), lora).eval()
    ours = load_model(folder, adapter=lora, dtype=dtype)
    torch.testing.assert_close(ours(TOKENS), theirs.merge_and_unload()(TOKENS).logits, atol=1e-4, rtol=0)
    assert (ours(TOKENS) - load_model(folder, dtype=dtype)(TOKENS)).abs().max() > 0.1
    assert ours.ivlens_facts["adapter"] == str(lora)


@torch.no_grad()
def test_an_adapter_on_a_model_object_leaves_the_object_alone(tiny_hf: Any, tiny_tokenizer: Any, adapter: Any) -> None:
    theirs = tiny_hf("llama")
    before = theirs(TOKENS).logits
    load_model(theirs, adapter=adapter(), tokenizer=tiny_tokenizer())
    assert torch.equal(theirs(TOKENS).logits, before)


@pytest.mark.parametrize(
    "other",
    [
        {"model_type": "gpt2"},
        {"hidden_size": 48},
        pytest.param({"num_hidden_layers": 3}, id="more layers"),
        pytest.param({"num_hidden_layers": 1}, id="fewer layers"),
    ],
)
def test_an_adapter_of_another_model_is_refused(folder: Path, adapter: Any, other: dict[str, Any]) -> None:
    refused(folder, "a PEFT adapter for .*base at .*adapter", adapter=adapter(**other))


def test_an_adapter_without_weights_is_refused(folder: Path, adapter: Any) -> None:
    lora = adapter()
    (lora / "adapter_model.safetensors").unlink()
    refused(folder, "a PEFT adapter for", adapter=lora)


def test_a_truncated_adapter_is_refused(folder: Path, adapter: Any) -> None:
    weights = adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(folder, "a PEFT adapter for", adapter=weights.parent)


def test_a_folder_without_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    refused(folder, "a PEFT adapter for", adapter=tmp_path / "nothing")


def test_the_revision_of_a_hub_model_is_recorded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "v1.0").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    facts = load_model("someone/tiny", revision="v1.0").ivlens_facts
    assert (facts["source"], facts["revision"]) == ("someone/tiny", commit)
    refused("someone/tiny", "readable model at someone/tiny", revision="v2.0")


def test_a_missing_or_broken_gguf_file_is_refused(tmp_path: Path, smollm2: Any) -> None:
    refused(tmp_path / "none.gguf", "a GGUF file; got .*none.gguf, which does not exist")
    (tmp_path / "text.gguf").write_text("not a model")
    refused(tmp_path / "text.gguf", "readable model at .*text.gguf")
    with (cache_folder() / packaged.PACKAGED["smollm2"].gguf).open("rb") as whole:
        (tmp_path / "part.gguf").write_bytes(whole.read(8 << 20))
    refused(tmp_path / "part.gguf", "readable model at .*part.gguf")


def test_the_packaged_gguf_file_is_the_packaged_model(smollm2: Any) -> None:
    model = load_model(cache_folder() / packaged.PACKAGED["smollm2"].gguf, verify=False)
    assert model.ivlens_facts["weights_sha256"] == smollm2.ivlens_facts["weights_sha256"]
    assert model.to_tokens("Verb: go").tolist() == smollm2.to_tokens("Verb: go").tolist()


def test_peft_is_named_where_it_is_missing(folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    source = open_source(folder, torch.float32, None, tiny_tokenizer())
    with pytest.raises(SourceError, match=r"peft, to merge an adapter.*pip install 'ivlens\[adapters\]'"):
        merge_adapter(source, Path("somewhere"), ())
