"""A bridge against Hugging Face's own modules with hooks written out, and against the other engine."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

import ivlens as iv
from ivlens.errors import ArgumentError, FallbackWarning, HookError, UnsupportedError
from ivlens.models import Bridge, final_logits, has_hooks, head_writes, load_model, model_facts
from ivlens.models.engines import has_hooked
from tiny_models import ONLY_BRIDGED, TINY, WORDS

NEXT = iv.Task("next-word", [(word, WORDS[(at + 1) % len(WORDS)]) for at, word in enumerate(WORDS)], ("the fox jumps",))
MIXTURES = ("mixtral", "gpt_oss", "qwen3_moe", "llama4_text")  # whose routers compute in float32
needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")


@pytest.fixture
def bridged(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Bridge]:
    """``bridged(model_type, **config)``: a bridge over a tiny random model in float64."""

    def made(model_type: str, **config: Any) -> Bridge:
        return load_model(tiny_hf(model_type, **config).double(), tokenizer=tiny_tokenizer(), engine="bridge")

    return made


def prompts(n: int = 3) -> list[iv.Prompt]:
    return NEXT.prompts(n, shots=2)


def shift(scale: float = 1.0) -> iv.InstructionVector:
    values = scale * torch.randn(32, generator=torch.Generator().manual_seed(0)).double()
    return iv.InstructionVector(values, torch.zeros(0, 32).double(), (), "shift")


def random_means(model: Any, like: iv.HeadMeans) -> iv.HeadMeans:
    """Means far from what the heads give, so that a patch matters."""
    values = torch.randn(like.values.shape, generator=torch.Generator().manual_seed(3), dtype=like.values.dtype)
    return iv.HeadMeans(values, like.n, like.task, provenance=like.provenance)


# ------------------------------------------------------------------ an oracle that knows nothing of ivlens


def projections(model: PreTrainedModel) -> list[nn.Module]:
    """Output projections of all layers, in their order."""
    found = [module for name, module in model.named_modules() if name.endswith(("self_attn.o_proj", "attn.c_proj"))]
    assert len(found) == model.config.num_hidden_layers
    return found


@torch.no_grad()
def loop_by_hand(model: PreTrainedModel, prompt: list[int], answer: list[int], means: Tensor) -> Tensor:
    """Log probability of the answer, [1 + layer * head]: clean, then with each head's output replaced by its mean."""
    tokens = torch.tensor([prompt + answer[:-1]])

    def score() -> Tensor:
        log_probabilities = model(tokens).logits[0, len(prompt) - 1 :].log_softmax(-1)
        return sum(log_probabilities[at, token] for at, token in enumerate(answer))

    scores = [score()]
    for layer, module in enumerate(projections(model)):
        for head in range(means.shape[1]):

            def patch(_: nn.Module, args: Any, layer: int = layer, head: int = head) -> tuple[Tensor]:
                z = args[0].clone().view(1, tokens.shape[1], means.shape[1], -1)
                z[0, len(prompt) - 1, head] = means[layer, head]
                return (z.flatten(2),)

            handle = module.register_forward_pre_hook(patch)
            scores.append(score())
            handle.remove()
    return torch.stack(scores)


@pytest.mark.parametrize("model_type", ONLY_BRIDGED)
def test_types_that_were_refused_equal_a_loop_on_hugging_face(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    theirs = bridge.hugging_face
    assert bridge.arrangement.name == "one sequence"
    clean = prompts()
    means = random_means(bridge, iv.mean_head_activations(bridge, clean))
    effects = iv.indirect_effects(bridge, clean, means)
    assert effects.method == "exact"
    rounding = 1e-5 if model_type in MIXTURES else 1e-9
    for number, prompt in enumerate(clean):
        ids, answer = prompt.encode(bridge.tokenizer)
        by_hand = loop_by_hand(theirs, list(ids), list(answer), means.values.double())
        torch.testing.assert_close(effects.baseline[number].double(), by_hand[0], atol=rounding, rtol=0)
        expected = (by_hand[1:] - by_hand[0]).view(effects.values[number].shape)
        assert expected.abs().max() > 0.05
        torch.testing.assert_close(effects.values[number].double(), expected, atol=rounding, rtol=0)


@pytest.mark.parametrize("model_type", ["smollm3", "granite", "olmo3", "cohere2", "gpt_oss"])
def test_heads_writes_and_a_bias_sum_to_what_attention_adds(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    prompt = prompts(1)
    for layer in range(bridge.cfg.n_layers):
        names = [f"blocks.{layer}.{name}" for name in ("attn.hook_z", "hook_attn_out")]
        z, added = (iv.capture(bridge, prompt, [name], reduce="none")[name][0] for name in names)
        writes = head_writes(bridge, layer, z)
        none = head_writes(bridge, layer, torch.zeros_like(z))
        assert none.abs().max() == 0
        bias = bridge.decoder.layers[layer].output.bias
        rest = added - writes.sum(0)
        if bias is None:
            torch.testing.assert_close(rest, torch.zeros_like(rest), atol=1e-6, rtol=0)
        else:
            torch.testing.assert_close(
                rest, bias.detach() * bridge.decoder.layers[layer].writes.scale, atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("model_type", ["granite", "cohere2", "gpt_oss", "nemotron"])
@torch.no_grad()
def test_final_logits_are_the_models_own(bridged: Any, model_type: str) -> None:
    bridge = bridged(model_type)
    tokens = torch.arange(5, 25)[None]
    out = bridge.hugging_face(tokens, output_hidden_states=True)
    last: list[Tensor] = []
    handle = bridge.decoder.layers[-1].module.register_forward_hook(lambda _, __, output: last.append(output))
    bridge.hugging_face(tokens)
    handle.remove()
    torch.testing.assert_close(final_logits(bridge, last[0][0]), out.logits[0], atol=1e-6, rtol=0)


# ------------------------------------------------------------------ the two engines


@needs_hooked
@pytest.mark.parametrize("model_type", TINY)
def test_both_engines_agree(tiny_hf: Any, tiny_tokenizer: Any, model_type: str) -> None:
    theirs = tiny_hf(model_type).double()
    hooked = load_model(theirs, dtype=torch.float64, tokenizer=tiny_tokenizer(), engine="hooked")
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    clean = prompts()
    one, other = (iv.mean_head_activations(model, clean) for model in (hooked, bridge))
    torch.testing.assert_close(one.values, other.values, atol=2e-5, rtol=0)
    means = random_means(hooked, one)
    with pytest.warns(FallbackWarning) if bridge.sweep_trial[0] is None else ExitStack():
        effects = iv.indirect_effects(bridge, clean, random_means(bridge, other))
    expected = iv.indirect_effects(hooked, clean, means)
    assert expected.values.abs().max() > 0.05
    torch.testing.assert_close(effects.values, expected.values, atol=2e-5, rtol=0)
    torch.testing.assert_close(effects.baseline, expected.baseline, atol=2e-5, rtol=0)
    vector = shift()
    for position in ("last", "all"):
        with iv.steer(hooked, vector, 1, 2.0, position=position):
            steered = iv.evaluate(hooked, clean).probabilities.tolist()
        with iv.steer(bridge, vector, 1, 2.0, position=position):
            assert steered == pytest.approx(iv.evaluate(bridge, clean).probabilities.tolist(), abs=2e-5)


@needs_hooked
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "phi", "qwen3"])
def test_a_steering_sweep_is_that_of_the_other_engine(tiny_hf: Any, tiny_tokenizer: Any, model_type: str) -> None:
    theirs, sweeps = tiny_hf(model_type).double(), []
    vector = shift()
    for engine in ("hooked", "bridge"):
        model = load_model(theirs, dtype=torch.float64, tokenizer=tiny_tokenizer(), engine=engine)
        sweeps.append(iv.steering_sweep(model, vector, prompts(), (0, 1), (1.0, 3.0)))
    torch.testing.assert_close(sweeps[0].probabilities, sweeps[1].probabilities, atol=1e-5, rtol=0)
    assert torch.equal(sweeps[0].correct, sweeps[1].correct)


@needs_hooked
def test_vectors_move_between_the_engines(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("llama").double()
    hooked = load_model(theirs, dtype=torch.float64, tokenizer=tiny_tokenizer())
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    vectors = [
        iv.instruction_vector(model, iv.locate_heads(model, NEXT, n_clean=4, n_corrupted=4), k=3)
        for model in (hooked, bridge)
    ]
    assert vectors[0].heads == vectors[1].heads
    torch.testing.assert_close(vectors[0].values, vectors[1].values, atol=1e-5, rtol=0)
    with iv.steer(bridge, vectors[0], 1):
        bridge("the quick")


# ------------------------------------------------------------------ objects of users, as they are


def state(model: nn.Module) -> Any:
    """What a user would find changed: parameters, module tree, modes, hooks, functions put in the way, switches."""
    named = model.named_parameters()
    parameters = [(name, each.data_ptr(), each._version, each.requires_grad) for name, each in named]
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    modules = [
        (name, type(each), each.training, [len(getattr(each, kind)) for kind in hooks], "forward" in vars(each))
        for name, each in model.named_modules()
    ]
    return [parameters, modules, model.config._attn_implementation]


def everything(model: Any) -> None:
    effects = iv.locate_heads(model, NEXT, n_clean=3, n_corrupted=3)
    vector = iv.instruction_vector(model, effects, k=2)
    with iv.steer(model, vector, 1), iv.ablate(model, effects.top(1), effects.means):
        model.generate("the quick", max_new_tokens=2)
        iv.evaluate(model, prompts())
    iv.logit_lens(model, vector)
    iv.attention_patterns(model, prompts(1)[0], [(0, 1)])
    iv.steering_sweep(model, vector, prompts(), (0,), (1.0,))


def test_a_models_object_is_taken_without_a_copy_and_left_as_it_was(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3").train()
    theirs.model.layers[1].self_attn.eval()
    before = state(theirs)
    bridge = load_model(theirs, tokenizer=tiny_tokenizer())
    assert isinstance(bridge, Bridge)
    everything(bridge)
    assert state(theirs) == before
    assert {each.data_ptr() for each in bridge.parameters()} == {each.data_ptr() for each in theirs.parameters()}


@pytest.mark.parametrize("stop", range(0, 36, 4))
def test_an_interrupt_leaves_nothing_behind(bridged: Any, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    bridge = bridged("smollm3")
    before, calls = state(bridge.hugging_face), count()
    forward = type(bridge.decoder.layers[0].module.mlp).forward

    def interrupted(*args: Any, **options: Any) -> Tensor:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return forward(*args, **options)

    monkeypatch.setattr(type(bridge.decoder.layers[0].module.mlp), "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        everything(bridge)
    assert not has_hooks(bridge)  # which removes what an interrupt has left
    assert state(bridge.hugging_face) == before


def test_adapters_are_on_and_off_without_merging(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("llama").double()
    plain = load_model(theirs, tokenizer=tiny_tokenizer(), engine="bridge")
    base = iv.locate_heads(plain, NEXT, n_clean=3, n_corrupted=3)
    adapted = get_peft_model(theirs, LoraConfig(r=2, target_modules=["o_proj", "v_proj"], init_lora_weights=False))
    bridge = load_model(adapted, tokenizer=tiny_tokenizer(), engine="bridge")
    on = iv.locate_heads(bridge, NEXT, n_clean=3, n_corrupted=3)
    assert (on.values - base.values).abs().max() > 1e-2
    with adapted.disable_adapter():
        off = iv.locate_heads(bridge, NEXT, n_clean=3, n_corrupted=3)
    torch.testing.assert_close(off.values, base.values)
    facts = [effects.provenance["model"] for effects in (on, off)]
    assert facts[0]["config_sha256"] != facts[1]["config_sha256"]
    merged = (
        load_model(adapted, dtype=torch.float64, tokenizer=tiny_tokenizer(), engine="hooked") if has_hooked() else None
    )
    if merged is not None:
        expected = iv.locate_heads(merged, NEXT, n_clean=3, n_corrupted=3)
        torch.testing.assert_close(on.values, expected.values, atol=1e-5, rtol=0)


def test_other_rotary_frequencies_are_another_config(bridged: Any) -> None:
    bridge = bridged("smollm3")
    before = model_facts(bridge)
    bridge.hugging_face.model.rotary_emb.inv_freq.data.mul_(1.01)
    after = model_facts(bridge)
    assert {name for name in after if after[name] != before[name]} == {"config_sha256"}


def test_a_transformer_bridge_is_taken_as_it_is(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    plain = load_model(tiny_hf("smollm3"), tokenizer=tiny_tokenizer(), engine="bridge")
    theirs = tiny_hf("smollm3")
    wrapped = build_bridge_from_module(theirs, type(theirs).__name__, hf_config=theirs.config)
    bridge = load_model(wrapped, tokenizer=tiny_tokenizer())
    one, other = (iv.locate_heads(model, NEXT, n_clean=3, n_corrupted=3) for model in (plain, bridge))
    torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=0)


def test_something_else_than_the_object_is_refused(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3")
    for other in ({"dtype": torch.float64}, {"revision": "main"}, {"adapter": "folder"}):
        with pytest.raises(ArgumentError, match="as it is"):
            load_model(theirs, tokenizer=tiny_tokenizer(), **other)


# ------------------------------------------------------------------ what does not hold is refused by name


def test_layers_without_heads_are_named_and_the_stream_is_steered(bridged: Any) -> None:
    bridge = bridged("qwen3_5_text")
    with pytest.raises(UnsupportedError, match="attention heads in every layer; got none in layers 0"):
        iv.locate_heads(bridge, NEXT, n_clean=3, n_corrupted=3)
    vector = shift()
    plain = iv.evaluate(bridge, prompts()).probabilities.tolist()
    with iv.steer(bridge, vector, 1, 2.0):
        assert iv.evaluate(bridge, prompts()).probabilities.tolist() != pytest.approx(plain, rel=1e-2)


def test_a_cache_that_serves_one_row_only_falls_back_to_the_loop(bridged: Any) -> None:
    bridge = bridged("bloom")
    assert bridge.sweep_trial[0] is None
    clean = prompts(1)
    means = random_means(bridge, iv.mean_head_activations(bridge, clean))
    with pytest.warns(FallbackWarning, match="does not take several rows"):
        effects = iv.indirect_effects(bridge, clean, means)
    assert effects.method == "loop"


def test_a_sweep_that_differs_is_found_at_loading(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("smollm3")
    layer = theirs.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(x) + (len(x) > 4 or x.shape[1] > 12)  # many rows get something else
    bridge = load_model(theirs, tokenizer=tiny_tokenizer(), verify=False)
    assert "from a loop's" in str(bridge.sweep_trial[1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_encoder_with_a_decoder_is_refused(tiny_tokenizer: Any) -> None:
    config = T5Config(vocab_size=320, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(UnsupportedError, match="expected a decoder; got T5"):
        load_model(T5ForConditionalGeneration(config), tokenizer=tiny_tokenizer(), engine="bridge")


def test_training_on_a_bridge_says_not_yet(bridged: Any) -> None:
    with pytest.raises(UnsupportedError, match="HookedTransformer"):
        iv.fine_tune(bridged("smollm3"), prompts(), iv.TrainingConfig(steps=1))


# ------------------------------------------------------------------ folders


def test_a_folder_of_any_family_is_read(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    theirs = tiny_hf("smollm3")
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    bridge = load_model(tmp_path)
    assert isinstance(bridge, Bridge)
    with torch.no_grad():
        torch.testing.assert_close(bridge("the quick"), theirs(bridge.to_tokens("the quick")).logits)
    with pytest.raises(UnsupportedError, match="one of the families" if has_hooked() else "engine='bridge'"):
        load_model(tmp_path, engine="hooked")


@needs_hooked
def test_auto_takes_streams_where_the_family_is_represented(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    assert not isinstance(load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer()), Bridge)
    yarn = {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}
    assert isinstance(load_model(tiny_hf("llama", **yarn), tokenizer=tiny_tokenizer()), Bridge)


# ------------------------------------------------------------------ generation


def test_steered_generation_is_hugging_faces_with_a_hook(bridged: Any) -> None:
    bridge = bridged("smollm3")
    theirs, tokens = bridge.hugging_face, bridge.to_tokens("the quick brown")
    vector = shift(3)

    def add(_: nn.Module, args: Any) -> Any:
        stream = args[0].clone()
        stream[:, -1] += vector.values
        return (stream, *args[1:])

    handle = theirs.model.layers[1].register_forward_pre_hook(add)
    expected = theirs.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=1)
    handle.remove()
    with iv.steer(bridge, vector, 1, position="generated"):
        assert torch.equal(bridge.generate(tokens, max_new_tokens=5), expected)
    assert not torch.equal(bridge.generate(tokens, max_new_tokens=5), expected)
    with pytest.raises(HookError, match="key-value cache"), iv.steer(bridge, vector, 1):
        bridge.generate(tokens, max_new_tokens=3, use_cache=False)
