"""Further evidence on what was forgotten: by hand, against plain Hugging Face and numpy, and on planted changes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ivlens
from ivlens import Prompt, Task
from ivlens.checkpoints import CheckpointConfig, VerdictRule, compare_checkpoints, rejudge
from ivlens.checkpoints.divergence import bundled_text, kl_divergence, log_probabilities, text_log_probabilities
from ivlens.checkpoints.evidence import count_columns, subtraction_columns, token_columns
from ivlens.checkpoints.further import FurtherMeasures, _subtract
from ivlens.checkpoints.measure import AgainstNewTask, SteeringPoint
from ivlens.checkpoints.prompts import draw_prompts
from ivlens.checkpoints.rejudging import rule_of
from ivlens.checkpoints.replies import LONGEST, greedy_replies, spillover
from ivlens.checkpoints.sources import CheckpointSource, CheckpointUnderTest
from ivlens.checkpoints.spectrum import matrix_change, weight_spectrum
from ivlens.errors import ArgumentError, RecordError
from ivlens.models import as_matrix, attention_weights, mlp_weights
from ivlens.records import CheckpointComparison, ConditionComparison, Evaluation
from ivlens.records.checkpoints import LATER_COLUMNS
from ivlens.stats import lucky_changes, mcnemar
from ivlens.tensor_files import load_tensors
from ivlens.views.checkpoints.words import rule_threshold
from ivlens.vocabulary import Condition
from tiny_models import WORDS

SAVED = Path(__file__).parents[2] / "figures" / "diagnosis" / "records" / "plain.safetensors"
CONFIG = CheckpointConfig(
    n_clean=6, groups=3, n_corrupted=2, k=4, shots=1, n_test=4, n_validation=2, layers=(1,), scales=(1.0, 2.0),
    random_seeds=(0, 1), general=False, rule=VerdictRule(known=0.0),
)  # fmt: skip


def shifted(by: int) -> Task:
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return Task(f"shift-{by}", tuple(pairs), ("the quick fox jumps",), ("Q", "A"), "{input} before")


def evaluation(correct: list[int], whole: list[float] | None = None, first: list[float] | None = None) -> Evaluation:
    probabilities = torch.tensor(whole or [0.5] * len(correct), dtype=torch.float64)
    begun = probabilities if first is None else torch.tensor(first, dtype=torch.float64)
    return Evaluation(probabilities, probabilities, begun, torch.tensor(correct, dtype=torch.bool))


@pytest.fixture(scope="module")
def pair(tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """A base and a checkpoint as Hugging Face has them."""
    return tiny_hf("llama"), tiny_hf("llama", seed=1)


@pytest.fixture(scope="module")
def hooked(pair: tuple[Any, Any], tiny_tokenizer: Any) -> tuple[Any, Any]:
    base, tuned = (ivlens.load_model(each, tokenizer=tiny_tokenizer()) for each in pair)
    return base, tuned


@pytest.fixture(scope="module")
def compared(hooked: tuple[Any, Any], tmp_path_factory: Any) -> CheckpointComparison:
    tasks = [shifted(1), shifted(2), shifted(3)]
    out = tmp_path_factory.mktemp("out")
    return compare_checkpoints(hooked[0], {"tuned": hooked[1]}, tasks, CONFIG, out=out, learned=["shift-2"])


def row(comparison: CheckpointComparison, checkpoint: str, task: str) -> Any:
    frame = comparison.to_frame()
    return frame[(frame["checkpoint"] == checkpoint) & (frame["task"] == task)].iloc[0]


def test_wrong_answers_are_the_new_tasks_or_copies_of_the_input() -> None:
    wrong = torch.tensor([True, True, True, True, True, False])
    replies = ["Anna", "a", "a.", "another", "", "b"]
    new = [["x"], ["a"], ["a"], ["a"], ["a"], ["b"]]
    found = spillover(wrong, replies, new, ["Anna", "Ben", "Cleo", "Dora", "Eve", "b"])
    assert found.share.value == pytest.approx(3 / 5)  # a copy and two of the new task; "another" is not "a"
    assert (found.share.low, found.share.high) == pytest.approx(ivlens.stats.wilson_interval(3, 5))
    assert found.copied == pytest.approx(1 / 5)
    nothing = spillover(~wrong, [*replies[:5], "c"], new, ["x"] * 6)
    assert (nothing.share.value, nothing.copied) == (0, 0)
    assert math.isnan(spillover(torch.zeros(6, dtype=torch.bool), replies, new, ["x"] * 6).share.value)


def test_greedy_replies_are_those_of_plain_hugging_face(pair: tuple[Any, Any], hooked: tuple[Any, Any]) -> None:
    prompts = [*shifted(1).prompts(5, shots=1), Prompt("the", " fox")]
    found = greedy_replies(hooked[0], prompts, batch_size=2).texts
    tokenizer = hooked[0].tokenizer
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt.token_ids(tokenizer)])
        whole = pair[0].generate(ids, max_new_tokens=LONGEST, do_sample=False, pad_token_id=1)[0].tolist()
        made = whole[ids.shape[1] :]
        end = next((at for at, token in enumerate(made) if token in tokenizer.all_special_ids), len(made))
        assert text == tokenizer.decode(made[:end]).strip().partition("\n")[0].strip()


def test_prompts_are_counted_one_by_one() -> None:
    base, own = evaluation([1, 1, 1, 1, 0, 0, 0, 1]), evaluation([1, 0, 0, 0, 1, 0, 0, 1])
    found = count_columns(own, base, None)
    assert (found["lost"], found["won"]) == (3, 1)
    assert found["mcnemar"] == pytest.approx(2 * (1 + 4) / 16)
    assert math.isnan(found["lost_adjusted"])
    adjusted = count_columns(own, base, 3)
    luck = (1 - 5 / 8) * (1 - 3 / 8) / 2
    assert adjusted["lost_adjusted"] == pytest.approx(3 / 8 - luck)
    assert adjusted["won_adjusted"] == pytest.approx(1 / 8 - luck)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    from scipy.stats import binomtest

    for lost, won in ((0, 0), (5, 0), (3, 7), (12, 4), (40, 60)):
        expected = binomtest(min(lost, won), lost + won).pvalue if lost + won else 1.0
        assert mcnemar(lost, won) == pytest.approx(expected)


def test_guesses_alone_lose_as_many_as_they_win() -> None:
    drawn = np.random.default_rng(0)
    before, now = (drawn.random(200_000) < each for each in (1 / 3, 1 / 3))
    expected = (before & ~now).mean()
    assert lucky_changes(before.mean(), now.mean(), 3) == pytest.approx(expected, abs=5e-3)
    assert lucky_changes(1.0, 0.4, 3) == 0  # nothing was guessed


def test_the_change_of_the_first_token_and_of_the_rest() -> None:
    base = evaluation([1, 1, 1], whole=[0.4, 0.2, 0.9], first=[0.5, 0.4, 0.9])
    own = evaluation([1, 1, 1], whole=[0.08, 0.02, 0.3], first=[0.1, 0.1, 0.3])
    found = token_columns(own, base)
    assert found["first_token_change"] == pytest.approx(np.log([0.1 / 0.5, 0.1 / 0.4, 0.3 / 0.9]).mean())
    rest = np.log([(0.08 / 0.1) / (0.4 / 0.5), (0.02 / 0.1) / (0.2 / 0.4)])  # the third answer is one token
    assert found["rest_change"] == pytest.approx(rest.mean())
    assert math.isnan(token_columns(evaluation([1]), evaluation([1]))["rest_change"])
    assert token_columns(evaluation([1], [0.0]), evaluation([1], [0.5]))["first_token_change"] < -500  # still finite


def test_kl_by_hand_and_against_itself() -> None:
    base, own = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(base.log(), own.log()).tolist() == pytest.approx([by_hand, 0], abs=1e-7)
    wider = torch.cat([own.log(), torch.zeros(2, 1)], 1)  # a token that only one of them has is left out
    assert kl_divergence(base.log(), wider).tolist() == pytest.approx([by_hand, 0], abs=1e-7)


def test_kl_on_prompts_and_the_text_is_that_of_plain_hugging_face(
    pair: tuple[Any, Any], hooked: tuple[Any, Any], compared: CheckpointComparison
) -> None:
    tokenizer, found = hooked[0].tokenizer, row(compared, "tuned", "shift-1")
    each = []
    for prompt in shifted(2).prompts(4, shots=1, split="test"):
        ids, answer = prompt.encode(tokenizer)
        with torch.no_grad():
            logs = [model(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1) for model in pair]
        one, two = (log[len(ids) - 1 : -1] for log in logs)
        each.append((one.exp() * (one - two)).sum(-1))
    assert found["kl_new"] == pytest.approx(torch.cat(each).mean().item(), rel=1e-4)
    assert row(compared, "tuned", "shift-3")["kl_new"] == found["kl_new"]
    ids = torch.tensor([tokenizer(bundled_text())["input_ids"][:128]])
    with torch.no_grad():
        one, two = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in pair)
    at = torch.linspace(0, 126, 64).long()
    assert found["kl_text"] == pytest.approx((one.exp() * (one - two)).sum(-1)[at].mean().item(), rel=1e-4)
    assert len(bundled_text().split()) > 250
    same = kl_divergence(text_log_probabilities(hooked[0]), text_log_probabilities(hooked[0]))
    assert same.abs().max() == 0


def test_the_spectrum_is_that_of_a_float64_decomposition(pair: tuple[Any, Any], compared: CheckpointComparison) -> None:
    names = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "o_proj", "mlp.W_in": "up_proj",
             "mlp.W_gate": "gate_proj", "mlp.W_out": "down_proj"}  # fmt: skip
    frame = compared.spectrum_frame()
    assert len(frame) == 2 * 7
    squares = []
    for _, found in frame.iterrows():
        before, now = (
            dict(model.named_parameters())[
                f"model.layers.{found['layer']}.{'self_attn' if found['matrix'][0] == 'W' else 'mlp'}."
                f"{names[found['matrix']]}.weight"
            ].detach().double().numpy()
            for model in pair
        )  # fmt: skip
        values = np.linalg.svd(now - before, compute_uv=False) ** 2
        assert found["change"] == pytest.approx(math.sqrt(values.sum()) / np.linalg.norm(before), rel=1e-5)
        assert found["stable_rank"] == pytest.approx(values.sum() / values[0], rel=1e-5)
        assert found["rank90"] == np.searchsorted(values.cumsum(), 0.9 * values.sum()) + 1
        squares.append((values.sum(), np.linalg.norm(before) ** 2))
    now, before = np.array(squares).sum(0)
    assert row(compared, "tuned", "shift-1")["weight_distance"] == pytest.approx(math.sqrt(now / before), rel=1e-5)


def test_a_planted_rank_is_found() -> None:
    made = torch.Generator().manual_seed(0)
    base = torch.randn(12, 20, generator=made)
    one, two = (torch.linalg.qr(torch.randn(size, 3, generator=made)).Q for size in (12, 20))
    rank_one = matrix_change(base, base + 5 * torch.outer(one[:, 0], two[:, 0]))
    assert rank_one.change == pytest.approx(5 / base.norm().item(), rel=1e-5)
    assert (rank_one.stable_rank, rank_one.rank90) == (pytest.approx(1, abs=1e-4), 1)
    equal = matrix_change(base, base + 5 * one @ two.T)
    assert (equal.stable_rank, equal.rank90) == (pytest.approx(3, abs=1e-3), 3)
    same = matrix_change(base, base)
    assert (same.change, same.rank90) == (0, 0)
    assert math.isnan(same.stable_rank)


def test_every_matrix_of_a_block_is_measured_on_either_engine(pair: tuple[Any, Any], tiny_tokenizer: Any) -> None:
    for engine in ("hooked", "bridge"):
        model = ivlens.load_model(pair[0], tokenizer=tiny_tokenizer(), engine=engine)
        weights = attention_weights(model, 0) | mlp_weights(model, 0)
        sizes = sorted(as_matrix(name, each).numel() for name, each in weights.items())
        own = [each for name, each in pair[0].named_parameters() if ".layers.0." in name and each.ndim == 2]
        assert sizes == sorted(each.numel() for each in own)


def test_a_damaged_file_of_the_bases_matrices_is_written_again(
    hooked: tuple[Any, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    measures = FurtherMeasures(tmp_path, CONFIG)
    base = CheckpointUnderTest(CheckpointSource("base", hooked[0]), {}, tmp_path)
    measures.keep_mlps(base)
    path = measures.mlp_file(base.facts)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RecordError, match="damaged"):
        weight_spectrum(hooked[1], [path])
    measures.keep_mlps(base)
    kept = load_tensors(path)[0]
    own = {f"{layer}.{name}": each for layer in (0, 1) for name, each in mlp_weights(hooked[0], layer).items()}
    assert {*kept} == {*own}
    assert all(torch.equal(kept[name], each) for name, each in own.items())
    assert "written again" in str(recwarn.pop(UserWarning).message)


def test_subtracting_what_was_planted_restores_the_base(tiny_hooked: Any) -> None:
    """The checkpoint adds a vector to the stream between its two blocks; only the last token's matters there."""
    base, tuned = tiny_hooked("llama"), tiny_hooked("llama")
    planted = 3 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    for model in (base, tuned):
        model.blocks[1].attn.W_O.data.zero_()
    tuned.blocks[0].mlp.b_out.data += planted
    prompts = draw_prompts(shifted(1), CONFIG, None)
    given = [[replace(each, answers=(f" {word}",)) for each in prompts.test] for word in WORDS]
    likely = torch.stack([ivlens.evaluate(base, each).probabilities for each in given])
    words = [WORDS[int(at)] for at in likely.argmax(0)]
    asked = [replace(each, answers=(f" {word}",)) for each, word in zip(prompts.test, words, strict=True)]
    vector = ivlens.InstructionVector(planted, planted.new_zeros(0, 32), (), "new")
    found = _subtract(tuned, replace(prompts, test=asked), vector, "new", SteeringPoint(1, -1.0), (0,))
    assert found.conditions == ("clean", "minus vector of new", "minus random vector 0")
    whole = ivlens.evaluate(base, asked).probabilities
    assert found.probabilities[1].tolist() == pytest.approx(whole.tolist(), rel=1e-3)
    for other in (0, 2):
        assert not torch.allclose(found.probabilities[other], whole, rtol=0.1)


def test_what_subtracting_brings_back_by_hand() -> None:
    names = (Condition.CLEAN.value, Condition.MINUS_VECTOR.of("new"), *map(Condition.MINUS_RANDOM.of, (0, 1)))
    correct = torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    likely = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2], [0, 0, 0, 0], [0, 0, 0, 0]]).double()
    measured = ConditionComparison(correct, likely, names)
    against = AgainstNewTask([()] * 4, measured, SteeringPoint(3, -2.0))
    found = subtraction_columns(against, evaluation([1, 1, 1, 1], whole=[0.4, 0.8, 0.4, 0.8]))
    assert (found["subtracted"], found["subtracted_random"]) == (0.75, 0.125)
    assert found["subtracted_gain"] == 0.5
    assert found["subtracted_gain_low"] < 0.5 < found["subtracted_gain_high"]
    assert found["subtracted_fraction"] == pytest.approx(2 / 3)
    assert found["subtracted_fraction_p"] == pytest.approx(0.1 / 0.5)
    assert (found["subtracted_layer"], found["subtracted_scale"]) == (3, 2)
    assert all(math.isnan(value) for value in subtraction_columns(None, evaluation([1])).values())


def test_columns_that_need_the_new_task_have_numbers_for_old_tasks_only(compared: CheckpointComparison) -> None:
    assert compared.failures == {}
    for task in ("shift-1", "shift-3"):
        found = row(compared, "tuned", task)
        assert found[["subtracted", "subtracted_random", "spillover", "spillover_base", "kl_new"]].notna().all()
        assert found["subtracted_layer"] == 1
        assert found["subtracted_scale"] in (1, 2)
    new, base = row(compared, "tuned", "shift-2"), row(compared, "base", "shift-1")
    assert new[["subtracted", "spillover"]].isna().all()
    assert base[["subtracted", "spillover", "kl_new", "kl_text", "weight_distance"]].isna().all()
    kinds = compared.evidence_frame()
    assert len(kinds) == 3 * 5
    assert set(kinds[kinds["kind"] == "relearning"]["opinion"]) == {"not measured"}


def test_without_a_learned_task_the_rest_is_measured(hooked: tuple[Any, Any]) -> None:
    found = compare_checkpoints(hooked[0], {"tuned": hooked[1]}, [shifted(1)], CONFIG, learned=["elsewhere"])
    only = row(found, "tuned", "shift-1")
    assert only[["subtracted", "spillover", "kl_new"]].isna().all()
    assert only[["copied", "kl_text", "weight_distance", "probability_fall", "first_token_change"]].notna().all()


def test_the_new_tasks_answers_are_its_examples_or_else_the_checkpoints_replies(
    hooked: tuple[Any, Any], tmp_path: Path
) -> None:
    """Half of the inputs are none of the new task's."""
    new = replace(shifted(2), examples=shifted(2).examples[: len(WORDS) // 2])
    prompts = draw_prompts(shifted(1), CONFIG, None, [new])
    under, known = prompts.under["shift-2"], {each.input: each.answers for each in new.examples}
    assert [*prompts.inputs] == [each.input for each in under.prompts]
    assert under.known == [known.get(each, ()) for each in prompts.inputs]
    assert any(under.known)
    assert not all(under.known)
    checkpoint = CheckpointUnderTest(CheckpointSource("tuned", hooked[1]), {}, tmp_path)
    vector = ivlens.InstructionVector(torch.ones(32), torch.zeros(0, 32), (), "shift-2")
    found = FurtherMeasures(tmp_path, CONFIG).against_new(checkpoint, prompts, vector, "shift-2")
    replied = greedy_replies(hooked[1], under.prompts).texts
    expected = [each or (text,) for each, text in zip(under.known, replied, strict=True)]
    assert found.answers == expected


def test_a_comparison_of_an_earlier_version_loads_and_is_judged_again() -> None:
    old = CheckpointComparison.load(SAVED)
    assert old.evidence == old.spectrum == ()
    assert old.evidence_frame().empty
    assert old.spectrum_frame().empty
    frame = old.to_frame()
    assert frame[list(LATER_COLUMNS)].isna().all().all()
    again = rejudge(old)
    assert again.to_frame()["verdict"].tolist() == frame["verdict"].tolist()
    assert len(again.evidence_frame()) == 5 * (frame["checkpoint"] != "base").sum()
    undecided = again.to_frame().query("verdict == ['not shown to have fallen', 'fallen, recovery undecided']")
    assert undecided["because"].str.contains("prompts would").all()
    strict = rejudge(old, VerdictRule(tolerated=0.0)).to_frame()
    assert (strict["verdict"] == "kept").sum() < (frame["verdict"] == "kept").sum()


def test_a_comparison_that_is_judged_again_says_by_which_rule() -> None:
    old, rule = CheckpointComparison.load(SAVED), VerdictRule(tolerated=0.0)
    assert rule_of(old) == rule_of(rejudge(old)) == VerdictRule()
    assert rule_of(rejudge(old, rule)) == rule_of(rejudge(rejudge(old, rule))) == rule
    for settings in ({}, {"settings": {"comparison": None}}, {"settings": {"rule": {"known": 0.2}}}):
        again = rejudge(replace(old, provenance=settings), rule)
        assert rule_of(again) == rule
        assert rule_threshold(again, "known") == rule.known


def test_a_saved_comparison_is_judged_again_by_what_its_base_knew_and_was_sure_of() -> None:
    """Of the study why_l2: the base's probability of antonym's answers is 0.15, its cloze's of verb-gerund's 0.04."""
    again = rejudge(CheckpointComparison.load(SAVED.parents[2] / "why_l2" / "records" / "comparison-0.safetensors"))
    antonym = row(again, "l2", "antonym")
    assert antonym["probability_fall_high"] < 0.1
    assert antonym["verdict"] == "not shown to have fallen"
    assert "from 15%, too little for it to decide" in antonym["because"]
    kinds = again.evidence_frame().query("checkpoint == 'plain' and kind == 'knowledge'").set_index("task")
    assert kinds["opinion"].to_dict() == {
        "antonym": "undecided", "verb-gerund": "not measured", "country-capital": "not there",
    }  # fmt: skip
    low = rejudge(again, VerdictRule(known=0.1, knew=0.01))
    assert row(low, "l2", "antonym")["verdict"] == "kept"
    assert "not measured" not in set(low.evidence_frame().query("kind == 'knowledge'")["opinion"])


def test_relearning_is_evidence_on_its_task() -> None:
    old = CheckpointComparison.load(SAVED)
    fell = old.to_frame().query("verdict == 'activation drowned, recoverable' or verdict == 'function changed'").iloc[0]
    no, yes = torch.zeros(40, dtype=torch.bool), torch.ones(40, dtype=torch.bool)
    probe = ivlens.Relearning(no, yes, no, no, fell["task"], "another")
    again = rejudge(old, relearned={fell["checkpoint"]: [probe]})
    found = row(again, fell["checkpoint"], fell["task"])
    assert (found["relearned"], found["relearned_gain"], found["anew_gain"]) == (1, 1, 0)
    assert found["relearned_fraction"] == pytest.approx(1 / fell["forgetting"])
    assert found["verdict"] == "activation drowned, recoverable"
    assert "relearning brings back" in found["because"]
    easy = replace(probe, anew_after=yes)  # what is learned anew as fast says nothing
    assert row(rejudge(old, relearned={fell["checkpoint"]: [easy]}), fell["checkpoint"], fell["task"])[
        "relearned_fraction"
    ] == pytest.approx(0)
    assert found["relearned_n"] == 40
    # the error of what was lost is in the interval: more than that of what came back over what was lost
    assert found["relearned_fraction_high"] > probe.gain.high / fell["forgetting"]
    kept = old.to_frame().query("checkpoint != 'base' and forgetting > 0 and forgetting_low < 0").iloc[0]
    of_little = rejudge(old, relearned={kept["checkpoint"]: [replace(probe, task=kept["task"])]})
    assert math.isnan(row(of_little, kept["checkpoint"], kept["task"])["relearned_fraction"])
    with pytest.raises(ArgumentError, match="checkpoint"):
        rejudge(old, relearned={"nobody": [probe]})
    with pytest.raises(ArgumentError, match="task"):
        rejudge(old, relearned={fell["checkpoint"]: [replace(probe, task="none")]})


def test_log_probabilities_are_in_the_order_of_the_prompts(hooked: tuple[Any, Any]) -> None:
    prompts = [Prompt("the quick brown fox jumps over", " the"), Prompt("the", " fox is"), Prompt("of the", " dog")]
    together = log_probabilities(hooked[0], prompts, batch_size=2)
    alone = torch.cat([log_probabilities(hooked[0], [each]) for each in prompts])
    assert torch.allclose(together, alone, atol=1e-5)
