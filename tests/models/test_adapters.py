"""Adapters: merged they are what PEFT computes unmerged, or refused; their tokenizer and sizes come with them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ivlens import export_adapter, load_model
from ivlens.errors import MismatchError, SourceError, SourceWarning
from ivlens.models import adapter_stack, adapter_tokenizer, add_lora, lora_factors

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
TOKENS = torch.arange(10, 40)[None]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def base(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Path]:
    """``base(**config)``: the folder of a tiny llama."""

    def made(name: str = "base", seed: int = 0, **config: Any) -> Path:
        tiny_hf("llama", seed=seed, **config).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name

    return made


def plain(folder: Path, rows: int | None = None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def adapted(base: Path, rows: int | None = None, **what: Any) -> Path:
    """The folder of a random adapter of the base, resized to so many rows of tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = peft.LoraConfig(
            **{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], "init_lora_weights": False, **what}
        )
        peft.get_peft_model(plain(base, rows), config).save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


@torch.no_grad()
def unmerged(base: Path, adapter: Path, rows: int | None = None) -> Any:
    return peft.PeftModel.from_pretrained(plain(base, rows), adapter).eval()(TOKENS).logits


ON_TIED: dict[str, dict[str, Any]] = {
    "attention": {},
    "unembedding": {"target_modules": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, kept tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": [12, 13]},
    "replicated layers": {"layer_replication": [[0, 2], [1, 2]]},
    "biases": {"target_modules": ["q_proj", "gate_proj"], "bias": "lora_only"},
    "DoRA": {"use_dora": True},
    "rank stabilised": {"use_rslora": True, "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
}


@torch.no_grad()
@pytest.mark.parametrize("what", ON_TIED)
@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_adapter_is_what_the_unmerged_one_computes(base: Any, what: str, tied: bool) -> None:
    folder = base(tie_word_embeddings=tied)
    adapter = adapted(folder, **ON_TIED[what])
    theirs, model = unmerged(folder, adapter), load_model(folder, adapter=adapter)
    assert (theirs - plain(folder)(TOKENS).logits).abs().max() > 0.05
    torch.testing.assert_close(model(TOKENS), theirs, atol=1e-4, rtol=1e-5)
    if what in ("unembedding", "embedding", "both"):
        assert not torch.equal(model.W_E.T, model.W_U)


def test_a_merge_that_is_something_else_is_refused(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base()
    adapter = adapted(folder, target_modules=["embed_tokens"])
    monkeypatch.setattr("ivlens.models.adapters._unshare", lambda model: None)
    with pytest.raises(MismatchError, match="an adapter whose merge is what it does unmerged"):
        load_model(folder, adapter=adapter)


@torch.no_grad()
@pytest.mark.parametrize("rows", [330, 400])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("what", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {},
                                  {"target_modules": ["embed_tokens", "lm_head"]}], ids=str)  # fmt: skip
def test_embeddings_are_resized_to_the_adapters(base: Any, rows: int, tied: bool, what: dict[str, Any]) -> None:
    folder = base(tie_word_embeddings=tied)
    adapter = adapted(folder, rows, **what)
    model = load_model(folder, adapter=adapter)
    assert model.cfg.d_vocab == rows
    torch.testing.assert_close(model(TOKENS), unmerged(folder, adapter, rows), atol=1e-4, rtol=1e-5)


def test_sizes_that_do_not_fit_are_told(base: Any) -> None:
    folder = base(tie_word_embeddings=False)
    adapter = adapted(folder, 330, target_modules=["embed_tokens"])
    with pytest.raises(SourceError, match=r"got embed_tokens of 330 tokens where the model has 320; save both"):
        load_model(folder, adapter=adapter)
    adapter = adapted(base("wide", hidden_size=48))
    with pytest.raises(SourceError, match=r"size mismatch for .*torch.Size\(\[4, 48\]\)"):
        load_model(folder, adapter=adapter)


def test_the_adapters_own_tokenizer_goes_before_the_bases(base: Any, tiny_tokenizer: Any) -> None:
    folder = base()
    adapter = adapted(folder)
    assert load_model(folder, adapter=adapter).tokenizer.chat_template is None
    tiny_tokenizer("<s> $A", TEMPLATE).save_pretrained(adapter)
    model = load_model(folder, adapter=adapter)
    assert (model.tokenizer.chat_template, model.cfg.tokenizer_prepends_bos) == (TEMPLATE, True)
    given = load_model(folder, adapter=adapter, tokenizer=folder)
    assert (given.tokenizer.chat_template, given.cfg.tokenizer_prepends_bos) == (None, False)


def test_an_adapters_added_tokens_have_its_embeddings(base: Any, tiny_tokenizer: Any) -> None:
    folder, tokenizer = base(), tiny_tokenizer()
    adapter = adapted(folder, 330, modules_to_save=["embed_tokens"])
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    tokenizer.save_pretrained(adapter)
    model = load_model(folder, adapter=adapter)
    ids = model.tokenizer("<|user|> the")["input_ids"]
    assert ids[0] == len(tokenizer) - 1
    assert model(torch.tensor([ids])).isfinite().all()


def test_an_adapter_trained_on_another_model_is_told_of(base: Any) -> None:
    folder, other = base(), base("other", seed=1)
    adapter = adapted(folder)
    assert "base" in json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SourceWarning)
        load_model(folder, adapter=adapter)
    with pytest.warns(
        SourceWarning, match=r"the adapter at .*adapter was trained on .*base, and is merged into .*other"
    ):
        load_model(other, adapter=adapter)


def test_an_exported_adapter_knows_its_base_by_the_weights(base: Any, tmp_path: Path) -> None:
    folder, other = base(), base("other", seed=1)
    model = load_model(folder)
    add_lora(model, 3, 6.0, ("W_Q",), None, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, outer in lora_factors(model).values():
            outer.copy_(torch.randn(outer.shape, generator=generator))
    adapter = export_adapter(model, tmp_path / "exported")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SourceWarning)
        load_model(folder.rename(folder.with_name("moved")), adapter=adapter)
        load_model(other, adapter=adapter, dtype=torch.bfloat16)  # another dtype's weights tell nothing
    with pytest.warns(SourceWarning, match=r"trained on other weights than those of .*other"):
        load_model(other, adapter=adapter)


@torch.no_grad()
@pytest.mark.parametrize("what", ["attention", "unembedding", "replicated layers"])
def test_a_peft_model_object_is_merged_and_stays_as_it_is(base: Any, tiny_tokenizer: Any, what: str) -> None:
    folder = base()
    theirs = peft.PeftModel.from_pretrained(plain(folder), adapted(folder, **ON_TIED[what])).eval()
    before = theirs(TOKENS).logits
    model = load_model(theirs)
    torch.testing.assert_close(model(TOKENS), before, atol=1e-4, rtol=1e-5)
    assert torch.equal(theirs(TOKENS).logits, before)
    assert model.ivlens_facts["source"] == "PeftModel object"


@torch.no_grad()
def test_a_peft_model_whose_adapters_are_off_is_no_merged_one(base: Any) -> None:
    folder = base()
    theirs = peft.PeftModel.from_pretrained(plain(folder), adapted(folder))
    theirs.base_model.disable_adapter_layers()
    with pytest.raises(MismatchError, match="whose merge is what it does unmerged"):
        load_model(theirs)


def test_adapters_that_do_not_change_weights_are_refused_by_their_type(base: Any, tmp_path: Path) -> None:
    folder = base()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(plain(folder), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(SourceError, match=r"got one of type PROMPT_TUNING; only adapters of weights merge"):
        load_model(folder, adapter=tmp_path / "prompt")


def as_pickle(adapter: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()


def poisoned(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def beside_a_model(adapter: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).unlink()
    (adapter / "config.json").write_text("{}")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle": (as_pickle, "got adapter_model.bin, which can run code and is never opened; convert to safetensors"),
    "not a number": (poisoned, r"finite weights in a PEFT adapter for .*; got NaN or infinity in .*lora_A"),
    "a whole model": (beside_a_model, r"got a folder with a whole model; load_model\(folder\)"),
    "a list as settings": (lambda adapter: (adapter / "adapter_config.json").write_text("[]"), "got a list in"),
    "no JSON": (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "JSONDecodeError"),
    "no type": (lambda adapter: (adapter / "adapter_config.json").write_text("{}"), "a PEFT adapter for"),
    "another type": (
        lambda adapter: (adapter / "adapter_config.json").write_text('{"peft_type": "NEW"}'),
        "a PEFT adapter for",
    ),
    "no weights": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "no adapter_model"),
    "no bytes": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b""), "SafetensorError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_refused_in_one_line(base: Any, name: str) -> None:
    folder = base()
    adapter = adapted(folder)
    change, text = BROKEN[name]
    change(adapter)
    with pytest.raises(SourceError, match=text) as caught:
        load_model(folder, adapter=adapter)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_an_adapter_beside_its_model_has_to_move(base: Any) -> None:
    folder = base()
    adapter = adapted(folder)
    for path in adapter.iterdir():
        path.rename(folder / path.name)
    (folder / "model.gguf").write_bytes(b"GGUF")
    for source, options in ((folder, {}), (folder, {"adapter": folder}), (folder / "model.gguf", {})):
        with pytest.raises(SourceError, match=r"an adapter in one folder; move adapter_config\.json"):
            load_model(source, **options)


def trained_on(base: Path, model: Any, name: str, seed: int, **what: Any) -> tuple[Path, Any]:
    """The folder of a random adapter, trained on a model, and that model with the adapter merged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"r": 4, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False, "use_dora": True, **what}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    adapted.save_pretrained(base.parent / name)
    return base.parent / name, adapted.eval().merge_and_unload()


@torch.no_grad()
def test_adapters_one_on_the_other_are_merged_in_order(base: Any) -> None:
    """DoRA's norms are those of the weights below, so that the other order would be another model."""
    folder = base()
    first, below = trained_on(folder, plain(folder), "first+", 1)
    second, both = trained_on(folder, below, "second", 2)
    theirs = both(TOKENS).logits
    named = f"{first}+{second}"
    torch.testing.assert_close(load_model(folder, adapter=named)(TOKENS), theirs, atol=1e-4, rtol=1e-5)
    other = load_model(folder, adapter=f"{second}+{first}")(TOKENS)
    assert (other - theirs).abs().max() > 0.01
    settings = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(first)}))
    assert adapter_stack(second) == adapter_stack(named) == (first, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SourceWarning)
        torch.testing.assert_close(load_model(folder, adapter=second)(TOKENS), theirs, atol=1e-4, rtol=1e-5)
        bridge = load_model(folder, adapter=second, engine="bridge")
    torch.testing.assert_close(bridge(TOKENS), theirs, atol=1e-4, rtol=1e-5)


def test_adapters_in_a_circle_or_missing_are_refused(base: Any) -> None:
    folder = base()
    first, _ = trained_on(folder, plain(folder), "first", 1)
    settings = json.loads((first / "adapter_config.json").read_text())
    (first / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(first)}))
    with pytest.raises(SourceError, match="an adapter that was not trained on itself"):
        load_model(folder, adapter=first)
    second, _ = trained_on(folder, plain(folder), "second", 1)
    with pytest.raises(SourceError, match=r"a PEFT adapter for a model at nowhere"):
        load_model(folder, adapter=f"{second}+nowhere")


def test_the_last_tokenizer_of_several_adapters_is_taken(base: Any, tiny_tokenizer: Any) -> None:
    folder = base()
    first, below = trained_on(folder, plain(folder), "first", 1)
    second, _ = trained_on(folder, below, "second", 2)
    tiny_tokenizer(chat_template=TEMPLATE).save_pretrained(first)
    assert adapter_tokenizer(f"{first}+{second}").chat_template == TEMPLATE
    tiny_tokenizer(chat_template="2" + TEMPLATE).save_pretrained(second)
    assert load_model(folder, adapter=f"{first}+{second}").tokenizer.chat_template == "2" + TEMPLATE
