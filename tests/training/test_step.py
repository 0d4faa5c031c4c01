"""A step's gradients against plain torch, whatever the batching, padding, caching or recomputing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import ivlens
from ivlens import Prompt
from ivlens.models import only_trainable
from ivlens.training import (
    Guidance,
    HeadConsistency,
    KLToBase,
    KLToGuidedTeacher,
    L2ToBase,
    PreventativeSteering,
    ProgressiveVector,
    Rehearsal,
    Replay,
    SelfRehearsal,
    TrainingConfig,
)
from ivlens.training.objective import floored
from ivlens.training.step import TrainingStep

GUIDED_TEACHER = KLToGuidedTeacher(0.7, 0.3, layer=1, sequence=0.6)
OTHERS = (KLToBase(0.5), HeadConsistency(0.2), Rehearsal(0.9), Replay(0.4))
EVERYTHING = Guidance((ProgressiveVector(layer=1), GUIDED_TEACHER, *OTHERS))
PLAIN = Guidance()


def gradients(
    model: Any, config: TrainingConfig, prompts: list[Prompt], others: list[Prompt], vector: Any, step: int = 2
) -> dict:
    """Gradients of all weights at one step, and the terms."""
    with only_trainable(model, {name for name, _ in model.named_parameters()}) as parameters:
        anchors = {name: each.detach().clone() for name, each in parameters}
        training_step = TrainingStep.of(model, config, prompts, vector, others, others)
        training_step.prepare(anchors)
        with torch.no_grad():  # the student is not the base any more
            for number, (_, parameter) in enumerate(parameters):
                parameter.add_(0.01 * torch.sin(torch.arange(parameter.numel()) + number).reshape(parameter.shape))
        terms = training_step.backward(step)
        return {"terms": terms} | {name: each.grad.clone() for name, each in parameters if each.grad is not None}


def assert_same(one: dict, two: dict, tolerance: float = 1e-5) -> None:
    assert one["terms"] == pytest.approx(two["terms"], rel=tolerance)
    assert one.keys() == two.keys()
    for name in one.keys() - {"terms"}:
        scale = one[name].abs().max().item()
        assert (one[name] - two[name]).abs().max().item() <= tolerance * max(scale, 1e-3), name


def test_supervised_gradient_is_that_of_plain_torch(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    """Ragged prompts in one padded batch against one prompt at a time, without padding."""
    model = make_model()
    ours = gradients(model, TrainingConfig(PLAIN, batch_size=len(prompts), steps=4), prompts, [], None)
    plain = make_model()
    with torch.no_grad():
        for number, parameter in enumerate(plain.parameters()):
            parameter.add_(0.01 * torch.sin(torch.arange(parameter.numel()) + number).reshape(parameter.shape))
    pieces = []
    for prompt in prompts:
        encoded = prompt.encode(plain.tokenizer)
        tokens = torch.tensor([encoded.prompt_ids + encoded.answer_ids])
        logits = plain(tokens)[0, len(encoded.prompt_ids) - 1 : -1]
        pieces.append(F.cross_entropy(logits, torch.tensor(encoded.answer_ids), reduction="none"))
    loss = torch.cat(pieces).mean()
    loss.backward()
    assert ours["terms"]["supervised"] == pytest.approx(loss.item(), rel=1e-5)
    theirs = {name: each.grad for name, each in plain.named_parameters() if each.grad is not None}
    assert_same(ours, {"terms": ours["terms"]} | theirs)


@pytest.mark.parametrize("change", [{"accumulate": 3}, {"teacher": "live"}, {"checkpointing": True}], ids=str)
def test_how_it_is_computed_changes_no_gradient(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any, change: dict
) -> None:
    config = TrainingConfig(guidance=EVERYTHING, batch_size=6, steps=4)
    plain = gradients(make_model(), config, prompts, others, vector)
    losses = {"supervised", "kl_last", "kl_answer", "kl_sequence", "kl_base", "consistency", "rehearsal", "replay"}
    assert losses | {"loss"} == set(plain["terms"])
    assert_same(plain, gradients(make_model(), replace(config, **change), prompts, others, vector), 2e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any
) -> None:
    terms = gradients(make_model(), TrainingConfig(guidance=EVERYTHING, steps=4), prompts, others, vector)["terms"]
    weights = {"supervised": 1, "kl_last": 0.7, "kl_answer": 0.3, "kl_sequence": 0.6, "kl_base": 0.5,
               "consistency": 0.2, "rehearsal": 0.9, "replay": 0.4}  # fmt: skip
    assert terms["loss"] == pytest.approx(sum(weight * terms[name] for name, weight in weights.items()), rel=1e-6)
    assert all(terms[name] > 0 for name in weights)


def test_base_terms_vanish_while_the_model_is_the_base(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any
) -> None:
    model = make_model()
    guidance = Guidance((replace(GUIDED_TEACHER, scale=0.0), *OTHERS))
    training_step = TrainingStep.of(model, TrainingConfig(guidance), prompts, vector, others, others)
    training_step.prepare({})
    terms = training_step.backward(0)
    for name in ("kl_last", "kl_answer", "kl_sequence", "kl_base", "consistency", "rehearsal"):
        assert terms[name] == pytest.approx(0, abs=1e-5), name


def test_the_teacher_is_the_base_with_the_vector(make_model: Callable[[], Any], vector: Any) -> None:
    """``kl_last`` of one prompt with an answer of several tokens, recomputed through ``steer``."""
    model, prompt = make_model(), Prompt("Q: the lazy fox A:", (" quick brown",))
    guidance = Guidance((KLToGuidedTeacher(1.0, 1.0, layer=1, scale=2.5, temperature=1.0),))
    training_step = TrainingStep.of(model, TrainingConfig(guidance, batch_size=1), [prompt], vector)
    training_step.prepare({})
    terms = training_step.backward(0)
    encoded = prompt.encode(model.tokenizer)
    tokens, start = torch.tensor([encoded.prompt_ids + encoded.answer_ids]), len(encoded.prompt_ids) - 1
    with torch.no_grad():
        student = model(tokens)[0, start:-1].log_softmax(-1)
        with ivlens.steer(model, vector, layer=1, scale=2.5, position=[start]):
            teacher = model(tokens)[0, start:-1].log_softmax(-1)
    kl = (teacher.exp() * (teacher - student)).sum(-1)
    assert len(kl) > 1
    assert kl[0] > 1e-4
    assert terms["kl_last"] == pytest.approx(kl[0].item(), rel=1e-3)
    assert terms["kl_answer"] == pytest.approx(kl.mean().item(), rel=1e-3)


def test_the_progressive_vector_is_added_at_the_last_prompt_token(make_model: Callable[[], Any], vector: Any) -> None:
    model, prompt = make_model(), Prompt("Q: the lazy fox A:", (" quick brown",))
    guidance = Guidance((ProgressiveVector("linear", layer=1, scale=3.0),))
    training_step = TrainingStep.of(model, TrainingConfig(guidance, batch_size=1, steps=4), [prompt], vector)
    encoded = prompt.encode(model.tokenizer)
    tokens, start = torch.tensor([encoded.prompt_ids + encoded.answer_ids]), len(encoded.prompt_ids) - 1
    for step, left in ((0, 1.0), (1, 0.75), (3, 0.25)):
        with torch.no_grad(), ivlens.steer(model, vector, layer=1, scale=3.0 * left, position=[start]):
            loss = F.cross_entropy(model(tokens)[0, start:-1], torch.tensor(encoded.answer_ids)).item()
        assert training_step.backward(step)["supervised"] == pytest.approx(loss, rel=1e-4)


def test_preventative_steering_adds_any_vector_at_every_token(make_model: Callable[[], Any], vector: Any) -> None:
    """The same at each step, on a padded batch; by torch's own hook on one prompt at a time."""
    model = make_model()
    two = [Prompt("Q: the lazy fox A:", (" quick brown",)), Prompt("fox", (" Paris",))]
    for other in (vector, ivlens.random_vector(vector, seed=3)):  # the second one comes from no heads
        guidance = Guidance((PreventativeSteering(layer=1, scale=3.0),))
        training_step = TrainingStep.of(model, TrainingConfig(guidance, batch_size=2, steps=4), two, other)
        values, losses = 3.0 * other.values.to(torch.float32), []
        point = model.hook_dict["blocks.1.hook_resid_pre"]
        handle = point.register_forward_hook(lambda _, inputs, output, values=values: output + values)
        for prompt in two:
            ids = prompt.encode(model.tokenizer)
            with torch.no_grad():
                logits = model(torch.tensor([ids.prompt_ids + ids.answer_ids]))[0, len(ids.prompt_ids) - 1 : -1]
            losses += F.cross_entropy(logits, torch.tensor(ids.answer_ids), reduction="none").tolist()
        handle.remove()
        for step in (0, 3):
            assert training_step.backward(step)["supervised"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_self_rehearsal_is_the_divergence_at_every_token_of_the_bases_texts(
    make_model: Callable[[], Any], prompts: list[Prompt]
) -> None:
    """Zero at the base; after a change, recomputed by plain passes over the texts."""
    model, base = make_model(), make_model()
    config = TrainingConfig(Guidance((SelfRehearsal(2.0, n_texts=3, n_tokens=5, batch_size=3),)), steps=2)
    training_step = TrainingStep.of(model, config, prompts)
    training_step.prepare({})
    assert training_step.backward(0)["self_rehearsal"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(1.2)
    own = next(each for each in training_step.passes if isinstance(each.terms[0][0], SelfRehearsal))
    divergences = []
    for start, text in own.sampler.pairs:
        tokens = torch.tensor([[*start, *text]])
        with torch.no_grad():
            theirs, ours = (each(tokens)[0, len(start) - 1 : -1].log_softmax(-1) for each in (base, model))
        divergences.append((theirs.exp() * (theirs - ours)).sum(-1))
    found = training_step.backward(1)
    assert found["self_rehearsal"] == pytest.approx(torch.cat(divergences).mean().item(), rel=1e-3)
    assert found["loss"] == pytest.approx(found["supervised"] + 2 * found["self_rehearsal"])


def test_what_a_term_needs_is_asked_for(make_model: Callable[[], Any], prompts: list[Prompt], vector: Any) -> None:
    model = make_model()
    for term, given, missing in (
        (KLToGuidedTeacher(1.0), None, "vector= for KLToGuidedTeacher"),
        (ProgressiveVector(), None, "vector= for ProgressiveVector"),
        (HeadConsistency(1.0), None, "vector= for HeadConsistency"),
        (Rehearsal(1.0), vector, "rehearse= prompts for Rehearsal"),
        (Replay(1.0), vector, "replay= prompts for Replay"),
        (HeadConsistency(1.0), ivlens.random_vector(vector, seed=0), "heads"),
        (ProgressiveVector(layer=7), vector, "layer"),
        (KLToGuidedTeacher(layer=7), vector, "layer"),
    ):
        with pytest.raises(ivlens.ArgumentError, match=missing):
            TrainingStep.of(model, TrainingConfig(Guidance((term,))), prompts, given)


def test_no_hook_is_left_behind(
    make_model: Callable[[], Any],
    prompts: list[Prompt],
    others: list[Prompt],
    vector: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model()
    config = TrainingConfig(EVERYTHING, steps=4, checkpointing=True)
    training_step = TrainingStep.of(model, config, prompts, vector, others, others)
    training_step.prepare({})
    monkeypatch.setattr("ivlens.training.terms.cross_entropy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training_step.backward(0)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any("forward" in vars(block) for block in model.blocks)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lora_with_checkpointing_has_the_same_gradients(
    make_model: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any, dropout: float
) -> None:
    from ivlens.training import LoRA, fine_tune

    finals = []
    for checkpointing in (False, True):
        model = make_model()
        config = TrainingConfig(
            Guidance((*EVERYTHING, L2ToBase(5.0))),
            steps=3,
            learning_rate=1e-2,
            lora=LoRA(2, 4.0, dropout=dropout),
            checkpointing=checkpointing,
        )
        fine_tune(model, prompts, config, vector=vector, rehearse=others, replay=others)
        finals.append({name: each.detach().clone() for name, each in model.named_parameters() if name.endswith(".B")})
    for name, values in finals[0].items():
        assert values.abs().max() > 0
        torch.testing.assert_close(values, finals[1][name], rtol=1e-4, atol=1e-6)


def test_a_term_that_is_not_a_number_is_not_dropped() -> None:
    assert torch.isnan(floored(torch.tensor(float("nan")), 0.1))
