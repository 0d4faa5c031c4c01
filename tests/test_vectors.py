"""The instruction vector against plain Hugging Face weights and the model's own attention output."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, InstructionVector, MismatchError, Prompt
from ivlens.models.families import FAMILIES

PROMPTS = [Prompt(text, " is") for text in ("the fox", "Q: what is the capital of France?\nA:", "a dog")]


def test_vector_is_the_sum_of_mean_outputs_through_o_proj(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    source = tiny_hf("llama", head_dim=12)
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer())
    means = ivlens.mean_head_activations(model, PROMPTS)
    heads = [(0, 1), (1, 3), (1, 0)]
    vector = ivlens.instruction_vector(model, means, heads)
    expected = torch.zeros(model.cfg.d_model)
    for layer, head in heads:
        weight = source.model.layers[layer].self_attn.o_proj.weight
        expected += weight[:, head * 12 : (head + 1) * 12].detach() @ means.values[layer, head]
    torch.testing.assert_close(vector.values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vector.parts.sum(0), vector.values)
    assert vector.heads == tuple(heads)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_of_a_layer_and_its_bias_are_the_attention_output(tiny_hooked: Any, family: str) -> None:
    """With one prompt the means are its activations; Gemma's and OLMo 2's norms of the output are then exact too."""
    model = tiny_hooked(family)
    means = ivlens.mean_head_activations(model, PROMPTS[:1])
    heads = [(1, head) for head in range(model.cfg.n_heads)]
    total = ivlens.instruction_vector(model, means, heads).values
    _, cache = model.run_with_cache(torch.tensor([model.tokenizer(PROMPTS[0].text)["input_ids"]]))
    bias = model.blocks[1].attn.b_O.detach()
    torch.testing.assert_close(total + bias, cache["attn_out", 1][0, -1], rtol=1e-4, atol=1e-5)


def test_saved_vector_comes_back_with_its_provenance(tiny_hooked: Any, tmp_path: Path) -> None:
    model = tiny_hooked("llama")
    vector = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 1)])
    again = InstructionVector.load(vector.save(tmp_path / "vector.safetensors"))
    assert again.values.equal(vector.values)
    assert again.heads == ((0, 1),)
    assert again.provenance["model"]["weights_sha256"] == vector.provenance["model"]["weights_sha256"]
    assert again.norm == vector.norm
    assert vector.cosine(again) == pytest.approx(1)


def test_means_of_other_weights_and_odd_heads_are_refused(tiny_hooked: Any) -> None:
    model, tuned = tiny_hooked("llama"), tiny_hooked("llama", seed=1)
    means = ivlens.mean_head_activations(model, PROMPTS)
    with pytest.raises(MismatchError, match="weights_sha256"):
        ivlens.instruction_vector(tuned, means, [(0, 0)])
    with pytest.raises(ArgumentError, match=r"layers below 2 and heads below 4; got \(2, 0\)"):
        ivlens.instruction_vector(model, means, [(2, 0)])
    for heads, named in (([], r"\[\]"), ([(0, 1), (0, 1)], r"\[\(0, 1\), \(0, 1\)\]")):
        with pytest.raises(ArgumentError, match=f"different heads, one or more, .* got {named}"):
            ivlens.instruction_vector(model, means, heads)


def test_arithmetic_acts_on_values_and_parts(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    means = ivlens.mean_head_activations(model, PROMPTS)
    one = ivlens.instruction_vector(model, means, [(0, 1), (1, 3)])
    two = ivlens.instruction_vector(model, means, [(1, 3), (1, 0)])
    total = one - 2 * two
    torch.testing.assert_close(total.values, one.values - 2 * two.values)
    torch.testing.assert_close(total.parts.sum(0), total.values, rtol=1e-4, atol=1e-5)
    assert total.heads == ((0, 1), (1, 3), (1, 0))
    torch.testing.assert_close(total.parts[1], one.parts[1] - 2 * two.parts[0])
    torch.testing.assert_close(one.interpolate(two, 0.25).values, 0.75 * one.values + 0.25 * two.values)
    assert (-one).cosine(one) == pytest.approx(-1)
    assert [term["factor"] for term in total.provenance["settings"]["sum of"]] == [1, -2]
    assert (one + ivlens.random_vector(one, seed=0)).heads == ()
    frame = one.to_frame()
    assert frame["norm"][0] == pytest.approx(one.parts[0].norm().item(), rel=1e-5)
    assert one.first(1).values.equal(one.parts[0])
    with pytest.raises(ArgumentError, match="from 1 to 2"):
        one.first(3)
    with pytest.raises(ArgumentError, match="factor to be a finite number; got nan"):
        one * float("nan")


def test_vectors_of_different_models_do_not_mix(tiny_hooked: Any) -> None:
    vectors = []
    for family in ("llama", "gpt2"):
        model = tiny_hooked(family)
        vectors.append(ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 0)]))
    with pytest.raises(MismatchError, match="architecture GPT2LMHeadModel, not LlamaForCausalLM"):
        vectors[0] + vectors[1]
    with pytest.raises(MismatchError, match="two vectors to fit each other"):
        vectors[0].cosine(vectors[1])


def test_loading_for_a_model_checks_the_fit_unless_forced(tiny_hooked: Any, tmp_path: Path) -> None:
    model, other, narrow = tiny_hooked("llama"), tiny_hooked("gpt2"), tiny_hooked("llama", hidden_size=48)
    path = tmp_path / "vector.safetensors"
    ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 1)]).save(path)
    assert ivlens.load_vector(path, model).heads == ((0, 1),)
    with pytest.raises(MismatchError, match="architecture GPT2LMHeadModel, not LlamaForCausalLM"):
        ivlens.load_vector(path, other)
    forced = ivlens.load_vector(path, other, force=True)
    with ivlens.steer(other, forced, 0):
        other(torch.tensor([[3, 4]]))
    assert forced.provenance["forced from"]["architecture"] == "LlamaForCausalLM"
    with pytest.raises(MismatchError, match="d_model 48, not 32"):
        ivlens.load_vector(path, narrow, force=True)


def test_a_folder_of_vectors_is_a_library(tiny_hooked: Any, tmp_path: Path) -> None:
    model = tiny_hooked("llama")
    vector = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, PROMPTS), [(0, 1)])
    vector.save(tmp_path / "tasks" / "one.safetensors")
    (2 * vector).save(tmp_path / "two.safetensors")
    ivlens.mean_head_activations(model, PROMPTS).save(tmp_path / "means.safetensors")
    listed = ivlens.list_vectors(tmp_path)
    assert list(listed["file"]) == ["tasks/one.safetensors", "two.safetensors"]
    assert listed["norm"][1] == pytest.approx(2 * vector.norm)
    with pytest.raises(ivlens.RecordError, match="a folder of vectors"):
        ivlens.list_vectors(tmp_path / "none")
