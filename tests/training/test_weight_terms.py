"""Terms on the weights: by hand and by autograd, the same in parts of a step, and found again by a resumed run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ivlens
from ivlens import Prompt
from ivlens.errors import ArgumentError, MismatchError
from ivlens.models import (
    HookedTransformer,
    at_answers,
    final_logits,
    final_residual,
    lora_factors,
    merge_lora,
    only_trainable,
    padded,
    sample_texts,
    text_start,
    updated_weights,
)
from ivlens.models.naming import as_linear
from ivlens.scoring import all_ids
from ivlens.training import (
    EWC,
    EWCOnOwnTexts,
    FrozenLayers,
    Guidance,
    Interpolation,
    LoRA,
    OLoRA,
    TrainingConfig,
    WeightAverage,
    fine_tune,
)
from ivlens.training.earlier_adapters import _shared
from ivlens.training.fisher import diagonal_fisher
from ivlens.training.objective import elastic, overlap
from ivlens.training.penalties import Penalty, penalties_of
from ivlens.training.step import TrainingStep
from ivlens.training.trainable import Trainable

CONFIG = TrainingConfig(Guidance(), steps=6, batch_size=4, learning_rate=3e-3, warmup=0, save_every=3)
FAMILIES = ["llama", "gpt2", "gemma3_text", "gpt_neox"]


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: Any, two: Any) -> bool:
    ours, theirs = weights(one), weights(two)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def with_penalties(
    model: HookedTransformer, config: TrainingConfig, trainable: Trainable, prompts: list[Prompt], **given: Any
) -> tuple[Penalty, ...]:
    step = TrainingStep.of(model, config, prompts, replay=given.get("replay", ()))
    return penalties_of(model, trainable, config, step.fisher_pairs, given.get("adapters", ()), None)


@pytest.mark.parametrize("function", [elastic, overlap])
def test_a_penalty_and_its_gradient_are_those_of_autograd(function: Callable[..., Any]) -> None:
    value, reference = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value.requires_grad_()
    if function is elastic:
        expected = sum(0.5 * f * w**2 for f, w in zip(reference.flatten(), value.flatten(), strict=True))
    else:
        expected = sum((row @ other) ** 2 for row in value for other in reference)
    loss, gradient = function(value.detach(), reference)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, value)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_information_is_the_mean_of_squared_gradients_of_single_prompts(
    tiny_hooked: Callable[..., Any], prompts: list[Prompt], family: str
) -> None:
    """A loop over prompts and answer tokens with autograd on the whole model's logits, in float64."""
    model = tiny_hooked(family).to(torch.float64)
    pairs = tuple(all_ids(model, [*prompts[:3], Prompt("the lazy fox", (" quick brown fox",))]))
    names = {"blocks.0.attn.W_Q", "blocks.1.mlp.W_out"}
    expected = {name: torch.zeros_like(each) for name, each in model.named_parameters() if name in names}
    with only_trainable(model, names) as named:
        found = diagonal_fisher(model, pairs, dict(named))
        for prompt, answer in pairs:
            log_p = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
            total = sum(log_p[len(prompt) - 1 + at, token] for at, token in enumerate(answer))
            for (name, _), gradient in zip(named, torch.autograd.grad(total, [each for _, each in named]), strict=True):
                expected[name] += gradient**2 / len(pairs)
    for name, each in expected.items():
        assert each.max() > 0
        torch.testing.assert_close(found[name], each, rtol=1e-6, atol=1e-12)


def test_the_true_fisher_is_the_expectation_over_the_models_own_answers(
    make_model: Callable[[], Any], prompts: list[Prompt]
) -> None:
    """Over many draws of one prompt's next token: sum_y p(y) (d log p(y))^2, which no answer of the task gives."""
    model, name = make_model().to(torch.float64), "blocks.1.attn.W_O"
    (pair,) = all_ids(model, prompts[:1])
    pair = pair._replace(answer_ids=pair.answer_ids[:1])
    with only_trainable(model, {name}) as ((_, weight),):
        drawn = diagonal_fisher(model, [pair] * 400, {name: weight}, seed=0)[name]
        rows = padded([pair], "cpu")
        log_p = F.log_softmax(final_logits(model, at_answers(final_residual(model, rows), rows))[0], -1)
        exact = torch.zeros_like(weight)
        for token in range(len(log_p)):
            (gradient,) = torch.autograd.grad(log_p[token], weight, retain_graph=True)
            exact += log_p[token].exp().detach() * gradient**2
        empirical = diagonal_fisher(model, [pair], {name: weight})[name]
    assert abs(drawn.sum() / exact.sum() - 1) < 0.15
    assert torch.cosine_similarity(drawn.flatten(), exact.flatten(), dim=0) > 0.95
    assert abs(empirical.sum() / exact.sum() - 1) > 0.1


@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ewc_is_half_the_sum_of_fisher_times_squared_change(
    tiny_hooked: Callable[..., Any], prompts: list[Prompt], others: list[Prompt], family: str, lora: LoRA | None
) -> None:
    """Zero at the base; after a change, value and gradients by autograd through the effective weights, in float64."""
    model = tiny_hooked(family).to(torch.float64)
    config = replace(CONFIG, guidance=Guidance((EWC(3.0),)), lora=lora)
    with Trainable.of(model, config) as trainable:
        (penalty,) = with_penalties(model, config, trainable, prompts, replay=others)
        assert penalty.backward() == {"ewc": 0.0, "loss": 0.0}
        assert all(not each.grad.any() for each in trainable.parameters.values() if each.grad is not None)
        generator = torch.Generator().manual_seed(0)
        before = {name: attr.detach().clone() for name, attr in effective(model, penalty).items()}
        with torch.no_grad():
            for each in trainable.parameters.values():
                each.add_(0.01 * torch.randn(each.shape, generator=generator, dtype=each.dtype))
                each.grad = None
        found = penalty.backward()
        ours = {name: each.grad.clone() for name, each in trainable.parameters.items() if each.grad is not None}
        now = effective(model, penalty)
        expected = sum(0.5 * (penalty.references[name] * (now[name] - before[name]) ** 2).sum() for name in now)
        gradients = torch.autograd.grad(3.0 * expected, [trainable.parameters[name] for name in ours])
    assert found["ewc"] == pytest.approx(expected.item(), rel=1e-6)
    assert found["loss"] == pytest.approx(3 * expected.item(), rel=1e-6)
    assert found["ewc"] > 0
    assert set(ours) == set(trainable.parameters)
    for one, two in zip(ours.values(), gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-12)


def effective(model: HookedTransformer, penalty: Penalty) -> dict[str, Tensor]:
    """The weights that the model computes with, by the names of their parameters."""
    updated = updated_weights(model)
    if updated:
        return {name: update(weight) for name, (weight, update) in updated.items()}
    return {name: each for name, each in model.named_parameters() if name in penalty.references}


@pytest.mark.parametrize("family", FAMILIES)
def test_o_lora_is_the_papers_formula_over_merged_adapters(
    tiny_hooked: Callable[..., Any], prompts: list[Prompt], family: str
) -> None:
    """The columns of the paper's A_t and A_i, all pairs of them, in every weight."""
    model = tiny_hooked(family).to(torch.float64)
    plain = replace(CONFIG, guidance=Guidance((OLoRA(0.5),)), lora=LoRA(2, 4.0), steps=2)
    adapters = []
    for seed in (0, 1):
        fine_tune(model, prompts, replace(plain, seed=seed), adapters=adapters)
        adapters.append({of: (a.detach().clone(), b.detach().clone()) for of, (a, b) in lora_factors(model).items()})
        merge_lora(model)
    config = replace(plain, seed=2)
    with Trainable.of(model, config) as trainable:
        earlier = [{of: a for of, (a, _) in each.items()} for each in adapters]
        (penalty,) = with_penalties(model, config, trainable, prompts, adapters=earlier)
        found = penalty.backward()
        factors = {of: a for of, (a, _) in lora_factors(model).items()}
        expected = sum(
            torch.dot(column, other) ** 2
            for of, a in factors.items() for each in earlier for column in a for other in each[of]
        )  # fmt: skip
        assert len(factors) == 2 * model.cfg.n_layers
        assert found == {"o_lora": pytest.approx(expected.item()), "loss": pytest.approx(0.5 * expected.item())}
        gradients = torch.autograd.grad(0.5 * expected, list(factors.values()))
        for a, gradient in zip(factors.values(), gradients, strict=True):
            torch.testing.assert_close(a.grad, gradient)


def test_o_lora_leads_away_from_earlier_adapters(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], tmp_path: Path
) -> None:
    config = replace(CONFIG, guidance=Guidance((OLoRA(50.0),)), lora=LoRA(2, 4.0), steps=15, learning_rate=2e-2)
    model = make_model()
    assert fine_tune(model, others, config, out=tmp_path / "first").to_frame()["o_lora"].tolist() == [0.0] * 15
    in_memory = lora_factors(model)
    merge_lora(model)
    base = weights(model)
    with pytest.raises(ArgumentError, match="another seed"):
        fine_tune(model, prompts, config, adapters=[in_memory])
    overlaps, anew = [], replace(config, seed=1)
    for adapter in (tmp_path / "first", in_memory):
        model = make_model()
        model.load_state_dict(base, strict=False)
        overlaps.append(fine_tune(model, prompts, anew, adapters=[adapter]).to_frame()["o_lora"].tolist())
    assert overlaps[0] == overlaps[1]
    assert overlaps[0][-1] < 0.05 * overlaps[0][0]


@pytest.mark.parametrize(("rank", "other"), [(1, 4), (4, 1), (2, 4), (4, 4), (20, 20)])
def test_adapters_of_one_seed_are_told_at_any_rank(tiny_hooked: Callable[..., Any], rank: int, other: int) -> None:
    """The rows of A are drawn one after the other, so that the smaller is a part of the larger one."""
    found = {}
    for seed, size in ((0, rank), (0, other), (1, other)):
        model = tiny_hooked("llama")
        ivlens.models.add_lora(model, size, 4.0, ("W_Q", "W_V"), None, seed)
        found[seed, size, len(found)] = lora_factors(model)
    first, same, anew = ({of: factors[0] for of, factors in each.items()} for each in found.values())
    assert all(_shared(first[of], same[of]) > 0.9 for of in first)
    assert sum(_shared(first[of], anew[of]) for of in first) / len(first) < 0.3


def test_adapters_that_do_not_fit_are_refused(
    make_model: Callable[[], Any], tiny_hooked: Callable[..., Any], prompts: list[Prompt], tmp_path: Path
) -> None:
    guidance = Guidance((OLoRA(),))
    with pytest.raises(ArgumentError, match="lora= for OLoRA"):
        fine_tune(make_model(), prompts, replace(CONFIG, guidance=guidance))
    fine_tune(make_model(), prompts, CONFIG, out=tmp_path)
    config = replace(CONFIG, guidance=guidance, lora=LoRA(2, 4.0))
    with pytest.raises(ArgumentError, match="trained the weights themselves"):
        fine_tune(make_model(), prompts, config, adapters=[tmp_path])
    with pytest.raises(ivlens.RecordError, match=r"state\.safetensors"):
        fine_tune(make_model(), prompts, config, adapters=[tmp_path / "nothing"])
    elsewhere = {(0, "W_in"): (torch.zeros(2, 32), torch.zeros(48, 2))}
    with pytest.raises(MismatchError, match=r"a weight that is trained now.*W_in"):
        fine_tune(make_model(), prompts, config, adapters=[elsewhere])
    wide = {(0, "W_Q"): (torch.zeros(2, 64), torch.zeros(64, 2))}
    with pytest.raises(MismatchError, match=r"32 inputs to W_Q.*64"):
        fine_tune(make_model(), prompts, config, adapters=[wide])


@pytest.mark.parametrize("preset", ["ewc", "ewc-own", "o-lora", "self-rehearsal", "average", "interpolate"])
@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
def test_a_step_in_parts_is_the_same_step(
    make_model: Callable[[], Any],
    prompts: list[Prompt],
    others: list[Prompt],
    preset: str,
    lora: LoRA | None,
    preset_guidance: Callable[..., Guidance],
) -> None:
    lora = LoRA(2, 4.0) if preset == "o-lora" else lora
    runs = []
    for parts in (1, 2):
        config = replace(CONFIG, guidance=preset_guidance(preset), accumulate=parts, lora=lora, learning_rate=1e-3)
        adapter = {(0, "W_Q"): (torch.ones(1, 32), torch.zeros(32, 1))}
        given = {"adapters": [adapter]} if preset == "o-lora" else {}
        runs.append(fine_tune(make_model(), prompts, config, replay=others, **given))
    columns = [name for name in runs[0].columns if name != "seconds"]
    one, two = (run.to_frame()[columns].to_numpy() for run in runs)
    assert one == pytest.approx(two, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("preset", ["ewc", "ewc-own", "self-rehearsal", "average", "interpolate"])
@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
def test_a_resumed_run_ends_in_the_same_bits(
    make_model: Callable[[], Any],
    prompts: list[Prompt],
    others: list[Prompt],
    tmp_path: Path,
    preset: str,
    lora: LoRA | None,
    preset_guidance: Callable[..., Guidance],
) -> None:
    """From the state of step 3, and from the end, where nothing is averaged or interpolated a second time."""
    config = replace(CONFIG, guidance=preset_guidance(preset), lora=lora)
    whole = make_model()
    fine_tune(whole, prompts, config, replay=others, out=tmp_path)
    for state in ("state.previous.safetensors", "state.safetensors"):
        shutil.copy(tmp_path / state, tmp_path / "copy")
        shutil.move(tmp_path / "copy", tmp_path / "state.safetensors")
        resumed = make_model()
        assert fine_tune(resumed, prompts, config, replay=others, out=tmp_path).steps == 6
        assert same(whole, resumed)


def test_what_a_term_needs_is_found_again_only_for_the_same_model_and_settings(
    make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = Guidance((EWCOnOwnTexts(10.0, n_texts=4, n_tokens=6),))
    config = replace(CONFIG, guidance=guidance, steps=3)
    fine_tune(make_model(), prompts, config, out=tmp_path)
    kept = {path.name for pattern in ("texts-*", "fisher-*") for path in tmp_path.glob(pattern)}
    assert len(kept) == 2
    with monkeypatch.context() as refused:
        refused.setattr("ivlens.training.self_written.sample_texts", lambda *_: 1 / 0)
        refused.setattr("ivlens.training.penalties.diagonal_fisher", lambda *_: 1 / 0)
        fine_tune(make_model(), prompts, config, out=tmp_path)
        other = make_model()
        with torch.no_grad():
            other.blocks[0].attn.W_Q.mul_(1.1)
        with pytest.raises(ZeroDivisionError):
            fine_tune(other, prompts, config, out=tmp_path)
        with pytest.raises(ZeroDivisionError):
            fine_tune(make_model(), prompts, replace(config, seed=1), out=tmp_path)
        with pytest.raises(ZeroDivisionError):
            fine_tune(make_model(), prompts, replace(config, layers=(1,)), out=tmp_path / "other")
    (fisher,) = tmp_path.glob("fisher-*")
    fisher.write_bytes(fisher.read_bytes()[:100])
    with pytest.warns(UserWarning, match="computed again"):
        fine_tune(make_model(), prompts, config, out=tmp_path)


def test_ewc_keeps_weights_that_matter_nearer(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt]
) -> None:
    """The change that old prompts feel is smaller under EWC than under plain training, and than it is elsewhere."""
    changes = {}
    for weight in (0.0, 1e5):
        model = make_model()
        config = replace(CONFIG, guidance=Guidance((EWC(weight),)), steps=20)
        run = fine_tune(model, prompts, config, replay=others)
        changes[weight] = run.to_frame()["ewc"].iloc[-1]
    assert 0 < changes[1e5] < 0.3 * changes[0.0]


@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
def test_frozen_layers_keep_their_bits(make_model: Callable[[], Any], prompts: list[Prompt], lora: LoRA | None) -> None:
    model = make_model()
    before = weights(model)
    fine_tune(model, prompts, replace(CONFIG, guidance=Guidance((FrozenLayers(0.0, 0.5),)), lora=lora))
    if lora is not None:
        merge_lora(model)
    touched = {name.split(".")[1] for name, each in weights(model).items() if not torch.equal(each, before[name])}
    assert touched - {"w"} == {"1"}
    middle = FrozenLayers(1 / 3, 2 / 3)
    assert [layer for layer in range(12) if not middle.trains(layer, 12)] == [4, 5, 6, 7]
    with pytest.raises(ArgumentError, match="a layer to train"):
        fine_tune(make_model(), prompts, replace(CONFIG, guidance=Guidance((FrozenLayers(0.0, 1.0),))))
    with pytest.raises(ArgumentError, match="begin before they end"):
        FrozenLayers(0.5, 0.5)


@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
def test_an_average_is_that_of_the_weights_after_the_last_steps(
    make_model: Callable[[], Any], prompts: list[Prompt], lora: LoRA | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[dict[str, Tensor]] = []

    def step(self: Trainable, rate: float) -> None:
        taken(self, rate)
        after.append({name: each.detach().double() for name, each in self.parameters.items()})

    taken = Trainable.step
    monkeypatch.setattr(Trainable, "step", step)
    model = make_model()
    fine_tune(model, prompts, replace(CONFIG, guidance=Guidance((WeightAverage(0.5),)), lora=lora))
    assert len(after) == 6
    for name, each in model.named_parameters():
        if name in after[0]:
            expected = sum(weights[name] for weights in after[3:]) / 3
            torch.testing.assert_close(each.double(), expected, rtol=1e-6, atol=1e-8)
    assert [WeightAverage(share).averaged_from(10) for share in (1.0, 0.25, 0.001)] == [0, 8, 9]


@pytest.mark.parametrize("lora", [None, LoRA(2, 4.0)], ids=["full", "lora"])
def test_interpolated_weights_lie_between(make_model: Callable[[], Any], prompts: list[Prompt], lora: Any) -> None:
    base, plain, between = make_model(), make_model(), make_model()
    fine_tune(plain, prompts, replace(CONFIG, lora=lora))
    fine_tune(between, prompts, replace(CONFIG, guidance=Guidance((Interpolation(0.25),)), lora=lora))
    for model in (plain, between) if lora else ():
        merge_lora(model)
    first, last = weights(base), weights(plain)
    for name, each in weights(between).items():
        torch.testing.assert_close(each, 0.75 * first[name] + 0.25 * last[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_drawn_from_the_models_distribution(tiny_hooked: Callable[..., Any], family: str) -> None:
    """The same for one seed; first tokens as often as the model gives them; a text ends after a token that ends it."""
    model = tiny_hooked(family)
    start = text_start(model)
    texts = sample_texts(model, start, 400, 3, seed=0)
    assert texts[:40] == sample_texts(model, start, 400, 3, seed=0)[:40]
    assert texts[:40] != sample_texts(model, start, 40, 3, seed=1)
    expected = model(torch.tensor([start]))[0, -1].softmax(-1)
    found = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=len(expected)) / len(texts)
    assert (found - expected).abs().max() < 0.06
    end = model.tokenizer.eos_token_id
    assert all(len(text) == 3 or text[-1] == end for text in texts)
    assert all(end not in text[:-1] for text in texts)


def test_as_linear_changes_are_those_of_the_weights(make_model: Callable[[], Any]) -> None:
    """``change`` is what the update adds, in the weight's own shape."""
    model = make_model()
    ivlens.models.add_lora(model, 2, 4.0, ("W_Q", "W_O"), None, 0)
    for weight, update in updated_weights(model).values():
        with torch.no_grad():
            update.B.normal_()
        torch.testing.assert_close(update.change(weight), update(weight) - weight, rtol=1e-4, atol=1e-5)
        assert as_linear(update.target, update.change(weight)).shape == (update.B.shape[0], update.A.shape[1])
