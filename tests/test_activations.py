"""Mean head activations against the inputs of o_proj in plain Hugging Face."""

from typing import Any

import pytest
import torch

import ivlens
from ivlens import Prompt
from ivlens.activations import attention_patterns

PROMPTS = [Prompt(text, " is") for text in ("the fox", "Q: what is the capital of France?\nA:", "a", "1 + 2 =")]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_means_equal_the_inputs_of_o_proj(tiny_hf: Any, tiny_tokenizer: Any, batch_size: int) -> None:
    source = tiny_hf("qwen2")
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer())
    seen: list[torch.Tensor] = []
    handles = [
        block.self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1]))
        for block in source.model.layers
    ]
    with torch.inference_mode():
        for prompt in PROMPTS:
            source(torch.tensor([model.tokenizer(prompt.text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    cfg = model.cfg
    expected = torch.stack(seen).view(len(PROMPTS), cfg.n_layers, cfg.n_heads, cfg.d_head).mean(0)
    means = ivlens.mean_head_activations(model, PROMPTS, batch_size=batch_size)
    torch.testing.assert_close(means.values, expected, rtol=1e-4, atol=1e-5)
    assert means.n == len(PROMPTS)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_attention_patterns_are_those_of_the_heads_asked_for(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    tokens, patterns = attention_patterns(model, PROMPTS[1], [(1, 3), (0, 0)])
    _, cache = model.run_with_cache(torch.tensor([model.tokenizer(PROMPTS[1].text)["input_ids"]]))
    assert "".join(tokens) == PROMPTS[1].text
    torch.testing.assert_close(patterns[0], cache["pattern", 1][0, 3])
    torch.testing.assert_close(patterns[1], cache["pattern", 0][0, 0])
