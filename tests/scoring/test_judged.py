"""Everything that judges answers judges each prompt as it asks to be, generated answers among them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens import ArgumentError, GenerationScoring, Prompt, PromptError, UnsupportedError
from ivlens.checkpoints.measure import kept_measure
from ivlens.checkpoints.sources import CheckpointSource, CheckpointUnderTest
from ivlens.records import Evaluation
from ivlens.scoring import check_answers
from ivlens.scoring.text_scores import f1_of_words
from ivlens.tasks import is_lasting
from ivlens.training import measure

FREE = GenerationScoring(max_tokens=6, stop=(), parse="text", score="f1", threshold=0.2)
TEXTS = ["the capital", "the quick brown fox jumps over the lazy dog", "Q: 1 + 2 =", "fox of"]


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def model(request: pytest.FixtureRequest, tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    source = tiny_hf("llama").double()
    return iv.load_model(source, tokenizer=tiny_tokenizer(), dtype=torch.float64, engine=request.param)


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[Prompt]:
    """Two whose answers are generated, of which the model gets one right, between two judged by greedy decoding."""
    plain = [Prompt(text, " fox") for text in TEXTS]
    said = iv.generate_answers(model, plain, max_tokens=6, stop=())
    one = replace(plain[1], answers=(" Paris is", said[1]), scoring=FREE, task="a")
    other = replace(plain[2], answers=(" Paris",), scoring=FREE, task="a")
    return [plain[0], one, other, plain[3]]


@pytest.fixture(scope="module")
def vector(model: Any) -> Any:
    values = 3 * torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return iv.InstructionVector(values, values.new_zeros(0, 32), (), "random")


def test_prompts_of_several_kinds_are_judged_together_as_apart(model: Any, prompts: list[Prompt]) -> None:
    found = iv.evaluate(model, prompts)
    as_plain = iv.evaluate(model, [replace(each, scoring=None, answers=each.answers[:1]) for each in prompts])
    assert found.probabilities.equal(as_plain.probabilities)
    assert found.correct[[0, 3]].equal(as_plain.correct[[0, 3]])
    said = iv.generate_answers(model, prompts, max_tokens=6, stop=())
    assert found.texts == ("", said[1], said[2], "")
    assert found.scores is not None
    assert found.scores[1] == 1
    assert found.scores[2] == f1_of_words(said[2].strip(), "Paris")
    assert found.correct[1:3].tolist() == [True, bool(found.scores[2] >= 0.2)]
    assert found.score == found.scores.mean().item()
    low, high = found.score_interval()
    assert 0 <= low <= found.score <= high <= 1
    assert found.to_frame()["text"].tolist() == [*found.texts]


def test_the_record_loads_again_and_one_from_before_has_its_correctness(
    model: Any, prompts: list[Prompt], tmp_path: Path
) -> None:
    found = iv.evaluate(model, prompts)
    again = Evaluation.load(found.save(tmp_path / "answers.safetensors"))
    assert again.texts == found.texts
    assert again.scores is not None
    assert found.scores is not None
    assert again.scores.equal(found.scores)
    old = Evaluation(*(torch.ones(2),) * 3, torch.tensor([True, False]))
    assert old.scores is not None
    assert old.scores.tolist() == [1, 0]
    assert old.score == old.accuracy


def test_p_of_an_answer_that_does_not_fit_is_0(model: Any, prompts: list[Prompt]) -> None:
    long = replace(prompts[1], answers=(" the fox" * 100,))
    found = iv.evaluate(model, [long, prompts[0]])
    assert found.probabilities[0] == 0
    assert found.probabilities[1] == iv.evaluate(model, prompts[:1]).probabilities[0]
    assert found.texts[0]


def test_what_cannot_be_judged_is_told_before_anything_is_generated(
    model: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ivlens.scoring.generation.decode", None)
    rouge = replace(prompts[1], scoring=replace(FREE, score="rouge-l"))
    monkeypatch.setattr("ivlens.scoring.text_scores.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'ivlens\[text\]'"):
        iv.evaluate(model, [prompts[1], rouge])
    with pytest.raises(UnsupportedError, match=r"pip install 'ivlens\[text\]'"):
        iv.steering_sweep(model, vector_like(model), [rouge], [0], [1.0])
    long = replace(prompts[1], scoring=replace(FREE, max_tokens=125), input="long")
    for check in (iv.evaluate, check_answers):
        with pytest.raises(PromptError, match="room for 125 generated tokens in the model's context of 128; got one"):
            check(model, [prompts[1], long])


def vector_like(model: Any) -> Any:
    return iv.InstructionVector(torch.ones(32).double(), torch.zeros(0, 32).double(), (), "ones")


def test_functions_of_the_users_judge(model: Any, prompts: list[Prompt]) -> None:
    seen: list[tuple[str, Sequence[str]]] = []

    def score(text: str, answers: Sequence[str]) -> float:
        seen.append((text, answers))
        return 0.5

    own = GenerationScoring(max_tokens=4, stop=(), parse=lambda text: text.upper() or "NOTHING", score=score)
    found = iv.evaluate(model, [replace(each, scoring=own) for each in prompts])
    assert found.correct.all()
    assert found.score == 0.5
    said = iv.generate_answers(model, prompts, max_tokens=4, stop=())
    assert [text for text, _ in seen] == [text.upper() for text in said]
    assert seen[1][1] == prompts[1].answers
    with pytest.raises(ArgumentError, match="score to give a number from 0 to 1"):
        iv.evaluate(model, replace(prompts[0], scoring=replace(own, score=lambda text, answers: 2.0)))


def test_a_sweep_judges_as_steering_each_setting_does(model: Any, prompts: list[Prompt], vector: Any) -> None:
    layers, scales = [1, 0], [1.0, -2.0]
    sweep = iv.steering_sweep(model, vector, prompts, layers, scales)
    for i, layer in enumerate(layers):
        for s, scale in enumerate(scales):
            with iv.steer(model, vector, layer, scale):
                found = iv.evaluate(model, prompts)
            assert sweep.correct[i, s, 0].equal(found.correct)
            torch.testing.assert_close(sweep.probabilities[i, s, 0], found.probabilities)
    compared = iv.compare_conditions(
        model, {"plain": (prompts, None), "ablated": (prompts, iv.ablate(model, [(0, 0)]))}
    )
    assert compared.correct[0].equal(iv.evaluate(model, prompts).correct)
    assert not sweep.correct[..., 1].all()


def test_a_task_hands_its_scoring_to_its_prompts() -> None:
    task = iv.Task("t", [(f"{n}", f"{n + 1}") for n in range(8)], ("Next.",), scoring=FREE)
    assert {prompt.scoring for prompt in task.prompts(3, shots=1)} == {FREE}


def test_abilities_of_a_training_run_are_judged_alike(model: Any, prompts: list[Prompt]) -> None:
    if isinstance(model, iv.Bridge):
        pytest.skip("only a HookedTransformer is trained")
    row = measure(model, iv.Ability("a", tuple(prompts)))
    found = iv.evaluate(model, prompts)
    assert row["correct"] == "".join(str(int(each)) for each in found.correct)
    assert row["accuracy"] == found.accuracy


N_WORDS = 1


def first_words(text: str) -> str:
    return " ".join(text.split()[:N_WORDS])


def first_word(text: str) -> str:
    return text.split()[0] if text.split() else ""


def test_what_is_kept_is_found_again_by_a_functions_source_and_never_by_its_address(
    tiny_hooked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CheckpointSource("c", "somewhere")
    checkpoint = CheckpointUnderTest(source, {}, tmp_path / "facts", tiny_hooked(), {"device": "cpu"})
    monkeypatch.setattr("ivlens.checkpoints.measure.identity_of", dict)
    calls: list[str] = []

    def measured(parse: Any) -> int:
        judged = [Prompt("a", " b", scoring=replace(FREE, parse=parse))]

        def compute(model: Any) -> Evaluation:
            calls.append("")
            return Evaluation(*(torch.ones(1),) * 3, torch.tensor([True]))

        before = len(calls)
        kept_measure(tmp_path, "answers", Evaluation, checkpoint, None, compute, judged)
        return len(calls) - before

    assert [measured(first_word), measured(first_word)] == [1, 0]
    assert [measured("text"), measured("text")] == [1, 0]
    files = {*tmp_path.iterdir()}

    def closed_over(n: int) -> Any:
        return lambda text: text[:n]

    for odd in (closed_over(1), str.strip, lambda text: text, first_words):
        assert [measured(odd), measured(odd)] == [1, 1]
    assert {*tmp_path.iterdir()} == files
    assert is_lasting([Prompt("a", " b"), Prompt("a", " b", scoring=replace(FREE, parse=first_word))])


def test_reprs_tell_functions_apart_and_are_as_before_without_one() -> None:
    assert repr(Prompt("a", " b")).endswith("labels_changed=None)")
    one, other = (replace(FREE, parse=lambda text, n=n: text[n:]) for n in (1, 2))
    assert repr(one) != repr(other)
    assert repr(one) == repr(one)
    assert "0x" not in repr(one)
    assert "test_judged.first_word " in repr(replace(FREE, parse=first_word))


def test_levels_that_draws_of_graded_scores_do_not_have_are_refused(model: Any, prompts: list[Prompt]) -> None:
    found = iv.evaluate(model, prompts)
    graded = replace(found, scores=torch.linspace(0.1, 0.9, found.n))
    assert len(graded.score_interval(0.99)) == 2
    with pytest.raises(iv.ArgumentError, match=r"level up to 0.99 of graded scores; got 0.999"):
        graded.score_interval(0.999)
    right = replace(found, scores=torch.ones(found.n))
    assert right.score_interval(0.999)[1] == 1
