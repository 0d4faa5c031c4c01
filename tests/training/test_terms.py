"""Each term by hand on a small batch; guidance and its presets; a term of one's own."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import ivlens
from figures.forgetting.config import FV_BEFORE, StudyConfig
from figures.forgetting.runs import load_study
from figures.forgetting.tables import methods_table
from ivlens import Prompt
from ivlens.checks import NotNegative, checked
from ivlens.errors import ArgumentError, MismatchError
from ivlens.training import (
    DEFAULT_PRESET,
    PRESETS,
    Batch,
    Guidance,
    HeadConsistency,
    KLToBase,
    KLToGuidedTeacher,
    L2ToBase,
    LoRA,
    ProgressiveVector,
    Rehearsal,
    Replay,
    Term,
    TrainingConfig,
    fine_tune,
)
from ivlens.training.teacher import TeacherOutputs, VectorAddition
from ivlens.training.terms import Supervised

RECORDS = Path(__file__).parents[2] / "figures" / "forgetting" / "records"
P, Q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
OURS = {"plain", "iv", "fv", "fv-code", "kl", "l2", "l2-strong", "rehearsal", "rehearsal-l2", "replay", "guided"}
RIVALS = PRESETS.keys() - OURS
KL = 0.25 * math.log(2)  # KL(P || Q); by symmetry that of Q and P as well


def batch(**changes: Any) -> Batch:
    """Two prompts, the first with two answer tokens: the base says P at each; the student Q, P, Q."""
    logits = torch.stack([Q, P, Q]).log()
    teacher = TeacherOutputs(torch.zeros(3, 2), torch.zeros(2, 1, 2), lambda _: torch.stack([P, P, P]).log())
    z = torch.tensor([[[1.0, 2.0]], [[0.0, 3.0]]])
    return replace(Batch(logits, torch.tensor([0, 1, 2]), torch.tensor([0, 2]), z, teacher), **changes)


def values(term: Term, **changes: Any) -> dict[str, float]:
    return {name: value.item() for name, value in term.losses(batch(**changes)).items()}


def test_supervised_is_the_mean_over_tokens() -> None:
    expected = (math.log(4) + math.log(4) + math.log(2)) / 3
    assert values(Supervised()) == {"supervised": pytest.approx(expected)}
    assert values(Replay()) == {"replay": pytest.approx(expected)}
    assert values(Supervised(), token_share=0.5) == {"supervised": pytest.approx(expected / 2)}


def test_the_guided_teacher_is_compared_at_the_last_prompt_token_and_on_the_answer() -> None:
    term = KLToGuidedTeacher(temperature=1.0)
    expected = {"kl_last": pytest.approx(KL), "kl_answer": pytest.approx(2 / 3 * KL)}
    assert values(term) == expected
    assert values(replace(term, direction="reverse")) == expected  # P and Q are each other's reverse
    assert values(replace(term, floor=0.9 * KL)) == expected | {"kl_answer": 0}
    assert values(term, prompt_share=0.5) == expected | {"kl_last": pytest.approx(KL / 2)}
    assert term.teacher_addition(12) == VectorAddition(6, "resid_pre", 4.0)
    assert KLToGuidedTeacher(layer=3, scale=1.0, site="attn_out").teacher_addition(12) == VectorAddition(
        3, "attn_out", 1.0
    )


def test_the_guided_teacher_is_compared_over_whole_sequences() -> None:
    """Two prompts of five tokens in all: the sum over tokens, divided by two."""
    term = KLToGuidedTeacher(sequence=0.1, temperature=1.0)
    base = torch.stack([P, P, P, P, P]).log()
    teacher = replace(batch().base, unembed=lambda streams: base[: len(streams)], sequence=torch.zeros(5, 2))
    sequence = torch.stack([Q, Q, P, Q, P]).log()
    found = values(term, teacher=teacher, sequence=sequence)
    assert found == {
        "kl_last": pytest.approx(KL), "kl_answer": pytest.approx(2 / 3 * KL), "kl_sequence": pytest.approx(3 / 2 * KL)
    }  # fmt: skip
    part = values(term, teacher=teacher, sequence=sequence, prompt_share=0.25)
    assert part["kl_sequence"] == pytest.approx(3 / 8 * KL)
    assert values(replace(term, floor=1.6 * KL), teacher=teacher, sequence=sequence)["kl_sequence"] == 0
    assert "kl_sequence" not in values(KLToGuidedTeacher())
    with pytest.raises(ArgumentError, match="whole_sequences = True"):
        values(term)


def test_the_base_is_compared_on_the_answer() -> None:
    assert values(KLToBase(temperature=1.0)) == {"kl_base": pytest.approx(2 / 3 * KL)}
    assert KLToBase().teacher_addition(12) is None


def test_heads_are_compared_over_prompts() -> None:
    assert values(HeadConsistency()) == {"consistency": pytest.approx((5 + 9) / 2)}
    assert values(HeadConsistency(reduction="mean")) == {"consistency": pytest.approx((5 + 9) / 4)}
    assert values(HeadConsistency(floor=8.0)) == {"consistency": 0}


def test_each_head_is_reduced_and_floored_alone() -> None:
    heads = torch.tensor([[[1.0, 2.0], [0.1, 0.0]], [[0.0, 3.0], [0.3, 0.0]]])
    two = {"z": heads, "teacher": TeacherOutputs(torch.zeros(3, 2), torch.zeros(2, 2, 2), lambda _: P[None].log())}
    first, second = (5 + 9) / 4, (0.01 + 0.09) / 4
    assert values(HeadConsistency(reduction="mean"), **two) == {"consistency": pytest.approx((first + second) / 2)}
    assert values(HeadConsistency(reduction="mean", per_head=True), **two) == {
        "consistency": pytest.approx(first + second)
    }
    floored = HeadConsistency(reduction="mean", per_head=True, floor=0.03)
    assert values(floored, **two) == {"consistency": pytest.approx(first)}
    assert values(HeadConsistency(per_head=True), **two) == values(HeadConsistency(), **two)


def test_rehearsal_is_the_divergence_from_the_base() -> None:
    assert values(Rehearsal()) == {"rehearsal": pytest.approx(2 / 3 * KL)}
    assert not Rehearsal.answered


def test_the_progressive_vector_falls_and_is_handed_over() -> None:
    term = ProgressiveVector("linear", handover=0.5, scale=2.0)
    added = [term.student_addition(step, 8, 12) for step in range(5)]
    assert [each and each.scale for each in added] == [2.0, 1.5, 1.0, 0.5, None]
    assert added[0] == VectorAddition(6, "resid_pre", 2.0)
    assert values(term) == {}
    assert term.teacher_addition(12) is None


def test_l2_pulls_by_weight_times_learning_rate() -> None:
    weight = torch.tensor([4.0, -2.0])
    L2ToBase(100.0).after_step([weight], [torch.zeros(2)], 2.5e-3)
    assert weight.tolist() == [3.0, -1.5]
    with pytest.warns(UserWarning, match=r"takes back 1 times .*; divide its weight or the learning rate by more"):
        L2ToBase(1000.0).check(12, 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L2ToBase(999.0).check(12, 1e-3)
        L2ToBase(9990.0).with_lora().check(12, 1e-3)


def test_l2_balances_adam_at_one_distance_at_any_rate_and_number_of_steps(
    make_model: Callable[[], Any], prompts: list[Prompt]
) -> None:
    """About 1 / weight from the base, less by the pull."""
    furthest = {}
    for rate, steps in ((3e-4, 40), (1e-3, 12), (1e-3, 40)):
        model = make_model()
        before = {name: each.detach().clone() for name, each in model.named_parameters()}
        guidance = Guidance((L2ToBase(500.0),))
        fine_tune(model, prompts, TrainingConfig(guidance, steps, 4, learning_rate=rate, warmup=0, decay="none"))
        moved = [(each - before[name]).abs().max().item() for name, each in model.named_parameters()]
        furthest[rate, steps] = max(moved)
    assert max(furthest.values()) < 1 / 500
    assert min(furthest.values()) > 0.4 / 500


def test_l2_pulls_factors_of_lora_by_a_tenth(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    factors = []
    for term in (L2ToBase(0.0), L2ToBase(300.0), L2ToBase(300.0, lora=1.0)):
        model = make_model()
        config = TrainingConfig(Guidance((term,)), steps=1, warmup=0, learning_rate=1e-3, lora=LoRA(2))
        fine_tune(model, prompts, config)
        factors.append(torch.cat([each.flatten() for name, each in model.named_parameters() if name.endswith(".B")]))
    plain, tenth, whole = (each.norm().item() for each in factors)
    assert (tenth / plain, whole / plain) == (pytest.approx(0.97, rel=1e-3), pytest.approx(0.7, rel=1e-3))


def test_a_term_that_reads_the_base_unasked_is_told_so() -> None:
    with pytest.raises(ArgumentError, match=r'needs = frozenset\(\{"base"\}\)'):
        KLToBase().losses(batch(teacher=None))


def test_every_term_says_its_source_and_its_loss() -> None:
    terms = [each for each in vars(ivlens.training).values() if isinstance(each, type) and issubclass(each, Term)]
    assert len(terms) == 16
    for each in set(terms) - {Term}:
        assert each.source
        assert each.__doc__
        assert "Args:" in each.__doc__


def test_guidance_holds_a_term_of_each_class_and_name_once() -> None:
    with pytest.raises(ArgumentError, match="L2ToBase twice"):
        Guidance((L2ToBase(1.0), KLToBase(), L2ToBase(2.0)))
    with pytest.raises(ArgumentError, match="supervised twice"):
        Guidance((Supervised(),))


def test_scaled_multiplies_every_weight_and_nothing_else() -> None:
    assert Guidance.preset("fv").scaled(0.5).terms == (
        replace(PRESETS["fv"].terms[0], last=10.0, answer=0.05), replace(PRESETS["fv"].terms[1], weight=0.5)
    )  # fmt: skip
    assert Guidance.preset("plain").scaled() == Guidance()
    with pytest.raises(ArgumentError, match="guidance with weights, to multiply; got FrozenLayers"):
        Guidance.preset("freeze-lower").scaled(0.5)
    assert Guidance.preset("guided").scaled(3.0).terms == (
        PRESETS["guided"].terms[0], Rehearsal(3.0, batch_size=2), L2ToBase(3000.0)
    )  # fmt: skip


def test_a_preset_at_another_layer_and_scale() -> None:
    guidance = Guidance.preset("iv", layer=3, scale=2.0)
    assert {(term.layer, term.scale) for term in guidance} == {(3, 2.0)}
    assert Guidance.preset("l2", layer=3, scale=2.0) == PRESETS["l2"]
    assert Guidance.preset("iv") == PRESETS["iv"]
    with pytest.raises(ArgumentError, match="'guided'"):
        Guidance.preset("magic")


def test_presets_have_the_numbers_of_their_papers() -> None:
    """As they were when the forgetting study was run: its records hold the settings that they were made with."""
    study = {}
    for path in RECORDS.glob("trial-*-0.0001-1.safetensors"):
        with safe_open(path, "pt") as file:
            key = json.loads(file.metadata()["ivlens"])["provenance"]["key"]
        study[key["run"][0]] = key["guidance"]
    methods = {**PRESETS, "fv-before": FV_BEFORE}
    assert set(study) == set(methods) - {DEFAULT_PRESET, "fv", "fv-code", "rehearsal-l2", *RIVALS}
    for name, then in study.items():
        then["kl_sequence"] = 0.0
        now = {loss: weight for term in methods[name] for loss, weight in term.weights.items()}
        names = {"kl_last", "kl_answer", "kl_sequence", "kl_base", "consistency", "rehearsal", "l2", "replay"}
        assert now == {each: then[each] for each in names if then[each] or each in now}
        for term in methods[name]:
            site = {"block input": "resid_pre", "attention output": "attn_out"}
            expected = then | {
                "schedule": then["progressive"], "site": site[then["site"]], "reduction": then["consistency_reduction"],
                "floor": then["consistency_floor" if isinstance(term, HeadConsistency) else "kl_floor"],
                "batch_size": then.get(f"{type(term).__name__.lower()}_batch"),
            }  # fmt: skip
            for option, value in term.facts.items():
                assert option in ("weight", "lora", "last", "answer") or value == expected[option], (name, option)


@pytest.mark.parametrize("name", ["fv", "fv-code"])
def test_readings_of_the_paper_are_the_presets_of_today(name: str) -> None:
    with safe_open(RECORDS / "readings" / f"trial-{name}-0.0001-0.3.safetensors", "pt") as file:
        key = json.loads(file.metadata()["ivlens"])["provenance"]["key"]
    assert key["guidance"] == json.loads(json.dumps(Guidance.preset(name).scaled(0.3).facts))


def test_the_default_guidance_is_the_one_that_measured_best() -> None:
    """Of what needs no old examples and learns 98% of what plain training does, on tasks that nothing was chosen on."""
    config = StudyConfig()
    study = load_study(RECORDS, config)
    table = methods_table(study).set_index("method")
    learns = table[(table["of plain"] >= config.kept) & (table.index != "replay")]
    best = learns["kept"].idxmax()
    assert TrainingConfig().guidance == Guidance.preset() == study.chosen[best].guidance(best)
    assert TrainingConfig().learning_rate == study.chosen[best].rate


@checked
@dataclass(frozen=True)
class Confidence(Term):
    """Penalises confident predictions: the negative entropy of the next token, in nats (arXiv 1701.06548)."""

    needs = frozenset({"base"})
    source = "arXiv 1701.06548"
    weight: NotNegative = field(default=0.1, metadata={"loss": "confidence"})
    unlike: NotNegative = field(default=0.0, metadata={"loss": "unlike"})

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        log_p, base = batch.logits.log_softmax(-1), batch.base.logits.log_softmax(-1)
        return {
            "confidence": batch.token_mean((log_p.exp() * log_p).sum(-1)),
            "unlike": batch.token_mean((log_p - base).square().sum(-1)),
        }


def test_a_new_term_is_one_class(make_model: Callable[[], Any], prompts: list[Prompt], tmp_path: Path) -> None:
    """Trained with, logged, kept, scaled and refused as the terms of ivlens, which know nothing of it."""
    finals = {}
    for weight in (0.0, 1.0):
        config = TrainingConfig(
            Guidance((Confidence(weight), L2ToBase(10.0))), steps=20, learning_rate=3e-3, batch_size=4, warmup=0
        )
        model = make_model()
        run = fine_tune(model, prompts, config, out=tmp_path / str(weight))
        assert {"confidence", "unlike"} <= {*run.columns}
        assert run.to_frame()["unlike"].iloc[0] == pytest.approx(0, abs=1e-6)
        loss = run.to_frame()[["supervised", "confidence"]] @ [1.0, weight]
        assert run.to_frame()["loss"].tolist() == pytest.approx(loss.tolist())
        assert run.provenance["settings"]["training"]["guidance"]["Confidence"] == {"weight": weight, "unlike": 0.0}
        finals[weight] = run.to_frame()["confidence"].iloc[-1]
    assert finals[1.0] < finals[0.0]
    changed = replace(config, guidance=Guidance((Confidence(0.5), L2ToBase(10.0))))
    with pytest.raises(MismatchError, match=r"guidance\.Confidence\.weight 1\.0 against 0\.5"):
        fine_tune(make_model(), prompts, changed, out=tmp_path / "1.0")
    assert Guidance((Confidence(0.5),)).scaled(2.0).terms == (Confidence(1.0),)
    with pytest.raises(ArgumentError, match="weight"):
        Confidence(-1.0)


def test_a_loss_without_a_weight_is_named(make_model: Callable[[], Any], prompts: list[Prompt]) -> None:
    class Undeclared(Confidence):
        def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
            return super().losses(batch) | {"forgotten": batch.logits.mean()}

    with pytest.raises(ArgumentError, match=r"a weight.*got forgotten"):
        fine_tune(make_model(), prompts, TrainingConfig(Guidance((Undeclared(),)), steps=1))


def test_two_terms_that_add_the_vector_at_one_site_are_refused(
    make_model: Callable[[], Any], prompts: list[Prompt], vector: Any
) -> None:
    class Another(ProgressiveVector):
        pass

    guidance = Guidance((ProgressiveVector(), Another()))
    with pytest.raises(ArgumentError, match="one term that adds the vector at a site"):
        fine_tune(make_model(), prompts, TrainingConfig(guidance, steps=1), vector=vector)
