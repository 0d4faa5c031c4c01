"""Attribution patching against finite differences in float64, the loop in the limit, and whole layers' patches."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, FallbackWarning, HeadMeans, HookError, Prompt, UnsupportedError
from ivlens.effects import attribution
from ivlens.models import add_lora, answer_logits, hooked, last_token, padded, z_name
from ivlens.scoring import all_ids

RAGGED = [
    Prompt("the quick brown fox", " jumps over"),
    Prompt("Q: what is the capital of France and of the lazy dog?\nA:", " Paris"),
    Prompt("1", " + 2 = 3"),
]
METRICS = ("probability", "log-probability", "logit-difference")
FAMILIES = ("gpt2", "gpt_neox", "qwen2", "gemma3_text", "gemma2", "gemma", "mistral", "qwen3", "phi3", "phi", "olmo",
            "olmo2", "gptj", "gpt_neo", "opt", "bloom")  # fmt: skip


@pytest.fixture
def tiny64(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """``tiny64(family, **config)``: a tiny random model in float64."""
    return lambda family="llama", **config: ivlens.load_model(
        tiny_hf(family, **config), tokenizer=tiny_tokenizer(), dtype=torch.float64
    )


def outputs(model: Any, prompts: list[Prompt]) -> torch.Tensor:
    """Heads' outputs at the last token of each prompt, [prompt, layer, head, d_head], one prompt at a time."""
    return torch.stack([ivlens.mean_head_activations(model, [prompt]).values for prompt in prompts])


def beside(model: Any, prompt: Prompt, size: float, seed: int = 0) -> HeadMeans:
    """Means at a distance of ``size`` from the heads' outputs on one prompt."""
    z = outputs(model, [prompt])[0]
    return HeadMeans(z + size * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype), 1)


def effects(model: Any, prompts: list[Prompt], means: HeadMeans, method: str, metric: str, **more: Any) -> torch.Tensor:
    return ivlens.indirect_effects(model, prompts, means, method=method, metric=metric, **more).values


@pytest.mark.parametrize(
    ("family", "metric"),
    [*(("llama", metric) for metric in METRICS), *((family, "log-probability") for family in FAMILIES)],
)
def test_attribution_is_the_derivative_by_central_differences(tiny64: Any, family: str, metric: str) -> None:
    """Means at z + step and z - step, through the loop: half their difference is the first-order effect of a step."""
    model, step = tiny64(family), 1e-4
    for prompt in RAGGED[:2]:
        there, back = (beside(model, prompt, each) for each in (step, -step))
        expected = (
            effects(model, [prompt], there, "loop", metric) - effects(model, [prompt], back, "loop", metric)
        ) / 2
        found = effects(model, [prompt], there, "attribution", metric)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())
        assert expected.abs().max() > 0


@pytest.mark.parametrize("metric", METRICS)
def test_prompts_do_not_touch_each_other_whatever_the_batch(tiny64: Any, metric: str) -> None:
    model = tiny64("gemma3_text")
    means = beside(model, RAGGED[0], 1.0)
    for budget in (2, 10_000):
        together = ivlens.indirect_effects(
            model, RAGGED, means, method="attribution", metric=metric, stream_budget=budget
        )
        for i, prompt in enumerate(RAGGED):
            alone = ivlens.indirect_effects(model, [prompt], means, method="attribution", metric=metric)
            torch.testing.assert_close(together.values[i], alone.values[0], rtol=1e-9, atol=1e-12)
    exact = ivlens.indirect_effects(model, RAGGED, means, metric=metric)
    torch.testing.assert_close(together.baseline, exact.baseline, rtol=1e-9, atol=1e-12)
    assert (together.method, together.provenance["settings"]["steps"]) == ("attribution", 1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_integrated_gradients_share_out_what_patching_the_layer_does(tiny64: Any, family: str) -> None:
    """Completeness: the sum over a layer's heads tends to the effect of patching all of them, as 1/steps."""
    model, prompt = tiny64(family), RAGGED[0]
    means = beside(model, prompt, 1.0)
    (pair,) = all_ids(model, [prompt])

    @torch.no_grad()
    def score(layer: int | None) -> torch.Tensor:
        def patch(z: torch.Tensor) -> torch.Tensor:
            z[last_token(z)] = means.values[layer].to(z)
            return z

        with nullcontext() if layer is None else hooked(model, {z_name(layer): patch}):
            logits = answer_logits(model, padded([pair], "cpu"))[0].log_softmax(-1)
        return logits[range(len(pair[1])), list(pair[1])].sum()

    whole = torch.stack([score(layer) - score(None) for layer in range(model.cfg.n_layers)])
    errors = []
    for steps in (1, 32, 64):
        values = effects(model, [prompt], means, "attribution", "log-probability", steps=steps)[0]
        errors.append((values.sum(-1) - whole).abs().max().item())
    assert errors[2] < 0.6 * errors[1] < 0.2 * errors[0]


def test_integrated_gradients_of_a_layer_of_one_head_are_exact_in_the_limit(tiny64: Any) -> None:
    model = tiny64("llama", num_attention_heads=1, num_key_value_heads=1)
    means = beside(model, RAGGED[0], 1.0)
    for metric in METRICS:
        exact, plain, path = (
            effects(model, RAGGED, means, method, metric, steps=steps)
            for method, steps in (("exact", 1), ("attribution", 1), ("attribution", 200))
        )
        assert (path - exact).abs().max() < 0.05 * (plain - exact).abs().max()


def test_single_and_half_precision_are_close_to_float64(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    models = [ivlens.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=dtype) for dtype in dtypes]
    means = beside(models[0], RAGGED[0], 1.0)
    means = HeadMeans(means.values.float(), 1)
    double, single, half = (effects(model, RAGGED, means, "attribution", "log-probability") for model in models)
    assert (single.dtype, half.dtype) == (torch.float32, torch.float32)
    assert (single - double).abs().max() < 1e-5 * double.abs().max()
    assert (half - double).abs().max() < 0.2 * double.abs().max()


@pytest.mark.parametrize("asking", [True, False])
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attribution_leaves_the_model_as_it_was_in_every_mode(tiny64: Any, mode: Any, asking: bool) -> None:
    model = tiny64()
    means = beside(model, RAGGED[0], 1.0)
    expected = effects(model, RAGGED, means, "attribution", "probability", steps=2)
    model.requires_grad_(asking)
    first = next(model.parameters())
    first.grad = kept = torch.ones_like(first)
    with mode():
        found = ivlens.indirect_effects(model, RAGGED, means, method="attribution", steps=2, metric="probability")
    assert torch.equal(found.values, expected)
    assert not found.values.requires_grad
    assert first.grad is kept
    assert torch.equal(kept, torch.ones_like(first))
    assert all(each.grad is None for each in model.parameters() if each is not first)
    assert all(each.requires_grad == asking for each in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_nothing_is_left_behind_by_a_pass_that_fails(tiny64: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny64()
    monkeypatch.setattr(model.unembed, "W_U", None)
    with pytest.raises(AttributeError):
        ivlens.indirect_effects(model, RAGGED, HeadMeans(torch.zeros(2, 4, 8), 1), method="attribution")
    assert all(each.requires_grad for each in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_model_loaded_in_inference_mode_works_and_tensors_made_there_are_refused(tiny64: Any) -> None:
    with torch.inference_mode():
        model = tiny64()
        effects(model, RAGGED, beside(model, RAGGED[0], 1.0), "attribution", "probability")
        model.blocks[0].attn.rotary_sin = 1 * model.blocks[0].attn.rotary_sin
    with pytest.raises(UnsupportedError, match=r"made in torch\.inference_mode; make them outside"):
        effects(model, RAGGED, HeadMeans(torch.zeros(2, 4, 8), 1), "attribution", "probability")


def test_attribution_sees_lora_and_leaves_it_asking_for_gradients(tiny64: Any) -> None:
    model, prompt = tiny64(), RAGGED[0]
    add_lora(model, 2, 4.0, ("W_Q", "W_V", "W_O", "W_in"), None, 0)
    before = effects(model, [prompt], beside(model, prompt, 1e-5), "attribution", "log-probability")
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name.endswith(".B"):
                each.add_(torch.randn(each.shape, generator=torch.Generator().manual_seed(0), dtype=each.dtype))
    means = beside(model, prompt, 1e-5)
    found, loop = (effects(model, [prompt], means, method, "log-probability") for method in ("attribution", "loop"))
    torch.testing.assert_close(found, loop, rtol=1e-2, atol=1e-3 * loop.abs().max().item())
    assert (found - before).abs().max() > 0.1 * before.abs().max()
    asking = {name.rsplit(".", 1)[1] for name, each in model.named_parameters() if each.requires_grad}
    assert asking == {"A", "B"}


def test_active_hooks_run_in_attribution_as_in_the_loop(tiny64: Any) -> None:
    model, prompt = tiny64(), RAGGED[0]
    with ivlens.steer(model, torch.ones(model.cfg.d_model), 1):
        means = beside(model, prompt, 1e-5)
        found, loop = (effects(model, [prompt], means, method, "log-probability") for method in ("attribution", "loop"))
    torch.testing.assert_close(found, loop, rtol=1e-2, atol=1e-3 * loop.abs().max().item())


def test_another_thread_is_refused_before_it_touches_the_model(tiny64: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is another one while attribution runs: a thread that ended it would break the first one's pass."""
    model = tiny64("llama")
    means, real, refused = beside(model, RAGGED[0], 1.0), attribution.fused_attention, list[str]()
    expected = effects(model, RAGGED, means, "attribution", "log-probability")

    def other() -> None:
        with pytest.raises(HookError, match="one thread at a time"):
            effects(model, RAGGED, means, "attribution", "log-probability")
        refused.append("attribution")

    @contextmanager
    def with_another_thread(model: Any) -> Iterator[None]:
        with real(model):
            if current_thread() is main_thread():
                thread = Thread(target=other)
                thread.start()
                thread.join()
            yield

    monkeypatch.setattr(attribution, "fused_attention", with_another_thread)
    assert torch.equal(effects(model, RAGGED, means, "attribution", "log-probability"), expected)
    assert refused


def test_steps_belong_to_attribution(tiny64: Any) -> None:
    model = tiny64()
    means = beside(model, RAGGED[0], 1.0)
    with pytest.raises(ArgumentError, match="steps above 1 with method='attribution' only; got 4 with method='exact'"):
        ivlens.indirect_effects(model, RAGGED, means, steps=4)
    with pytest.raises(ArgumentError, match="steps to be a whole number of 1 or more"):
        ivlens.indirect_effects(model, RAGGED, means, method="attribution", steps=0)


def test_what_streams_do_not_represent_goes_through_the_loop_and_says_so(tiny64: Any) -> None:
    model = tiny64()
    means = beside(model, RAGGED[0], 1.0)
    expected = ivlens.indirect_effects(model, RAGGED, means)
    model.cfg.num_experts = 2  # read at construction only: the numbers stay
    loop = ivlens.indirect_effects(model, RAGGED, means, method="loop")
    with pytest.warns(FallbackWarning, match=r"does not run on this model \(experts\): .* plain loop") as caught:
        fallen = ivlens.indirect_effects(model, RAGGED, means)
    assert len(caught) == 1
    assert (fallen.method, fallen.provenance["settings"]["method"]) == ("loop", "loop")
    assert torch.equal(fallen.values, loop.values)
    torch.testing.assert_close(fallen.values, expected.values, rtol=1e-9, atol=1e-12)
    with (
        pytest.raises(HookError, match="no active hooks"),
        ivlens.steer(model, torch.ones(model.cfg.d_model), 0),
    ):
        ivlens.indirect_effects(model, RAGGED, means)


def test_methods_compared_have_the_hand_computed_agreement(tiny64: Any) -> None:
    model = tiny64()
    means = beside(model, RAGGED[0], 1.0)
    found = ivlens.compare_methods(model, RAGGED, means, methods=("exact", "loop", "attribution"), k=3)
    exact, attributed = (ivlens.indirect_effects(model, RAGGED, means, method=m) for m in ("exact", "attribution"))
    assert (found.reference, found.methods, found.n, found.k) == ("exact", ("loop", "attribution"), 3, 3)
    assert found.spearman[0].tolist() == pytest.approx([1, 1, 1])
    assert found.overlap[0].tolist() == [1, 1, 1]
    for i in range(3):
        one, two = (each.values[i].flatten() for each in (exact, attributed))
        ranks = torch.stack([one.argsort().argsort(), two.argsort().argsort()]).double()
        assert found.spearman[1, i].item() == pytest.approx(torch.corrcoef(ranks)[0, 1].item(), abs=1e-6)
        shared = set(one.topk(3).indices.tolist()) & set(two.topk(3).indices.tolist())
        assert found.overlap[1, i].item() == pytest.approx(len(shared) / 3)
    assert found.aie_overlap[1].item() == pytest.approx(len(set(exact.top(3)) & set(attributed.top(3))) / 3)
    frame = found.to_frame()
    assert frame["method"].tolist() == ["loop", "attribution"]
    assert frame["lowest_spearman"][1] == pytest.approx(found.spearman[1].min().item())
    assert "MethodAgreement" in found._repr_html_()


def test_a_comparison_of_less_than_two_methods_is_refused(tiny64: Any) -> None:
    model = tiny64()
    means = beside(model, RAGGED[0], 1.0)
    with pytest.raises(ArgumentError, match=r"methods to be a list of names among .*; got 'exact'"):
        ivlens.compare_methods(model, RAGGED, means, methods="exact")
    for methods in (("exact",), ("exact", "exact")):
        with pytest.raises(ArgumentError, match="two different methods or more"):
            ivlens.compare_methods(model, RAGGED, means, methods=methods)
    with pytest.raises(ArgumentError, match="k to be at most 8"):
        ivlens.compare_methods(model, RAGGED, means, k=9)


def test_smollm2_attribution_ranks_heads_as_the_exact_sweep_does(smollm2: Any) -> None:
    """First measured over ten prompts: rank correlation .98, 8.6 of the ten strongest heads."""
    task = ivlens.load_task("present-past")
    means = ivlens.mean_head_activations(smollm2, task.prompts(8, split="train"))
    prompts = task.prompts(3, corruption="no-instruction", split="test")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        found = ivlens.compare_methods(smollm2, prompts, means, metric="log-probability")
    assert found.spearman.min() > 0.9
    assert found.aie_spearman[0] > 0.95
    assert found.overlap.mean() > 0.6
