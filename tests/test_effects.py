"""The exact sweep against the plain loop, plain Hugging Face, float64 and a planted truth."""

from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

import ivlens
from ivlens import ArgumentError, HeadMeans, HookError, MismatchError, Prompt, PromptError
from ivlens.models.families import FAMILIES

RAGGED = [
    Prompt("the quick brown fox", " jumps over"),
    Prompt("Q: what is the capital of France and of the lazy dog?\nA:", " Paris"),
    Prompt("1", " + 2 = 3"),
    Prompt("dog the fox", " is"),
]
CASES: dict[str, dict[str, Any]] = {name: {} for name in FAMILIES} | {  # prompts are longer than the windows, of 6
    "llama, no GQA": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "gpt_neox, sequential": {"use_parallel_residual": False},
    "gemma3_text, capped": {"final_logit_softcapping": 5.0},
    "phi, GQA": {"num_key_value_heads": 2},
    "gptj, wholly rotary": {"rotary_dim": 8},
    "bloom, 8 heads": {"n_head": 8},
    "olmo2, no GQA": {"num_key_value_heads": 4},
}


def some_means(model: Any, seed: int = 0) -> HeadMeans:
    """Means far from any prompt's activations, so that every patch shows."""
    cfg = model.cfg
    values = torch.randn(cfg.n_layers, cfg.n_heads, cfg.d_head, generator=torch.Generator().manual_seed(seed))
    return HeadMeans(values, 1)


@pytest.fixture(params=CASES, scope="module")
def tiny64(request: Any, tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    """A tiny random model of each family in float64, in which only a wrong algorithm differs from a right one."""
    source = tiny_hf(request.param.split(",")[0], **CASES[request.param])
    return ivlens.load_model(source, tokenizer=tiny_tokenizer(), dtype=torch.float64)


@pytest.mark.parametrize("metric", ["log-probability", "logit-difference"])
def test_exact_sweep_equals_plain_loop_in_every_family(tiny64: Any, metric: str) -> None:
    means = some_means(tiny64)
    exact, loop = (
        ivlens.indirect_effects(tiny64, RAGGED, means, method=method, metric=metric) for method in ("exact", "loop")
    )
    assert loop.values.abs().max() > 0.1
    torch.testing.assert_close(exact.values, loop.values, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(exact.baseline, loop.baseline, rtol=1e-9, atol=1e-11)


BY_HAND: dict[str, dict[str, Any]] = {
    "OLMo 3: windows, yarn in global layers, norms of what is written": {
        "original_architecture": "Olmo3ForCausalLM", "normalization_type": "RMS", "final_rms": True,
        "use_local_attn": True, "window_size": 5, "attn_types": ["local", "global"],
        "positional_embedding_type": "rotary", "rotary_dim": 8, "use_yarn_rope": True, "yarn_factor": 4.0,
        "yarn_attention_factor": 1.2, "yarn_global_attn_only": True, "yarn_original_max_position_embeddings": 32,
    },
    "ALiBi with grouped queries and capped scores": {
        "positional_embedding_type": "alibi", "attn_scores_soft_cap": 3.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("parts", BY_HAND.values(), ids=BY_HAND)
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
def test_exact_sweep_equals_plain_loop_in_models_made_by_hand(tiny_tokenizer: Any, parts: dict[str, Any]) -> None:
    shape = {
        "n_layers": 2, "d_model": 32, "n_heads": 4, "n_key_value_heads": 2, "d_head": 8, "d_mlp": 48, "n_ctx": 128,
        "d_vocab": 320, "act_fn": "silu", "gated_mlp": True, "dtype": torch.float64, "device": "cpu",
    }  # fmt: skip
    made = HookedTransformer(HookedTransformerConfig.from_dict(shape | parts))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    model = ivlens.load_model(made, tokenizer=tiny_tokenizer())
    means = some_means(model)
    exact, loop = (
        ivlens.indirect_effects(model, RAGGED, means, method=method, metric="log-probability").values
        for method in ("exact", "loop")
    )
    assert loop.abs().max() > 0.1
    torch.testing.assert_close(exact, loop, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_sweep_in_float32_is_close_to_float64(tiny_hf: Any, tiny_tokenizer: Any, family: str) -> None:
    models = [
        ivlens.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), dtype=d) for d in (torch.float32, torch.float64)
    ]
    means = some_means(models[0])
    single, double = (ivlens.indirect_effects(model, RAGGED, means, metric="probability").values for model in models)
    assert (single.double() - double).abs().max() < 1e-6


@pytest.mark.parametrize("budget", [2, 5, 9, 30, 10_000])
def test_stream_budget_changes_no_number(tiny_hooked: Any, budget: int) -> None:
    model = tiny_hooked("llama")
    means = some_means(model)
    whole = ivlens.indirect_effects(model, RAGGED, means)
    parts = ivlens.indirect_effects(model, RAGGED, means, stream_budget=budget)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-4, atol=1e-7)


def test_ragged_prompts_do_not_touch_each_other(tiny_hooked: Any) -> None:
    model = tiny_hooked("gemma3_text")
    means = some_means(model)
    together = ivlens.indirect_effects(model, RAGGED, means).values
    for i, prompt in enumerate(RAGGED):
        alone = ivlens.indirect_effects(model, [prompt], means).values[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["gemma3_text", "gptj", "llama", "phi"])
def test_positions_beyond_the_cached_rotations_are_rotated(
    tiny_hf: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    models = [ivlens.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), verify=False)]
    monkeypatch.setattr(AbstractAttention, "ROTARY_INITIAL_CACHE_SIZE", 2)
    models.append(ivlens.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), verify=False))
    cached, extended = (ivlens.indirect_effects(model, RAGGED, some_means(model)).values for model in models)
    assert len(models[1].blocks[1].attn.rotary_cos) < len(models[0].blocks[1].attn.rotary_cos)
    assert torch.equal(cached, extended)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_equal_plain_hugging_face_with_a_forward_hook(tiny_hf: Any, tiny_tokenizer: Any, family: str) -> None:
    """An oracle without TransformerLens: what enters the output projection is overwritten at the last prompt token."""
    source = tiny_hf(family).double()
    model = ivlens.load_model(source, tokenizer=tiny_tokenizer(), dtype=torch.float64)
    means, prompt = some_means(model), RAGGED[1]
    encoded = prompt.encode(model.tokenizer)
    ids, last = torch.tensor([encoded.prompt_ids + encoded.answer_ids]), len(encoded.prompt_ids) - 1
    d_head, naming = model.cfg.d_head, FAMILIES[family].naming

    @torch.no_grad()
    def log_probability() -> torch.Tensor:
        logs = source(ids).logits[0, last:-1].log_softmax(-1)
        return logs[range(len(encoded.answer_ids)), list(encoded.answer_ids)].sum()

    expected = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64)
    for layer in range(model.cfg.n_layers):
        output = source.get_submodule(f"{naming.stem}{layer}.{naming.block['attn.W_O'].removesuffix('.weight')}")
        for head in range(model.cfg.n_heads):

            def overwrite(module: Any, args: Any, layer: int = layer, head: int = head) -> Any:
                z = args[0].clone()
                z[0, last, head * d_head : (head + 1) * d_head] = means.values[layer, head].double()
                return (z,)

            handle = output.register_forward_pre_hook(overwrite)
            expected[layer, head] = log_probability()
            handle.remove()
    effects = ivlens.indirect_effects(model, [prompt], means, metric="log-probability")
    # Hugging Face computes some norms, angles and softmaxes in float32 whatever the weights' dtype
    torch.testing.assert_close(effects.values[0], expected - log_probability(), rtol=0, atol=2e-5)
    assert effects.values.abs().max() > 0.1


@pytest.fixture
def planted(tiny_hooked: Any) -> Any:
    """A model in which only head 1.2 carries the instruction, the token "!", to the answer, the token "Z".

    Attention is uniform everywhere. Head 1.2 copies residual dimension 0, where only "!" has an entry, to dimension 1,
    which only the logit of "Z" reads; all other heads write random things outside dimensions 0 and 1.
    """
    model = tiny_hooked("llama", num_key_value_heads=4, tie_word_embeddings=False, hidden_size=32)
    (marker,), (answer,) = (model.tokenizer(text)["input_ids"] for text in ("!", "Z"))
    with torch.no_grad():
        model.embed.W_E[:, :2] = 0
        model.embed.W_E[marker, 0] = 20
        model.unembed.W_U[1] = 0
        model.unembed.W_U[0] = 0
        model.unembed.W_U[1, answer] = 4
        for layer, block in enumerate(model.blocks):
            for weight in (block.attn.W_Q, block.attn.W_K, block.mlp.W_out):
                weight.zero_()
            block.attn.W_O[:, :, :2] = 0
            block.attn.W_V[:, 0] = 0
            if layer == 1:
                block.attn.W_V[2].zero_()
                block.attn.W_O[2].zero_()
                block.attn.W_V[2, 0, 0] = 10
                block.attn.W_O[2, 0, 1] = 10
    return model


def test_sweep_finds_the_planted_head(planted: Any) -> None:
    inputs = ["the fox", "a lazy dog", "Paris", "over the brown dog", "1 + 2"]
    means = ivlens.mean_head_activations(planted, [Prompt(f"! {text}:", "Z") for text in inputs])
    effects = ivlens.indirect_effects(
        planted, [Prompt(f"{text}:", "Z") for text in inputs], means, metric="log-probability"
    )
    (best,) = effects.top(1)
    assert best == (1, 2)
    others = effects.aie.clone()
    others[best] = 0
    assert effects.aie[best] > 1
    assert others.abs().max() < 0.2 * effects.aie[best]
    lower, _ = effects.interval()
    assert lower[best] > 1


def test_planted_vector_brings_the_answer_and_its_negative_takes_it(planted: Any) -> None:
    inputs = ["the fox", "a lazy dog", "Paris", "over the brown dog", "1 + 2"]
    clean = [Prompt(f"! {text}:", "Z") for text in inputs]
    bare = [Prompt(f"{text}:", "Z") for text in inputs]
    means = ivlens.mean_head_activations(planted, clean)
    vector = ivlens.instruction_vector(planted, means, [(1, 2)])
    # the vector enters block 1, whose head 1.2 wrote it, and reaches the unembedding through the residual stream
    with ivlens.steer(planted, vector, 1, 3.0):
        steered = ivlens.evaluate(planted, bare)
    with ivlens.steer(planted, vector, 1, -3.0):
        subtracted = ivlens.evaluate(planted, clean)
    assert ivlens.evaluate(planted, bare).accuracy == 0
    assert steered.accuracy == 1
    assert subtracted.probability < 0.2 * ivlens.evaluate(planted, clean).probability


def test_smollm2_effects_are_exact_against_float64(smollm2: Any) -> None:
    """The real model: sweep in float32 and in float64, and the plain loop in float64 over a few heads."""
    task = ivlens.load_task("present-past")
    means = ivlens.mean_head_activations(smollm2, task.prompts(8, split="train"))
    prompts = task.prompts(2, shots=5, corruption="shuffled-labels", split="test")
    single = ivlens.indirect_effects(smollm2, prompts, means, metric="probability")
    double = ivlens.load_model("smollm2", dtype=torch.float64, verify=False)
    reference = ivlens.indirect_effects(double, prompts, means, metric="probability")
    assert single.values.shape == (2, 30, 9)
    assert (single.values.double() - reference.values).abs().max() < 1e-5
    assert reference.values.abs().max() > 0.01
    heads = [(0, 0), (11, 5), (20, 5), (29, 8)]
    looped = _loop_over(double, prompts[0], means, heads)
    torch.testing.assert_close(looped, torch.stack([reference.values[0][head] for head in heads]), rtol=1e-6, atol=1e-9)


def _loop_over(model: Any, prompt: Prompt, means: HeadMeans, heads: list[tuple[int, int]]) -> torch.Tensor:
    """The published algorithm written out with TransformerLens' own means, for some heads."""
    encoded = prompt.encode(model.tokenizer)
    tokens = torch.tensor([encoded.prompt_ids])

    def run(hooks: list[Any]) -> torch.Tensor:
        assert len(encoded.answer_ids) == 1
        with torch.inference_mode():
            return model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].softmax(-1)[encoded.answer_ids[0]]

    def patch(layer: int, head: int) -> list[Any]:
        def hook_fn(z: torch.Tensor, hook: Any) -> torch.Tensor:
            z[0, -1, head] = means.values[layer, head].to(z)
            return z

        return [(f"blocks.{layer}.attn.hook_z", hook_fn)]

    clean = run([])
    return torch.stack([run(patch(*head)) - clean for head in heads])


def test_smollm2_heads_reproduce_the_first_measurements(smollm2: Any) -> None:
    """Head 20.5 stands out under shuffled labels, on the probability (first measured at .168 on present-past)."""
    task = ivlens.load_task("present-past")
    effects = ivlens.locate_heads(
        smollm2, task, n_clean=20, n_corrupted=10, shots=5, corruption="shuffled-labels", metric="probability"
    )
    assert effects.top(1) == [(20, 5)]
    assert effects.aie[20, 5] > 2 * effects.aie.flatten().sort().values[-2]
    assert effects.provenance["settings"]["corruption"] == "shuffled-labels"
    assert effects.provenance["model"]["source"] == "smollm2"


def test_active_hooks_are_refused_by_the_sweep_and_run_by_the_loop(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    means = some_means(model)
    vector = torch.ones(model.cfg.d_model)
    free = ivlens.indirect_effects(model, RAGGED[:1], means, method="loop", metric="log-probability")
    with ivlens.steer(model, vector, 0):
        with pytest.raises(HookError, match="no active hooks"):
            ivlens.indirect_effects(model, RAGGED[:1], means)
        steered = ivlens.indirect_effects(model, RAGGED[:1], means, method="loop", metric="log-probability")
    assert (steered.baseline - free.baseline).abs() > 1e-3


def test_loop_leaves_no_hook_behind(tiny_hooked: Any) -> None:
    model = tiny_hooked("gpt2")
    ivlens.indirect_effects(model, RAGGED[:1], some_means(model), method="loop")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_means_of_another_shape_and_bad_options_are_refused(tiny_hooked: Any) -> None:
    model, other = tiny_hooked("llama"), tiny_hooked("llama", hidden_size=48)
    means = ivlens.mean_head_activations(other, RAGGED)
    with pytest.raises(MismatchError, match="d_model 32, not 48"):
        ivlens.indirect_effects(model, RAGGED, means)
    with pytest.raises(ArgumentError, match="method to be one of 'exact', 'loop', 'attribution'"):
        ivlens.indirect_effects(model, RAGGED, some_means(model), method="fast")
    with pytest.raises(PromptError, match="at least one prompt"):
        ivlens.indirect_effects(model, [], some_means(model))


def test_logit_difference_is_against_the_strongest_wrong_token(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    prompt = Prompt("the lazy dog", " is")
    effects = ivlens.indirect_effects(model, [prompt], some_means(model), metric="logit-difference")
    encoded = prompt.encode(model.tokenizer)
    with torch.inference_mode():
        logits = model(torch.tensor([encoded.prompt_ids]))[0, -1]
    wrong = logits.clone()
    wrong[encoded.answer_ids[0]] = -torch.inf
    assert effects.baseline[0].item() == pytest.approx((logits[encoded.answer_ids[0]] - wrong.max()).item(), abs=1e-5)


def test_half_precision_gives_probabilities_and_what_evaluate_gives(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    model = ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.bfloat16)
    effects = ivlens.indirect_effects(model, RAGGED, some_means(model), metric="log-probability")
    assert effects.baseline.max() <= 0
    logs = ivlens.evaluate(model, RAGGED).probabilities.log()
    assert (effects.baseline.double() - logs).abs().max() < 0.5


@pytest.mark.parametrize("name", ["n_clean", "n_corrupted"])
def test_more_prompts_than_there_are_is_said_of_the_argument_that_was_given(name: str, tiny_hooked: Any) -> None:
    with pytest.raises(
        ArgumentError, match=rf"^expected {name} to be at most \d+, the size of 'train' in 'antonym'; got"
    ):
        ivlens.locate_heads(tiny_hooked(), "antonym", **{name: 5000})


def test_prompts_may_come_from_a_generator_and_tasks_by_name(smollm2: Any, tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    prompts = [Prompt(text, " is", task="made up") for text in ("the fox", "a dog")]
    means = ivlens.mean_head_activations(model, (prompt for prompt in prompts))
    assert (means.task, means.n) == ("made up", 2)
    found = ivlens.locate_heads(smollm2, "antonym", n_clean=4, n_corrupted=1)
    assert found.task == "antonym"
    assert found.stderr.isnan().all()
    with pytest.raises(PromptError, match="expected prompts; got 'text'"):
        ivlens.scoring.listed(text for text in ["text"])


def test_attention_in_both_directions_is_left_to_the_loop(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    model.cfg.attention_dir = "bidirectional"
    with pytest.warns(ivlens.FallbackWarning, match="attention in both directions"):
        effects = ivlens.indirect_effects(model, RAGGED, some_means(model))
    assert effects.method == "loop"
