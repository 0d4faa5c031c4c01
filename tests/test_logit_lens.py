"""The vocabulary read-out of planted vectors."""

from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, InstructionVector, Prompt


@pytest.mark.parametrize("lens", ["logit", "cosine"])
def test_a_token_s_own_direction_reads_as_that_token(tiny_hooked: Any, lens: str) -> None:
    model = tiny_hooked("llama")
    with torch.no_grad():
        model.ln_final.w.fill_(1.0)
        model.unembed.W_U /= model.unembed.W_U.norm(dim=0)
    for token in (70, 200):
        values = 3 * model.unembed.W_U[:, token].detach()
        vector = InstructionVector(values, values.new_zeros(0, len(values)), (), "planted")
        frame = ivlens.logit_lens(model, vector, 3, lens=lens)
        assert frame["token"][0] == ivlens.tasks.token_text(model.tokenizer, token)
        assert list(frame["rank"]) == [1, 2, 3]
        assert lens == "logit" or frame["value"][0] == pytest.approx(1, abs=1e-5)


def test_the_logit_lens_is_the_final_norm_and_the_unembedding(tiny_hooked: Any) -> None:
    model = tiny_hooked("gemma3_text", final_logit_softcapping=5.0)
    prompts = [Prompt("the fox", " is"), Prompt("a dog", " is")]
    vector = ivlens.instruction_vector(model, ivlens.mean_head_activations(model, prompts), [(0, 1), (1, 2)])
    frame = ivlens.logit_lens(model, vector, 5, parts=True)
    assert list(frame["of"].unique()) == ["vector", "0.1", "1.2"]
    part = vector.parts[1]
    with torch.inference_mode():
        normed = part / (part.pow(2).mean() + model.ln_final.eps).sqrt() * model.ln_final.w
        logits = 5 * torch.tanh(normed @ model.unembed.W_U / 5)
    best = (logits - logits.mean()).topk(5)
    assert frame[frame["of"] == "1.2"]["value"].tolist() == pytest.approx(best.values.tolist(), abs=1e-4)


def test_messages(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    values = torch.ones(32)
    vector = InstructionVector(values, values.new_zeros(0, 32), (), "ones")
    with pytest.raises(ArgumentError, match="lens to be one of 'logit', 'cosine'"):
        ivlens.logit_lens(model, vector, lens="x-ray")
    with pytest.raises(ArgumentError, match="k to be a whole number of 1 or more; got 0"):
        ivlens.logit_lens(model, vector, 0)
    with pytest.raises(ivlens.MismatchError, match=r"cast it with model.to\(torch.float16\)"):
        ivlens.logit_lens(model.half(), vector)
