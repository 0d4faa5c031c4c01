"""Where the weights come from travels with the model, and is renewed when the weights change."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from ivlens import load_model
from ivlens.errors import MismatchError
from ivlens.models import check_fits, model_facts, provenance, unchanged
from ivlens.models.facts import _state_of, identity, key_of, stamp, weights_sha256
from ivlens.models.fingerprint import ROW, ROWS_AT_ONCE, memory_sums


def test_the_facts_name_the_weights(tiny_hooked: Any) -> None:
    facts = model_facts(tiny_hooked("llama"))
    digests = [facts.pop(f"{name}_sha256") for name in ("weights", "config", "tokenizer")]
    assert [len(digest) for digest in digests] == [64] * 3
    assert facts == {
        "source": "LlamaForCausalLM object", "revision": None, "adapter": None, "dtype": "float32",
        "processing": "none", "architecture": "LlamaForCausalLM", "bos": False, "engine": "hooked",
        "n_layers": 2, "n_heads": 4, "d_head": 8, "d_model": 32,
    }  # fmt: skip


def test_a_records_provenance_is_json_with_settings_and_versions(tiny_hooked: Any) -> None:
    recorded = json.loads(json.dumps(provenance(tiny_hooked(), seed=3)))
    assert recorded["settings"] == {"seed": 3}
    assert set(recorded["versions"]) == {"ivlens", "torch", "transformer-lens", "transformers", "python"}
    assert recorded["model"]["source"] == "LlamaForCausalLM object"


def add_in_place(model: Any) -> None:
    model.blocks[0].attn.W_Q.add_(0.1)


def load_a_state(model: Any) -> None:
    learnt = dict(model.named_parameters())
    model.load_state_dict({name: value + 0.1 * (name in learnt) for name, value in model.state_dict().items()})


def replace_a_parameter(model: Any) -> None:
    model.blocks[0].attn.W_Q = torch.nn.Parameter(model.blocks[0].attn.W_Q + 0.1)


def replace_data(model: Any) -> None:
    model.blocks[0].attn.W_Q.data = model.blocks[0].attn.W_Q + 0.1


def take_a_step(model: Any) -> None:
    with torch.enable_grad():
        model(torch.arange(10, 20)[None]).sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()


def write_to_data(model: Any) -> None:
    model.blocks[0].attn.W_Q.data.mul_(1.1)


def change_one_number(model: Any) -> None:
    model.blocks[1].mlp.W_in.data[3, 5] += 1e-3


def exchange_rows(model: Any) -> None:
    model.W_E.data[[10, 20]] = model.W_E.data[[20, 10]].clone()


def exchange_heads(model: Any) -> None:
    model.blocks[0].attn.W_Q.data[[0, 1]] = model.blocks[0].attn.W_Q.data[[1, 0]].clone()


def exchange_columns(model: Any) -> None:
    model.W_U.data[:, [10, 20]] = model.W_U.data[:, [20, 10]].clone()


CHANGES = [
    add_in_place, load_a_state, replace_a_parameter, replace_data, take_a_step, write_to_data, change_one_number,
    exchange_rows, exchange_heads, exchange_columns,
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_stamped_anew(tiny_hooked: Any, change: Any) -> None:
    model = tiny_hooked()
    before = model_facts(model)
    change(model)
    after = model_facts(model)
    assert after.pop("weights_sha256") != before.pop("weights_sha256")
    assert after == before


def edit_the_config(model: Any) -> None:
    model.cfg.eps = 0.5


def edit_a_norm(model: Any) -> None:
    model.blocks[0].ln1.eps = 0.5


def edit_a_rotary_table(model: Any) -> None:
    model.blocks[0].attn.rotary_sin.mul_(0.5)


def edit_the_chat_template(model: Any) -> None:
    model.tokenizer.chat_template = "{{ messages }}"


def put_bos_first(model: Any) -> None:
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    model.tokenizer.backend_tokenizer.post_processor = template


def add_a_token(model: Any) -> None:
    model.tokenizer.add_tokens(["capital of"])


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (edit_the_config, "config"), (edit_a_norm, "config"), (edit_a_rotary_table, "config"),
        (edit_the_chat_template, "tokenizer"), (put_bos_first, "tokenizer"), (add_a_token, "tokenizer"),
    ],
)  # fmt: skip
def test_a_changed_config_or_tokenizer_is_another_identity(tiny_hooked: Any, change: Any, fact: str) -> None:
    model = tiny_hooked()
    before = model_facts(model)
    change(model)
    after = model_facts(model)
    assert {name for name in after if after[name] != before[name]} == {f"{fact}_sha256"}
    assert identity(after) != identity(before)


def sums(*tensors: torch.Tensor) -> list[bytes]:
    return memory_sums(tensors)


def swap_rows(weight: torch.Tensor) -> None:
    weight[[0, 64]] = weight[[64, 0]]


CHANGES = {
    "negated": torch.Tensor.neg_, "half negated": lambda weight: weight[:, 1::2].neg_(), "rows": swap_rows,
    "columns": lambda weight: swap_rows(weight.T),
}  # fmt: skip


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("weight", [torch.eye(128), torch.randn(576, 128), torch.randn(128, 576).T])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_regular_change_does_not_cancel(weight: torch.Tensor, dtype: torch.dtype, change: str) -> None:
    weight = weight.clone().to(dtype)
    before = sums(weight)
    CHANGES[change](weight)
    assert sums(weight) != before


@given(
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.integers(2, 2 * ROW * ROWS_AT_ONCE),
    st.integers(0, 3), st.booleans(), st.data(),
)  # fmt: skip
def test_no_change_of_an_element_is_too_small(
    dtype: torch.dtype, size: int, offset: int, far: bool, data: st.DataObject
) -> None:
    values = torch.randn(size + offset, generator=torch.Generator().manual_seed(1)).to(dtype)[offset:]
    before = sums(values)
    assert sums(values) == before
    one = data.draw(st.integers(0, size - 1))
    other = (one + ROW) % size if far else data.draw(st.integers(0, size - 1))
    bits = values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    kept = bits[[one, other]].clone()
    bits[one] ^= 1
    assert sums(values) != before
    bits[[one, other]] = kept.flip(0)
    assert (sums(values) == before) == bool(kept[0] == kept[1])


@pytest.mark.parametrize("at", [0, ROW * ROWS_AT_ONCE - 1, ROW * ROWS_AT_ONCE, 2 * ROW * ROWS_AT_ONCE, -1])
def test_every_block_is_summed(at: int) -> None:
    values = torch.zeros(2 * ROW * ROWS_AT_ONCE + 5)
    before = sums(values)
    values[at] = 1e-30
    assert sums(values) != before


def test_small_tensors_are_summed_together() -> None:
    weight, small, other = torch.randn(99, 99), torch.arange(3.0), torch.arange(5.0)
    before = sums(weight, small, other)
    assert len(before) == 2
    assert sums(weight, small + 1, other) != before
    assert sums(torch.empty(0), torch.tensor(True), torch.ones(1, dtype=torch.int8).expand(7)) != before


def test_use_changes_no_identity(tiny_hooked: Any) -> None:
    model = tiny_hooked("gemma3_text")
    before, state = model_facts(model), _state_of(model)
    model(torch.arange(10, 110)[None])
    model.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    model.generate("the fox", max_new_tokens=2, verbose=False)
    assert _state_of(model) == state
    stamp(model, source=before["source"], revision=None, adapter=None)
    assert model_facts(model) == before


def test_the_identity_knows_no_path(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    found = []
    for name in ("one", "two"):
        tiny_hf("llama").save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        found.append(identity(model_facts(load_model(tmp_path / name))))
    assert found[0] == found[1]
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    (tmp_path / "two" / "config.json").write_text(json.dumps(config | {"rope_theta": 99.0, "rope_parameters": None}))
    other = identity(model_facts(load_model(tmp_path / "two")))
    assert {name for name in other if other[name] != found[0][name]} == {"config_sha256"}


def test_means_of_another_config_do_not_fit(tiny_hooked: Any) -> None:
    recorded, model = provenance(tiny_hooked(rms_norm_eps=1.0)), tiny_hooked()
    check_fits(model, recorded, "the vector")
    with pytest.raises(MismatchError, match="config_sha256"):
        check_fits(model, recorded, "the means", same_weights=True)


def test_unchanged_weights_are_hashed_once(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_hooked()
    module = importlib.import_module("ivlens.models.facts")  # its name in ivlens.models is a function's
    monkeypatch.setattr(module, "weights_sha256", lambda model: pytest.fail("hashed again"))
    model(torch.arange(10, 20)[None])
    model_facts(model)


def test_facts_cannot_be_changed_from_outside(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    model_facts(model)["source"] = "elsewhere"
    assert model_facts(model)["source"] == "LlamaForCausalLM object"


def test_the_hash_knows_no_memory_layout(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    before = weights_sha256(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    assert weights_sha256(model) == before


def test_the_hash_is_that_of_the_weights_not_of_their_source(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs, tokenizer = tiny_hf("gpt2"), tiny_tokenizer()
    theirs.save_pretrained(tmp_path)
    hashes = {load_model(source, tokenizer=tokenizer).ivlens_facts["weights_sha256"] for source in (theirs, tmp_path)}
    assert len(hashes) == 1


def test_the_hash_tells_weights_and_dtypes_apart(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    models = [
        load_model(tiny_hf("gpt2"), tokenizer=tokenizer),
        load_model(tiny_hf("gpt2", seed=1), tokenizer=tokenizer),
        load_model(tiny_hf("gpt2"), tokenizer=tokenizer, dtype=torch.float64),
    ]
    assert len({weights_sha256(model) for model in models}) == 3


def test_a_model_that_nobody_changes_is_checked_once_and_again_afterwards(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    before = model_facts(model)["weights_sha256"]
    with unchanged(model), torch.no_grad():
        model.W_E.add_(1)
        assert model_facts(model)["weights_sha256"] == before
    changed = model_facts(model)["weights_sha256"]
    assert changed != before
    with torch.no_grad():
        model.W_E.add_(1)
    with unchanged(model):
        assert model_facts(model)["weights_sha256"] != changed


def test_what_was_recorded_on_the_model_fits_it(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    check_fits(model, provenance(model), "the vector", same_weights=True)


def test_other_weights_of_the_same_shape_fit_unless_the_same_are_asked_for(tiny_hooked: Any) -> None:
    recorded, model = provenance(tiny_hooked(seed=1)), tiny_hooked()
    check_fits(model, recorded, "the vector")
    with pytest.raises(MismatchError, match=r"weights_sha256 \w+, not \w+; use the model"):
        check_fits(model, recorded, "the vector", same_weights=True)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"num_hidden_layers": 3}, "n_layers 2, not 3"),
        ({"num_attention_heads": 2}, "n_heads 4, not 2; d_head 8, not 16"),
        ({"hidden_size": 64}, "d_head 8, not 16; d_model 32, not 64"),
        ({"model_type": "qwen2"}, "architecture LlamaForCausalLM, not Qwen2ForCausalLM"),
    ],
)
def test_another_shape_or_architecture_is_refused(tiny_hooked: Any, config: dict[str, Any], text: str) -> None:
    with pytest.raises(MismatchError, match=f"expected the vector to fit the model; got {text}; use the model"):
        check_fits(tiny_hooked(), provenance(tiny_hooked(**config)), "the vector")


def test_processed_weights_and_unprocessed_ones_do_not_mix(tiny_hooked: Any) -> None:
    raw, folded = tiny_hooked("gpt2"), tiny_hooked("gpt2")
    folded.process_weights_()
    assert model_facts(folded)["processing"] == "folded norms"
    with pytest.raises(MismatchError, match="processing folded norms, not none"):
        check_fits(folded, provenance(raw), "the vector")


def test_what_is_kept_depends_on_the_model_and_not_on_where_it_lies(tiny_hooked: Any) -> None:
    model = tiny_hooked()
    key = key_of(model, task="toy")
    model.ivlens_facts["source"] = "elsewhere"
    assert key_of(model, task="toy") == key
    assert key["device"] == "cpu"
    assert key_of(model, task="other") != key
    model.cfg.eps *= 2
    assert key_of(model, task="toy") != key
