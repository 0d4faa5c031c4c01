"""Heads patched at every position: the loop by hand, the last-token loop, and attribution."""

from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, MismatchError, PositionMeans, Prompt, PromptError, Task

METRICS = ("probability", "log-probability", "logit-difference")
TASK = Task(  # answers out of the words that the tiny tokenizer knows
    "made up",
    [("go", "fox"), ("dream", "the dog"), ("sing", "jumps"), ("walk", "over"), ("talk", "brown"), ("be", "quick"),
     ("see", "lazy"), ("jump", "capital of")],
    instructions=("Write the past tense.",),
    labels=("Verb", "Past tense"),
)  # fmt: skip
CLEAN = TASK.prompts(3, seed=1)
CORRUPTED = TASK.prompts(2, seed=1, corruption="shuffled-labels")
SHARED = ("separator", "demonstration input name", "demonstration input", "demonstration output name",
          "demonstration output", "query input name", "query input", "query output name", "last")  # fmt: skip


@pytest.fixture
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    return ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer("<s> $A"), dtype=torch.float64)


def patched(model: Any, prompt: Prompt, layer: int, head: int, at: list[int], value: torch.Tensor | None) -> float:
    """Log probability of the answer with a head's output replaced at some positions, by TransformerLens' own means."""
    encoded = prompt.encode(model.tokenizer)
    tokens, start = torch.tensor([encoded.prompt_ids + encoded.answer_ids]), len(encoded.prompt_ids) - 1

    def hook_fn(z: torch.Tensor, hook: Any) -> torch.Tensor:
        if value is not None:
            z[0, at, head] = value.to(z)
        return z

    with torch.inference_mode():
        hooks = [(f"blocks.{layer}.attn.hook_z", hook_fn)]
        logs = model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)[0, start:-1].log_softmax(-1)
        return logs[range(len(encoded.answer_ids)), list(encoded.answer_ids)].sum().item()


def test_means_by_role_are_means_over_prompts_of_means_over_tokens(model: Any) -> None:
    means = ivlens.mean_position_activations(model, CLEAN, batch_size=2)
    expected = torch.zeros(model.cfg.n_heads, model.cfg.d_head, dtype=torch.float64)
    for prompt in CLEAN:
        tokens, roles = torch.tensor([prompt.token_ids(model.tokenizer)]), prompt.token_roles(model.tokenizer)
        z = model.run_with_cache(tokens, prepend_bos=False)[1]["blocks.1.attn.hook_z"][0].detach()
        expected += z[[at for at, role in enumerate(roles) if role == "query input"]].mean(0) / len(CLEAN)
    assert means.positions == ("instruction", *SHARED)
    torch.testing.assert_close(means.values[means.positions.index("query input"), 1], expected)
    last = ivlens.mean_head_activations(model, CLEAN)
    torch.testing.assert_close(means.values[-1], last.values)
    assert (means.n, means.by, means.task) == (3, "role", "made up")


@pytest.mark.parametrize("method", ["exact", "loop"])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_exact_and_loop_patch_every_role_to_its_one_mean(model: Any, method: str, batch_size: int) -> None:
    means = ivlens.mean_position_activations(model, CLEAN)
    options = {"metric": "log-probability", "batch_size": batch_size}
    found = ivlens.position_effects(model, CORRUPTED, means, method=method, **options)
    assert found.positions == SHARED
    assert found.values.shape == (2, 2, 4, len(SHARED))
    for i, prompt in enumerate(CORRUPTED):
        roles = prompt.token_roles(model.tokenizer)
        clean = patched(model, prompt, 0, 0, [], None)
        assert found.baseline[i].item() == pytest.approx(clean, rel=1e-9)
        for layer, head, part in ((0, 1, "demonstration output"), (0, 3, "query input"), (1, 2, "last")):
            at = [position for position, role in enumerate(roles) if role == part]
            value = means.values[means.positions.index(part), layer, head]
            expected = patched(model, prompt, layer, head, at, value) - clean
            assert abs(expected) > 1e-6
            assert found.at(part).values[i, layer, head].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ["exact", "loop", "attribution"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_last_place_is_what_indirect_effects_gives(model: Any, method: str, metric: str) -> None:
    means = ivlens.mean_position_activations(model, CLEAN)
    last = ivlens.mean_head_activations(model, CLEAN)
    found = ivlens.position_effects(model, CORRUPTED, means, method=method, metric=metric).at("last")
    expected = ivlens.indirect_effects(model, CORRUPTED, last, method=method, metric=metric)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.baseline, expected.baseline, rtol=1e-8, atol=1e-12)
    assert (found.method, found.metric) == (method, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_attribution_and_loop_agree_in_the_limit_at_every_position(model: Any, metric: str) -> None:
    """Means close to a prompt's own outputs, position by position: the ratio of the two methods tends to one."""
    prompt = Prompt("the quick brown fox jumps", " over the")
    own = ivlens.mean_position_activations(model, [prompt], by="position")
    noise = torch.randn(own.values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close = PositionMeans(own.values + 1e-5 * noise, 1, own.positions, "position")
    loop, attribution = (
        ivlens.position_effects(model, [prompt], close, method=method, metric=metric).values
        for method in ("loop", "attribution")
    )
    assert loop.shape[-1] == len(prompt.token_ids(model.tokenizer))
    largest = loop.abs().max()
    assert largest > 0
    torch.testing.assert_close(attribution, loop, rtol=1e-2, atol=1e-3 * largest.item())
    last_layer = loop[:, -1, :, :-1].abs().max() / largest  # earlier positions of the last layer reach no answer
    assert last_layer < 1e-6


def test_tokens_of_a_role_are_patched_together_and_their_attributions_add_up(model: Any) -> None:
    prompt = Prompt("the quick brown fox jumps", " over", parts=(("noun", "the quick brown fox"), ("verb", " jumps")))
    means = ivlens.mean_position_activations(model, [prompt])
    noun = means.positions.index("noun")
    whole = ivlens.position_effects(model, [prompt], means, method="attribution").values[..., noun]
    count = len(prompt.token_ids(model.tokenizer))
    roles = prompt.token_roles(model.tokenizer)
    values = torch.stack([means.values[means.positions.index(role)] if role else means.values[0] for role in roles])
    positions = tuple(str(at - count) for at in range(count))
    each = ivlens.position_effects(
        model, [prompt], PositionMeans(values, 1, positions, "position"), method="attribution"
    )
    own = [at for at, role in enumerate(roles) if role == "noun"]
    assert len(own) > 1
    torch.testing.assert_close(whole, each.values[..., own].sum(-1), rtol=1e-9, atol=1e-15)


def test_integrated_gradients_follow_one_layer_at_one_place(model: Any) -> None:
    """Completeness at a position: the sum over a layer's heads tends to the effect of patching all of them there."""
    means = ivlens.mean_position_activations(model, CLEAN)
    one, many = (
        ivlens.position_effects(
            model, CORRUPTED[:1], means, method="attribution", metric="log-probability", steps=steps, batch_size=64
        ).at("query input")
        for steps in (1, 40)
    )
    (prompt, *_), query = CORRUPTED, means.positions.index("query input")
    at = [position for position, role in enumerate(prompt.token_roles(model.tokenizer)) if role == "query input"]
    whole = patched(model, prompt, 0, slice(None), at, means.values[query, 0]) - many.baseline[0].item()  # type: ignore[arg-type]
    first, last = (abs(each.values[0, 0].sum().item() - whole) for each in (one, many))
    assert last < 0.1 * first


def test_places_are_those_that_clean_and_corrupted_prompts_share(model: Any) -> None:
    means = ivlens.mean_position_activations(model, CLEAN)
    bare = TASK.prompts(2, seed=1, corruption="no-instruction")
    found = ivlens.position_effects(model, bare, means, method="attribution")
    assert found.positions == ("query input name", "query input", "query output name", "last")
    mixed = ivlens.position_effects(model, [*bare, *CORRUPTED], means, method="attribution")
    assert mixed.positions == found.positions
    torch.testing.assert_close(mixed.values[:2], found.values, rtol=1e-9, atol=1e-15)


def test_what_cannot_be_aligned_is_refused(model: Any) -> None:
    made = [Prompt("the fox", " is"), Prompt("the lazy dog", " is")]
    with pytest.raises(PromptError, match="knows its parts"):
        ivlens.mean_position_activations(model, made)
    with pytest.raises(PromptError, match="prompts of one length"):
        ivlens.mean_position_activations(model, made, by="position")
    by_role, by_position = (ivlens.mean_position_activations(model, CLEAN[:1], by=by) for by in ("role", "position"))
    with pytest.raises(PromptError, match="knows its parts"):
        ivlens.position_effects(model, made, by_role)
    with pytest.raises(MismatchError, match=r"corrupted prompts of \d+ tokens, as the clean ones have; got \d"):
        ivlens.position_effects(model, made[:1], by_position)
    with pytest.raises(ArgumentError, match="by to be one of 'role', 'token-class', 'position'"):
        ivlens.mean_position_activations(model, CLEAN, by="index")
    with pytest.raises(ArgumentError, match="method to be one of 'exact', 'loop', 'attribution'"):
        ivlens.position_effects(model, CORRUPTED, by_role, method="sweep")
    with pytest.raises(ArgumentError, match="steps above 1"):
        ivlens.position_effects(model, CORRUPTED, by_role, steps=2)
    with pytest.raises(MismatchError, match="means of shape"):
        ivlens.position_effects(model, CORRUPTED, PositionMeans(torch.zeros(1, 3, 4, 8), 1, ("last",), "role"))


@pytest.mark.parametrize("method", ["exact", "loop", "attribution"])
def test_the_planted_heads_are_found_where_they_work(model: Any, method: str) -> None:
    """Head 0.2 marks what follows the token "!" in dimension 0; head 1.1 carries that to dimension 1 of the last token.

    Attention is uniform, and only the logit of "Z" reads dimension 1. All other heads write outside both dimensions.
    """
    (marker,), (answer,) = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in "!Z")
    with torch.no_grad():
        model.embed.W_E[:, :2] = 0
        model.embed.W_E[marker, 0] = 20
        model.unembed.W_U[:2] = 0
        model.unembed.W_U[1, answer] = 4
        for block, head, target in zip(model.blocks, (2, 1), (0, 1), strict=True):
            for weight in (block.attn.W_Q, block.attn._W_K, block.mlp.W_out):
                weight.zero_()
            block.attn.W_O[:, :, :2] = 0
            block.attn._W_V[:, 0] = 0
            block.attn._W_V[head // 2].zero_()
            block.attn._W_V[head // 2, 0, 0] = 10
            block.attn.W_O[head - head % 2 : head - head % 2 + 2] = 0
            block.attn.W_O[head, 0, target] = 10
    subjects = "the fox", "a lazy dog"
    clean, bare = (
        [
            Prompt(f"{each}{mark} is:", "Z", parts=(("subject", each), ("mark", mark), ("end", " is:")))
            for each in subjects
        ]
        for mark in "!?"
    )
    means = ivlens.mean_position_activations(model, clean)
    found = ivlens.position_effects(model, bare, means, method=method, metric="log-probability")
    assert set(found.strongest_heads(2)) == {(1, 1), (0, 2)}
    marking, others = found.aie[0, 2], found.aie[0, [0, 1, 3]].abs().max()
    assert marking[found.positions.index("mark")] > 5 * others
    assert marking[found.positions.index("subject")].abs() < 0.2 * marking[found.positions.index("mark")]
    assert found.aie[1, :, :-1].abs().max() < 1e-12  # in the last layer only the last token counts
