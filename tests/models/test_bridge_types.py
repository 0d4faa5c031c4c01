"""Bridges over many types of models, and over models as users leave them: right, or refused in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM

import ivlens as iv
from ivlens.errors import ArgumentError, HookError, IvlensError, SourceError, UnsupportedError
from ivlens.models import Bridge, answer_logits, head_writes, hooked, load_model, padded, unembedding
from ivlens.models.head_weights import attention_weights
from ivlens.vocabulary import TokenizedPrompt
from tiny_models import WIDE, WORDS

pytestmark = pytest.mark.slow  # many types; tests/models/test_bridge.py holds the engine to its oracle in the fast tier

NEXT = iv.Task("next-word", [(word, WORDS[(at + 1) % len(WORDS)]) for at, word in enumerate(WORDS)], ("the fox jumps",))
IDS = torch.randint(4, 320, (23,), generator=torch.Generator().manual_seed(0)).tolist()
KV = {"num_key_value_heads": 2, "head_dim": 8}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "head_dim": 4, "first_k_dense_replace": 2,
}  # fmt: skip
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
# Beyond those of test_bridge.py: attention of latent keys, of differences, with gates, in parallel with an MLP; norms
# after the addition; layers that share their attention; states beside keys and values.
TAKEN: dict[str, dict[str, Any]] = {
    "deepseek_v3": WIDE | LATENT,
    "minicpm3": WIDE | LATENT,
    "diffllama": WIDE | {"num_key_value_heads": 2},
    "helium": WIDE | KV,
    "persimmon": WIDE,
    "gpt_neox_japanese": WIDE | {"intermediate_multiple_size": 2},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "rotary_dim": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "biogpt": WIDE,
    "nanochat": WIDE | KV,
    "bitnet": WIDE | KV,
    "moshi": WIDE | KV | {"ffn_dim": 48},
    "bart": DECODER,
    "ctrl": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48},
    "jamba": WIDE | KV | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "use_mamba_kernels": False,
        "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "olmo_hybrid": WIDE | KV | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
}  # fmt: skip
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("the model's own", WIDE),  # reads what comes after
    "gemma3n_text": ("one residual stream", WIDE | KV | {
        "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        "laurel_rank": 4, "altup_num_inputs": 2, "intermediate_size": [48] * 2,
        "activation_sparsity_pattern": [0.0] * 2,
    }),
    "whisper": ("2 heads in every layer; got 4 in layer 0", DECODER | {"num_attention_heads": 2}),
    "modernbert-decoder": ("a stack of 2 layers", WIDE | {"pad_token_id": 2}),
}  # fmt: skip


@pytest.fixture
def load(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Bridge]:
    def loaded(model_type: str, **config: Any) -> Bridge:
        return load_model(tiny_hf(model_type, **config).double(), tokenizer=tiny_tokenizer(), engine="bridge")

    return loaded


def effects_of(bridge: Bridge, **options: Any) -> Tensor:
    return iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2, **options).values


def adapted(model: Any, *modules: str, **options: Any) -> Any:
    config = LoraConfig(r=2, target_modules=list(modules), init_lora_weights=False, **options)
    return get_peft_model(model, config).double()


# ------------------------------------------------------------------ an oracle that knows nothing of ivlens


@contextmanager
def given(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def before(_: nn.Module, args: Any, options: Any) -> Any:
        return ((edit(args[0]), *args[1:]), options) if args else (args, options | {
            "hidden_states": edit(options["hidden_states"])
        })  # fmt: skip

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def negated(at: int, part: slice | int) -> Callable[[Tensor], Tensor]:
    def edit(values: Tensor) -> Tensor:
        values = values.clone()
        values[:, at, part] *= -1
        return values

    return edit


@pytest.mark.parametrize("model_type", TAKEN)
@torch.no_grad()
def test_a_type_that_is_taken_is_hugging_faces(load: Any, model_type: str) -> None:
    bridge = load(model_type, **TAKEN[model_type])
    theirs, cfg = bridge.hugging_face, bridge.cfg

    def by_hand(pair: TokenizedPrompt) -> Tensor:
        ids = torch.tensor([[*pair[0], *pair[1][:-1]]])
        return theirs(input_ids=ids, use_cache=False).logits[0, len(pair[0]) - 1 :]

    pairs = [TokenizedPrompt(tuple(IDS[:n]), tuple(IDS[n:end])) for n, end in ((5, 9), (15, 23), (1, 3))]
    for pair, logits in zip(pairs, answer_logits(bridge, padded(pairs, "cpu")), strict=True):
        torch.testing.assert_close(logits, by_hand(pair), atol=1e-5, rtol=0)
    pair, rows = pairs[1], padded(pairs[1:2], "cpu")
    clean = by_hand(pair)
    for layer, parts in enumerate(bridge.decoder.layers):
        width, everything = bridge.decoder.widths[layer], slice(None)
        edits: list[tuple[str, Any, Any, slice]] = [("hook_resid_pre", parts.module, everything, everything)]
        for head in range(cfg.n_heads if width else 0):
            edits.append(("attn.hook_z", parts.output, head, slice(head * width, head * width + width)))
        for name, module, ours, part in edits:
            with hooked(bridge, {f"blocks.{layer}.{name}": negated(14, ours)}):
                found = answer_logits(bridge, rows)[0]
            with given(module, negated(14, part)):
                expected = by_hand(pair)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            assert (expected - clean).abs().max() > 1e-4


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_that_is_refused_says_why_in_one_line(load: Any, model_type: str) -> None:
    why, config = REFUSED[model_type]
    with pytest.raises(IvlensError, match=why) as error:
        load(model_type, **config)
    assert "\n" not in str(error.value)


def test_layers_without_any_heads_are_refused_by_name(tiny_tokenizer: Any) -> None:
    theirs = MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=8))
    with pytest.raises(UnsupportedError, match="number of heads in every layer; got None"):
        load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")


def test_a_head_is_the_one_of_the_attention_function(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent attention, its heads negated where they are still an axis, before the projection is reached."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

    bridge = load("deepseek_v3", **TAKEN["deepseek_v3"])
    bridge.hugging_face.set_attn_implementation("eager")
    tokens, attend = torch.tensor([IDS]), modeling.eager_attention_forward
    for head in range(4):

        def other(module: nn.Module, *args: Any, head: int = head, **options: Any) -> Any:
            z, pattern = attend(module, *args, **options)
            return (negated(14, head)(z) if module.layer_idx == 1 else z), pattern

        with hooked(bridge, {"blocks.1.attn.hook_z": negated(14, head)}):
            ours = bridge(tokens)
        with monkeypatch.context() as patched, torch.no_grad():
            patched.setattr(modeling, "eager_attention_forward", other)
            torch.testing.assert_close(ours, bridge.hugging_face(tokens).logits, atol=1e-9, rtol=0)


@torch.no_grad()
def test_an_edit_after_the_last_layer_is_made_once(load: Any) -> None:
    bridge = load("smollm3")
    pair = TokenizedPrompt(tuple(IDS[:15]), tuple(IDS[15:18]))
    tokens, seen = torch.tensor([IDS[:17]]), []

    def add(stream: Tensor) -> Tensor:
        seen.append(stream.shape)
        return stream + 1

    for name in ("blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"):
        seen.clear()
        with hooked(bridge, {name: add}):
            found = answer_logits(bridge, padded([pair], "cpu"))[0]
            assert seen == [(1, 17, 32)]
            torch.testing.assert_close(found, bridge(tokens)[0, 14:])


# ------------------------------------------------------------------ models as users leave them


def test_half_precision_scores_heads_and_estimates_its_noise(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    exact = effects_of(load_model(tiny_hf("smollm3"), tokenizer=tiny_tokenizer(), engine="bridge"))
    for dtype, rounding in ((torch.bfloat16, 1.0), (torch.float16, 0.1)):
        bridge = load_model(tiny_hf("smollm3").to(dtype), tokenizer=tiny_tokenizer(), engine="bridge")
        torch.testing.assert_close(effects_of(bridge), exact, atol=rounding, rtol=0)


def test_hooks_and_functions_that_were_on_a_model_compute_and_stay(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    doubled = tiny_hf("smollm3").double()
    doubled.model.layers[0].mlp.down_proj.weight.data *= 2
    expected = effects_of(load_model(doubled, tokenizer=tiny_tokenizer(), engine="bridge"))
    theirs = tiny_hf("smollm3").double()
    mlp = theirs.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x: 2 * forward(x)
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    torch.testing.assert_close(effects_of(bridge), expected)
    del mlp.forward
    mlp.register_forward_hook(lambda _, __, output: 2 * output)
    with pytest.raises(HookError, match="no active hooks"):
        effects_of(bridge)  # not there at loading
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    torch.testing.assert_close(effects_of(bridge), expected)
    assert len(mlp._forward_hooks) == 1


def test_transformers_own_hooks_are_no_edits(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3").double()
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    expected = iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2)
    theirs(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)
    theirs.train()
    theirs.gradient_checkpointing_enable()
    effects = iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2)
    torch.testing.assert_close(effects.values, expected.values)
    assert "edits" not in effects.provenance
    assert theirs.training


def test_modules_put_in_place_after_loading_are_refused(load: Any) -> None:
    bridge = load("smollm3")
    adapted(bridge.hugging_face, "o_proj")
    with pytest.raises(HookError, match=r"layers\.0\.self_attn\.o_proj; give the Hugging Face or PEFT model"):
        effects_of(bridge)


def test_what_adapters_multiply_by_is_in_the_provenance(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    peft = adapted(tiny_hf("smollm3"), "o_proj", modules_to_save=["mlp"])
    bridge = load_model(peft, tokenizer=tiny_tokenizer(), engine="bridge")
    facts = []
    for _ in range(2):
        facts.append(iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2).provenance["model"])
        peft.base_model.model.model.layers[0].self_attn.o_proj.scaling["default"] *= 3
    assert facts[0]["config_sha256"] != facts[1]["config_sha256"]


@torch.no_grad()
def test_weights_are_what_modules_multiply_by(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    class Tripled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 3 * super().forward(input)

    theirs = tiny_hf("smollm3").double()
    projection = theirs.model.layers[0].self_attn.o_proj
    projection.__class__ = Tripled
    peft = adapted(theirs, "lm_head")
    bridge = load_model(peft, tokenizer=tiny_tokenizer(), engine="bridge")
    torch.testing.assert_close(attention_weights(bridge, 0)["W_O"].flatten(0, 1), 3 * projection.weight.T)
    head = theirs.lm_head
    both = head.base_layer.weight + head.get_delta_weight("default")
    torch.testing.assert_close(unembedding(bridge), both)


class Quantised(nn.Module):
    """A linear module whose weights are whole numbers in a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.abs().max().item() / 127
        self.register_buffer("codes", (linear.weight.data / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.codes.to(x) * self.scale).T


def test_weights_in_buffers_are_weights(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3")
    for layer in theirs.model.layers:
        layer.self_attn.o_proj = Quantised(layer.self_attn.o_proj)
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    names = ["blocks.0.attn.hook_z", "blocks.0.hook_attn_out"]
    z, added = (each[0] for each in iv.capture(bridge, NEXT.prompts(1, shots=1), names, reduce="none").values())
    torch.testing.assert_close(head_writes(bridge, 0, z).sum(0), added, atol=1e-5, rtol=0)
    shas = []
    for _ in range(2):
        shas.append(iv.locate_heads(bridge, NEXT, n_clean=2, n_corrupted=2).provenance["model"]["weights_sha256"])
        theirs.model.layers[0].self_attn.o_proj.codes.neg_()
    assert shas[0] != shas[1]


@pytest.mark.slow
def test_a_compiled_model_runs_as_written(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    expected = effects_of(load_model(tiny_hf("smollm3"), tokenizer=tiny_tokenizer(), engine="bridge"))
    theirs = tiny_hf("smollm3")
    theirs.compile(backend="eager")
    torch.testing.assert_close(effects_of(load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")), expected)


def test_generation_is_greedy_and_every_text_is_as_alone(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3")
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    texts = ["the quick brown fox", "the"]
    alone = [bridge.generate(text, max_new_tokens=4) for text in texts]
    theirs.generation_config.update(repetition_penalty=5.0, num_beams=3, do_sample=True)
    assert bridge.generate(texts, max_new_tokens=4) == alone


def test_steered_generation_of_types_that_check_their_arguments(load: Any) -> None:
    bridge = load("jamba", **TAKEN["jamba"])
    vector = iv.InstructionVector(torch.ones(32).double(), torch.zeros(0, 32).double(), (), "ones")
    with iv.steer(bridge, vector, 1, position="generated"):
        assert bridge.generate(bridge.to_tokens("the quick"), max_new_tokens=2).shape == (1, 4)


def test_no_tokens_are_refused(load: Any) -> None:
    bridge = load("smollm3")
    for nothing in (torch.zeros(0, 5, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long), [], ""):
        for call in (bridge, bridge.generate):
            with pytest.raises(ArgumentError):
                call(nothing)


def test_a_model_that_does_not_run_is_refused_in_one_line(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    mixed = tiny_hf("smollm3").bfloat16()
    mixed.lm_head.float()
    with pytest.raises(SourceError, match="runs on token ids"):
        load_model(mixed, tokenizer=tiny_tokenizer(), engine="bridge")


def test_a_convolution_after_the_heads_is_not_taken_for_their_writes(load: Any, monkeypatch: Any) -> None:
    theirs = load("smollm3").hugging_face
    attention = theirs.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **options: (torch.tanh(forward(*args, **options)[0]), None)
    bridge = load_model(theirs, tokenizer=load("smollm3").tokenizer, engine="bridge")
    head_writes(bridge, 0, torch.ones(4, 8).double())
    with pytest.raises(UnsupportedError, match="projected heads"):
        head_writes(bridge, 1, torch.ones(4, 8).double())
