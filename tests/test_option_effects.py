"""Effects in the logit difference to the best wrong option, against evaluations with heads ablated one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens import ArgumentError, Prompt
from ivlens.models import load_model
from ivlens.models.engines import has_hooked

needs_hooked = pytest.mark.skipif(not has_hooked(), reason="TransformerLens has no HookedTransformer")
SHORT = [
    Prompt("the capital of France is", " Paris", options=(" fox", " Paris", " dog", " the")),
    Prompt("the quick brown fox jumps over the", " lazy", options=(" lazy", " dog", " is", " Paris")),
]
LONG = [
    Prompt("the capital of France is", " Paris and", options=(" the fox", " Paris and", " the lazy dog")),
    Prompt("the quick brown", (" fox", " fox jumps"), options=(" lazy dog", " fox", " fox jumps", " is")),
]


@pytest.fixture(scope="module")
def load(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[[str], Any]:
    def loaded(engine: str) -> Any:
        return load_model(tiny_hf("llama").double(), tokenizer=tiny_tokenizer(), engine=engine, dtype=torch.float64)

    return loaded


def some_means(model: Any, prompts: list[Prompt]) -> iv.HeadMeans:
    means = iv.mean_head_activations(model, prompts)
    values = torch.randn(means.values.shape, generator=torch.Generator().manual_seed(3)).to(means.values)
    return iv.HeadMeans(values, means.n, means.task, provenance=means.provenance)


def differences(found: iv.Evaluation, prompts: list[Prompt], foils: list[int]) -> Tensor:
    """The log-likelihood of each prompt's first answer minus that of an option, as ``evaluate`` gives them."""
    pairs = zip(found.option_log_likelihoods, prompts, foils, strict=True)
    return torch.tensor([own[prompt.options.index(prompt.answers[0])] - own[foil] for own, prompt, foil in pairs])


def foils_of(found: iv.Evaluation, prompts: list[Prompt]) -> list[int]:
    chosen = []
    for own, prompt in zip(found.option_log_likelihoods, prompts, strict=True):
        wrong = {value: at for at, value in enumerate(own) if prompt.options[at] not in prompt.answers}
        chosen.append(wrong[max(wrong)])
    return chosen


@pytest.mark.parametrize("prompts", [SHORT, LONG], ids=["one token", "several"])
@pytest.mark.parametrize(
    ("engine", "method"), [pytest.param("hooked", "exact", marks=needs_hooked), ("bridge", "exact"), ("bridge", "loop")]
)
def test_effects_are_those_on_the_difference_to_the_best_wrong_option(
    load: Any, prompts: list[Prompt], engine: str, method: Any
) -> None:
    model = load(engine)
    means = some_means(model, prompts)
    effects = iv.indirect_effects(model, prompts, means, metric="logit-difference", method=method)
    assert effects.metric == "logit-difference"
    clean = iv.evaluate(model, prompts)
    foils = foils_of(clean, prompts)
    baseline = differences(clean, prompts, foils)
    torch.testing.assert_close(effects.baseline.double(), baseline.double(), atol=1e-6, rtol=1e-6)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            with iv.ablate(model, [(layer, head)], means):
                patched = differences(iv.evaluate(model, prompts), prompts, foils)
            expected = (patched - baseline).to(effects.values)
            torch.testing.assert_close(effects.values[:, layer, head], expected, atol=1e-6, rtol=1e-6)
    assert effects.values.abs().max() > 0.05


@torch.no_grad()
def test_one_token_options_differ_by_their_logits(load: Any) -> None:
    model = load("bridge")
    effects = iv.indirect_effects(model, SHORT, some_means(model, SHORT), metric="logit-difference")
    for prompt, baseline in zip(SHORT, effects.baseline.tolist(), strict=True):
        logits = model(prompt.text)[0, -1]
        own, *wrong = (
            logits[prompt.encode(model.tokenizer, text).answer_ids[0]].item()
            for text in (*prompt.answers, *({*prompt.options} - {*prompt.answers}))
        )
        assert baseline == pytest.approx(own - max(wrong), rel=1e-6)


def test_attribution_and_positions_take_the_difference_of_two_effects(load: Any) -> None:
    model = load("bridge")
    foils = foils_of(iv.evaluate(model, LONG), LONG)
    against = [Prompt(prompt.text, prompt.options[foil]) for prompt, foil in zip(LONG, foils, strict=True)]
    plain = [Prompt(prompt.text, prompt.answers[0]) for prompt in LONG]
    means = some_means(model, LONG)
    found = iv.indirect_effects(model, LONG, means, metric="logit-difference", method="attribution")
    one, other = (iv.indirect_effects(model, each, means, method="attribution") for each in (plain, against))
    torch.testing.assert_close(found.values, one.values - other.values)
    same = [Prompt(prompt.text, prompt.answers, options=prompt.options) for prompt in LONG[:1]]
    by_position = iv.mean_position_activations(model, same, by="position")
    found = iv.position_effects(model, same, by_position, metric="logit-difference")
    one, other = (iv.position_effects(model, each[:1], by_position) for each in (plain, against))
    torch.testing.assert_close(found.values, one.values - other.values)


def test_prompts_of_which_some_have_options_are_refused(load: Any) -> None:
    model = load("bridge")
    mixed = [SHORT[0], Prompt("the quick brown", " fox")]
    means = some_means(model, mixed)
    with pytest.raises(ArgumentError, match="got 1 of 2 with options; measure the two kinds in two calls"):
        iv.indirect_effects(model, mixed, means, metric="logit-difference")
    assert iv.indirect_effects(model, mixed, means).metric == "log-probability"
