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
from ivlens.training import Guidance, TrainingConfig
from ivlens.training.course import Course
from ivlens.training.objective import floored

EVERYTHING = Guidance(
    progressive="linear", layer=1, kl_last=0.7, kl_answer=0.3, kl_base=0.5, consistency=0.2, rehearsal=0.9, replay=0.4
)


def gradients(
    model: Any, config: TrainingConfig, prompts: list[Prompt], others: list[Prompt], vector: Any, step: int = 2
) -> dict:
    """Gradients of all weights at one step, and the terms."""
    with only_trainable(model, {name for name, _ in model.named_parameters()}) as parameters:
        anchors = {name: each.detach().clone() for name, each in parameters}
        course = Course.of(model, config, prompts, vector, others, others, anchors)
        course.prepare()
        with torch.no_grad():  # the student is not the base any more
            for number, (_, parameter) in enumerate(parameters):
                parameter.add_(0.01 * torch.sin(torch.arange(parameter.numel()) + number).reshape(parameter.shape))
        terms = course.learn(step)
        return {"terms": terms} | {name: each.grad.clone() for name, each in parameters if each.grad is not None}


def assert_same(one: dict, two: dict, tolerance: float = 1e-5) -> None:
    assert one["terms"] == pytest.approx(two["terms"], rel=tolerance)
    assert one.keys() == two.keys()
    for name in one.keys() - {"terms"}:
        scale = one[name].abs().max().item()
        assert (one[name] - two[name]).abs().max().item() <= tolerance * max(scale, 1e-3), name


def test_supervised_gradient_is_that_of_plain_torch(learner: Callable[[], Any], prompts: list[Prompt]) -> None:
    """Ragged prompts in one padded batch against one prompt at a time, without padding."""
    model = learner()
    ours = gradients(model, TrainingConfig(batch_size=len(prompts), steps=4), prompts, [], None)
    plain = learner()
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
    learner: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any, change: dict
) -> None:
    config = TrainingConfig(guidance=EVERYTHING, batch_size=6, steps=4)
    plain = gradients(learner(), config, prompts, others, vector)
    assert {"supervised", "kl_last", "kl_answer", "kl_base", "consistency", "rehearsal", "replay", "loss"} == set(
        plain["terms"]
    )
    assert_same(plain, gradients(learner(), replace(config, **change), prompts, others, vector), 2e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(
    learner: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any
) -> None:
    terms = gradients(learner(), TrainingConfig(guidance=EVERYTHING, steps=4), prompts, others, vector)["terms"]
    weights = {"supervised": 1, "kl_last": 0.7, "kl_answer": 0.3, "kl_base": 0.5, "consistency": 0.2, "rehearsal": 0.9,
               "replay": 0.4}  # fmt: skip
    assert terms["loss"] == pytest.approx(sum(weight * terms[name] for name, weight in weights.items()), rel=1e-6)
    assert all(terms[name] > 0 for name in weights)


def test_base_terms_vanish_while_the_model_is_the_base(
    learner: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any
) -> None:
    model = learner()
    guidance = replace(EVERYTHING, progressive="none", teacher_scale=0.0)
    course = Course.of(model, TrainingConfig(guidance=guidance), prompts, vector, others, others, {})
    course.prepare()
    terms = course.learn(0)
    for name in ("kl_last", "kl_answer", "kl_base", "consistency", "rehearsal"):
        assert terms[name] == pytest.approx(0, abs=1e-5), name


def test_the_teacher_is_the_base_with_the_vector(learner: Callable[[], Any], vector: Any) -> None:
    """``kl_last`` of one prompt with an answer of several tokens, recomputed through ``steer``."""
    model, prompt = learner(), Prompt("Q: the lazy fox A:", (" quick brown",))
    guidance = Guidance(kl_last=1.0, kl_answer=1.0, layer=1, scale=2.5, temperature=1.0)
    course = Course.of(model, TrainingConfig(guidance=guidance, batch_size=1), [prompt], vector, [], [], {})
    course.prepare()
    terms = course.learn(0)
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


def test_the_progressive_vector_is_added_at_the_last_prompt_token(learner: Callable[[], Any], vector: Any) -> None:
    model, prompt = learner(), Prompt("Q: the lazy fox A:", (" quick brown",))
    guidance = Guidance(progressive="linear", layer=1, scale=3.0)
    course = Course.of(model, TrainingConfig(guidance=guidance, batch_size=1, steps=4), [prompt], vector, [], [], {})
    encoded = prompt.encode(model.tokenizer)
    tokens, start = torch.tensor([encoded.prompt_ids + encoded.answer_ids]), len(encoded.prompt_ids) - 1
    for step, left in ((0, 1.0), (1, 0.75), (3, 0.25)):
        with torch.no_grad(), ivlens.steer(model, vector, layer=1, scale=3.0 * left, position=[start]):
            loss = F.cross_entropy(model(tokens)[0, start:-1], torch.tensor(encoded.answer_ids)).item()
        assert course.learn(step)["supervised"] == pytest.approx(loss, rel=1e-4)


def test_what_a_term_needs_is_asked_for(learner: Callable[[], Any], prompts: list[Prompt], vector: Any) -> None:
    model = learner()
    for guidance, given, missing in (
        (Guidance(kl_last=1.0), None, "vector="),
        (Guidance(rehearsal=1.0), vector, "rehearse="),
        (Guidance(replay=1.0), vector, "replay="),
        (Guidance(consistency=1.0), ivlens.random_vector(vector, seed=0), "heads"),
        (Guidance(progressive="linear", layer=7), vector, "layer"),
    ):
        with pytest.raises(ivlens.ArgumentError, match=missing):
            Course.of(model, TrainingConfig(guidance=guidance), prompts, given, [], [], {})


def test_no_hook_is_left_behind(
    learner: Callable[[], Any],
    prompts: list[Prompt],
    others: list[Prompt],
    vector: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = learner()
    course = Course.of(
        model, TrainingConfig(guidance=EVERYTHING, steps=4, checkpointing=True), prompts, vector, others, others, {}
    )
    course.prepare()
    monkeypatch.setattr("ivlens.training.course.cross_entropy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        course.learn(0)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any("forward" in vars(block) for block in model.blocks)


def test_lora_with_checkpointing_has_the_same_gradients(
    learner: Callable[[], Any], prompts: list[Prompt], others: list[Prompt], vector: Any
) -> None:
    from ivlens.training import LoRA, fine_tune

    finals = []
    for checkpointing in (False, True):
        model = learner()
        config = TrainingConfig(
            replace(EVERYTHING, l2=5.0), steps=3, learning_rate=1e-2, lora=LoRA(2, 4.0), checkpointing=checkpointing
        )
        fine_tune(model, prompts, config, vector=vector, rehearse=others, replay=others)
        finals.append({name: each.detach().clone() for name, each in model.named_parameters() if name.endswith(".B")})
    for name, values in finals[0].items():
        assert values.abs().max() > 0
        torch.testing.assert_close(values, finals[1][name], rtol=1e-4, atol=1e-6)


def test_a_term_that_is_not_a_number_is_not_dropped() -> None:
    assert torch.isnan(floored(torch.tensor(float("nan")), 0.1))
