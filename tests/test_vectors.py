"""The instruction vector against plain Hugging Face weights and the model's own attention output."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, InstructionVector, MismatchError, Prompt

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


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_all_heads_of_a_layer_and_its_bias_are_the_attention_output(tiny_hooked: Any, family: str) -> None:
    """With one prompt the means are its activations; Gemma's norm of the attention output is then exact too."""
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
    for heads in ([], [(0, 1), (0, 1)]):
        with pytest.raises(ArgumentError, match="different heads, one or more"):
            ivlens.instruction_vector(model, means, heads)
