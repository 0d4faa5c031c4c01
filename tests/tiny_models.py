"""Tiny random models of each family, the tokenizer that they share, and its words: ready in a moment, no file read."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SENTENCE = "the capital of France is Paris and the quick brown fox jumps over the lazy dog"
CORPUS = [SENTENCE, "Q: A: 1 + 2 = 3"] * 3
WORDS = list(dict.fromkeys(SENTENCE.split()))  # those that are one token, alone and after a space
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
# Types that only a bridge takes: mixtures of experts, sliding windows, layers without positions, norms after attention.
KV, EXPERTS = {"num_key_value_heads": 2, "head_dim": 8}, {"num_local_experts": 4, "num_experts_per_tok": 2}
ONLY_BRIDGED: dict[str, dict[str, Any]] = {
    "smollm3": WIDE | KV,
    "granite": WIDE | KV | {"residual_multiplier": 0.5, "logits_scaling": 2.0},
    "olmo3": WIDE | KV | {"sliding_window": 6},
    "glm4": WIDE | KV,
    "cohere2": WIDE | KV | {"sliding_window": 6, "logit_scale": 0.5},
    "ministral": WIDE | KV | {"sliding_window": 6},
    "llama4_text": WIDE | KV | {"num_local_experts": 2, "intermediate_size_mlp": 48},
    "mixtral": WIDE | KV | EXPERTS,
    "gpt_oss": WIDE | KV | EXPERTS | {"sliding_window": 6},
    "qwen3_moe": WIDE | KV | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "exaone4": WIDE | KV | {"sliding_window": 6},
    "nemotron": WIDE | KV,
    "stablelm": WIDE | {"num_key_value_heads": 2},
    "starcoder2": WIDE | {"num_key_value_heads": 2, "sliding_window": 6},
}
HYBRID = {
    "qwen3_5_text": WIDE | KV | {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip


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
    config = facts | (TINY | ONLY_BRIDGED | HYBRID).get(model_type, WIDE) | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoConfig.for_model(model_type, **config)
        model = AutoModelForCausalLM.from_config(made, experts_implementation="eager").eval()
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
            parameter.data = parameter.data + noise if parameter.ndim == 1 else 2 * noise
    return model
