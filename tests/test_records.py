"""Records: what is saved is what is loaded, writing is atomic, and the statistics are the hand-computed ones."""

import json
import math
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ivlens import records
from ivlens.errors import ArgumentError, RecordError
from ivlens.records import (
    Answers,
    CheckpointComparison,
    ConditionComparison,
    Evaluation,
    HeadEffects,
    HeadMap,
    HeadMeans,
    HeadReading,
    HiddenStates,
    MethodAgreement,
    OutputDivergence,
    PartActivations,
    PartEffects,
    PartMeans,
    PatchedParts,
    PositionEffects,
    PositionMeans,
    PositionPartEffects,
    PositionPartMeans,
    RacedEffects,
    Record,
    Relearning,
    Replies,
    Stability,
    SteeredAnswers,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
    UniversalEffects,
    WeightChange,
    WeightSpectrum,
    heads_by_effect,
    spearman,
    standard_error,
    wilson_interval,
    write_atomically,
    write_text,
)
from ivlens.tensor_files import load_tensors, save_tensors
from ivlens.vocabulary import Head
from patchings import patched
from repairs import repaired
from reverted import reverted
from sequences import made_up_sequence

PROVENANCE = {"model": {"source": "tiny", "revision": None}, "settings": {"heads": [[0, 1], [1, 2]]}, "ü": 0.1}


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


NAN = float("nan")
MEANS = HeadMeans(rand(2, 3, 4, dtype=torch.float64), 7, task="a task", provenance=PROVENANCE)
EXAMPLES: dict[str, Record] = {
    "ContinualRun": made_up_sequence(**PROVENANCE),
    "HeadMeans": MEANS,
    "HeadEffects": HeadEffects(rand(5, 2, 3), rand(5), "probability", "exact", provenance=PROVENANCE),
    "HeadEffects with means": HeadEffects(rand(5, 2, 3), rand(5), "log-probability", "loop", "a task", means=MEANS),
    "RacedEffects": RacedEffects(
        rand(5, 2, 3).index_put((torch.tensor([3, 4]), torch.tensor([1, 1]), torch.tensor([2, 2])), torch.tensor(NAN)),
        rand(5), torch.tensor([[5, 5, 5], [5, 5, 3]]), 2, (3, 5), "probability", "exact", means=MEANS,
        provenance=PROVENANCE,
    ),
    "UniversalEffects": UniversalEffects(rand(2, 3), rand(2, 3), "probability", ("one", "two"), 12),
    "Evaluation": Evaluation(
        rand(3), rand(3), rand(3), rand(3) > 0.5, ("a", "b", "ünï\n"), ("x", "y", "z"), provenance=PROVENANCE
    ),
    "SteeredAnswers": SteeredAnswers(("a", "b"), ("x", ""), (("y", "ü"), ("z", "")), 3, (1.0, 2.0), "a task"),
    "SteeringSweep": SteeringSweep(rand(2, 3, 1, 4) > 0.5, rand(2, 3, 1, 4), (4, 9), (0.5, 1.0, 2.0), (20,), "a task"),
    "ConditionComparison": ConditionComparison(rand(2, 5) > 0.5, rand(2, 5), ("bare", "bare + vector"), "a task"),
    "TransferMatrix": TransferMatrix(rand(2, 2), rand(2, 2), rand(2, 2, 5) > 0.5, rand(2, 5) > 0.5, ("one", "two")),
    "Stability": Stability(rand(2, 3), 0.5, 3, 7, 100, "a task"),
    "TrainingRun": TrainingRun(
        rand(4, 2, dtype=torch.float64), ("loss", "seconds"), ({"step": 4, "ability": "a", "accuracy": 0.5},), "why"
    ),
    "HeadReading": HeadReading(
        HeadEffects(rand(5, 2, 3), rand(5), "probability", "exact", means=MEANS), rand(3, 2, 4), rand(3, 2, 8),
        rand(3, 8), (Head(0, 1), Head(1, 2)), provenance=PROVENANCE,
    ),
    "PositionMeans": PositionMeans(rand(2, 2, 3, 4), 7, ("query input", "last"), "role", "a task"),
    "PositionEffects": PositionEffects(
        rand(5, 2, 3, 2), rand(5), "log-probability", "attribution", ("query input", "last"), "a task"
    ),
    "PartMeans": PartMeans(rand(2, 3, 4), rand(2, 8), rand(2, 8), None, 7, "a task", provenance=PROVENANCE),
    "PartEffects": PartEffects(
        rand(5, 2, 3), None, rand(5, 2), None, rand(5), "probability", "loop", "a task",
        PartMeans(rand(2, 3, 4), None, rand(2, 8), None, 7),
    ),
    "PositionPartMeans": PositionPartMeans(
        rand(2, 2, 3, 4), None, rand(2, 2, 8), rand(2, 2, 8), 7, ("query input", "last"), "role", "a task"
    ),
    "PositionPartEffects": PositionPartEffects(
        rand(5, 2, 3, 2), rand(5, 2, 2), None, None, rand(5), "log-probability", "attribution", ("query input", "last")
    ),
    "MethodAgreement": MethodAgreement(
        rand(1, 5), rand(1, 5), rand(1), rand(1), ("attribution",), "exact", "probability", 10, "a task"
    ),
    "HiddenStates": HiddenStates(rand(4, 2, 8)),
    "WeightChange": WeightChange(rand(4, 2, 3)),
    "PartActivations": PartActivations(rand(4, 2, 3, 4), rand(4, 2, 3, 8), *(rand(4, 2, 8) for _ in range(3))),
    "PatchedParts": PatchedParts(rand(4), rand(4, 2, 3), rand(4, 2, 3), *(rand(4, 2) for _ in range(3))),
    "CheckpointPatching": patched(),
    "Replies": Replies(("Paris", "", "ünï")),
    "OutputDivergence": OutputDivergence(rand(5, dtype=torch.float64)),
    "WeightSpectrum": WeightSpectrum(rand(2), rand(2), rand(2), rand(2), rand(2), ("0.W_Q", "0.mlp.W_in")),
    "Relearning": Relearning(rand(3) > 0.5, rand(3) > 0.5, rand(2) > 0.5, rand(2) > 0.5, "a task", "another"),
    "Answers": Answers(-rand(3), rand(3) > 0.5),
    "Repair": repaired(trials=()),
    "WeightReverts": reverted(),
    "CheckpointComparison": CheckpointComparison(
        ({"checkpoint": "base", "task": "t", "accuracy": 1.0, "heads_gained": [[0, 1]]},),
        ({"checkpoint": "base", "task": "t", "condition": "bare"},),
        rand(2, 1, 2, 3), rand(2, 1, 2, 3), rand(2, 4, 2, 3), rand(2, 1, 2), rand(2, 1, 2), rand(2, 1, 2),
        rand(2, 1, 2), rand(2, 1, 2), ("base", "tuned"), ("t",), ((Head(0, 1), Head(1, 2)),), "probability", ("t",),
        {"bad": "SourceError: none"}, ({"checkpoint": "tuned", "task": "t", "kind": "knowledge"},),
        ({"checkpoint": "tuned", "layer": 0, "matrix": "W_Q", "change": 0.5},), provenance=PROVENANCE,
    ),
}  # fmt: skip


def effects(values: list[list[list[float]]]) -> HeadEffects:
    tensor = torch.tensor(values)
    return HeadEffects(tensor, torch.zeros(len(tensor)), "probability", "exact")


def zeroed(values: torch.Tensor) -> torch.Tensor:
    """The values, 0 where they are not a number, which equals nothing."""
    return values.where(~values.isnan(), 0)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Record):
        return type(one) is type(two) and all(same(getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == two.dtype and torch.equal(one.isnan(), two.isnan()) and torch.equal(*map(zeroed, (one, two)))
        )
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("record", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_saved_is_what_is_loaded(record: Record, tmp_path: Path) -> None:
    assert same(type(record).load(record.save(tmp_path / "record.safetensors")), record)


@pytest.mark.parametrize(("earlier", "now"), [
    ("bare + IV", "bare + vector"), ("random vector 0", "bare + random vector 0"),
    ("random heads 12", "bare + random heads 12"), ("IV of antonym", "bare + vector of antonym"),
    ("minus IV of antonym", "minus vector of antonym"), ("mean difference", "bare + mean difference"),
    ("clean + IV", "clean + vector"), ("bare + base's vector", "bare + base's vector"), ("IV official", "IV official"),
])  # fmt: skip
def test_conditions_of_earlier_files_have_the_names_of_today(earlier: str, now: str, tmp_path: Path) -> None:
    """A file of today keeps whatever name its conditions were given."""
    compared = ConditionComparison(rand(1, 5) > 0.5, rand(1, 5), (earlier,), "a task")
    checkpoints = replace(EXAMPLES["CheckpointComparison"], recovery=({"task": "t", "condition": earlier},))
    for record in (compared, checkpoints):
        path = record.save(tmp_path / type(record).__name__)
        assert same(type(record).load(path), record)
        tensors, facts = load_tensors(path)
        del facts["format"]
        save_tensors(path, tensors, facts)
        again = type(record).load(path)
        names = again.conditions if record is compared else [row["condition"] for row in again.recovery]
        assert [*names] == [now]


def test_every_record_is_tried() -> None:
    kinds = {each for each in vars(records).values() if isinstance(each, type) and issubclass(each, Record)}
    assert kinds - {Record, HeadMap} == {type(example) for example in EXAMPLES.values()}


def test_tensors_that_are_views_or_shared_are_saved(tmp_path: Path) -> None:
    shared = rand(3, 4)[:2]
    loaded = UniversalEffects.load(UniversalEffects(shared, shared, "probability", ("one",), 1).save(tmp_path / "r"))
    assert torch.equal(loaded.mean, shared)
    assert torch.equal(loaded.error, shared)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match=r"saved HeadMeans at .*none; got no such file; save one with HeadMeans\.save"
    ):
        HeadMeans.load(tmp_path / "none")


def test_a_folder_in_place_of_a_record_names_a_file_in_it(tmp_path: Path) -> None:
    MEANS.save(tmp_path / "means.safetensors")
    with pytest.raises(RecordError, match=r"got a folder; name the file, such as '.*means\.safetensors'"):
        HeadMeans.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = MEANS.save(tmp_path / "record")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordError, match="to be an ivlens record; got an unreadable file"):
        HeadMeans.load(path)


def test_another_kind_of_record_is_refused_by_its_name(tmp_path: Path) -> None:
    path = MEANS.save(tmp_path / "record")
    with pytest.raises(RecordError, match=r"a HeadEffects in .*; got a HeadMeans; load it with its own class"):
        HeadEffects.load(path)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"ivlens": "not json"}])
def test_a_safetensors_file_that_is_not_ours_is_refused(tmp_path: Path, header: dict[str, str] | None) -> None:
    save_file({"values": rand(2, 3, 4)}, tmp_path / "other", metadata=header)
    with pytest.raises(RecordError, match="to be an ivlens record"):
        HeadMeans.load(tmp_path / "other")


@pytest.mark.parametrize("facts", [{"n": 1}, {"n": 1, "task": "", "provenance": {}}])
def test_a_record_that_lacks_a_field_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    header = {"ivlens": json.dumps({"record": "HeadMeans"} | facts)}
    save_file({"other": rand(1)}, tmp_path / "record", metadata=header)
    with pytest.raises(RecordError, match=r"the fields of a HeadMeans in .*record; got .*missing or odd"):
        HeadMeans.load(tmp_path / "record")


@pytest.mark.parametrize("before", [None, b"the old file"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "record"
    if before:
        path.write_bytes(before)

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half of the new one")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, fail)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before] * (before is not None)


def test_an_old_record_is_replaced_whole(tmp_path: Path) -> None:
    path = replace(MEANS, values=rand(10, 100, 100)).save(tmp_path / "record")
    MEANS.save(path)
    assert same(HeadMeans.load(path), MEANS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("there", "text"),
    [
        (b"years of work", "a file that is no readable record"),
        (EXAMPLES["Stability"], "a Stability"),
        (replace(MEANS, provenance={"model": {"weights_sha256": "b" * 64}}), "one of other weights .bbbbbbbbbbbb"),
    ],
)
def test_what_is_no_such_record_is_replaced_only_when_asked(tmp_path: Path, there: Any, text: str) -> None:
    path, mine = tmp_path / "record", replace(MEANS, provenance={"model": {"weights_sha256": "a" * 64}})
    path.write_bytes(there) if isinstance(there, bytes) else there.save(path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=f"got {text}.*overwrite=True"):
        mine.save(path)
    assert path.read_bytes() == before
    assert same(HeadMeans.load(mine.save(path, overwrite=True)), mine)


def test_provenance_that_is_no_json_stops_the_save_before_it_writes(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="object is not JSON serializable"):
        HeadMeans(rand(1, 1, 1), 1, provenance={"model": object()}).save(tmp_path / "record")
    assert list(tmp_path.iterdir()) == []


def test_fields_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    """Or the record would be lost: the file could not be loaded."""
    there = ConditionComparison(rand(2, 3) > 0.5, rand(2, 3), ("bare", "clean"), "a task")
    path = there.save(tmp_path / "comparison.safetensors")
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"ConditionComparison that loads again.* 1 conditions for an axis"):
        replace(there, conditions=("bare",)).save(path)
    assert path.read_bytes() == before


def test_folders_are_made_and_permissions_are_the_users(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        path = write_text(tmp_path / "new" / "folder" / "text", "½\n")
    finally:
        os.umask(mask)
    assert path.read_text(encoding="utf-8") == "½\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_strongest_heads_come_first_and_ties_in_order() -> None:
    values = torch.tensor([[0.1, 0.3, 0.3], [0.3, -1.0, 0.5]])
    assert heads_by_effect(values) == [(1, 2), (0, 1), (0, 2), (1, 0), (0, 0), (1, 1)]


def test_top_averages_over_prompts() -> None:
    record = effects([[[0.0, 1.0], [0.4, 0.0]], [[0.0, 0.0], [0.8, 0.0]]])
    assert record.top(2) == [(1, 0), (0, 1)]
    assert record.top(4) == [(1, 0), (0, 1), (0, 0), (1, 1)]
    with pytest.raises(ArgumentError, match="k to be at most 4, the number of heads; got 99"):
        record.top(99)


@pytest.mark.parametrize("k", [0, -1])
def test_top_of_nothing_is_refused(k: int) -> None:
    with pytest.raises(ArgumentError, match=f"k to be a whole number of 1 or more; got {k}"):
        effects([[[0.0]]]).top(k)


def test_mean_and_standard_error_are_the_hand_computed_ones() -> None:
    record = effects([[[1.0, 5.0]], [[2.0, 5.0]], [[4.0, 5.0]]])
    assert record.n == 3
    torch.testing.assert_close(record.aie, torch.tensor([[7 / 3, 5.0]]))
    torch.testing.assert_close(record.stderr, torch.tensor([[(7 / 9) ** 0.5, 0.0]]))


def test_one_prompt_has_no_standard_error() -> None:
    assert effects([[[1.0]]]).stderr.isnan().all()
    assert standard_error([1.0]) != standard_error([1.0])


def test_the_interval_of_two_prompts_is_the_hand_computed_one() -> None:
    record = effects([[[0.0]], [[1.0]]])  # a mean of 1/2 with a standard error of 1/2; t of one degree is Cauchy's
    assert [bound.item() for bound in record.interval(0.5)] == pytest.approx([0.0, 1.0])
    assert [bound.item() for bound in record.interval(0.95)] == pytest.approx([0.5 - 6.3531, 0.5 + 6.3531], abs=1e-4)


def test_the_interval_is_about_two_standard_errors_wide() -> None:
    record = HeadEffects(rand(200, 2, 3), rand(200), "probability", "exact")
    low, high = record.interval()
    torch.testing.assert_close(high - low, 2 * 1.96 * record.stderr, rtol=0.1, atol=0)


def test_the_interval_of_a_large_model_fits() -> None:
    low, high = HeadEffects(rand(3, 96, 96), rand(3), "probability", "exact").interval()
    assert low.shape == high.shape == (96, 96)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"metric to be one of 'probability', 'log-probability', .*; got 'accuracy'"
    ):
        HeadEffects(rand(1, 1, 1), rand(1), "accuracy", "exact")


def test_a_head_map_becomes_a_frame_strongest_first() -> None:
    record = effects([[[1.0, 5.0]], [[2.0, 7.0]]])
    frame = record.to_frame()
    assert list(frame.columns) == ["layer", "head", "aie", "stderr", "rank"]
    assert frame.to_numpy().tolist() == [[0, 1, 6.0, 1.0, 1], [0, 0, 1.5, 0.5, 2]]
    universal = UniversalEffects(record.aie, record.stderr, "probability", ("one",), 2)
    assert universal.to_frame().equals(frame)


def test_an_evaluation_gives_means_and_standard_errors() -> None:
    correct = torch.tensor([True, False, True, True])
    record = Evaluation(torch.tensor([0.1, 0.2, 0.3, 0.4]), rand(4), rand(4), correct, tuple("abcd"), tuple("wxyz"))
    assert (record.n, record.accuracy, record.accuracy_stderr) == (4, 0.75, pytest.approx(0.25))
    assert record.probability == pytest.approx(0.25)
    assert record.probability_stderr == pytest.approx((0.05 / 3) ** 0.5 / 2)
    assert record.token_probability == pytest.approx(rand(4).mean().item())
    assert record.first_token_probability == pytest.approx(rand(4).mean().item())
    assert str(record) == "accuracy 0.75 (0.30 to 0.95), P(answer) 0.250 ± 0.065, n = 4"


def test_an_evaluation_knows_accuracy_above_chance() -> None:
    correct = torch.tensor([True, False, True, True])
    record = Evaluation(rand(4), rand(4), rand(4), correct, chance=torch.tensor([0.25, 0.25, 0.5, 0.0]).double())
    assert record.adjusted_accuracy == pytest.approx((0.75 - 0.25) / 0.75)
    expected = [(end - 0.25) / 0.75 for end in record.accuracy_interval(0.9)]
    assert record.adjusted_accuracy_interval(0.9) == pytest.approx(expected)
    assert record.score == 0.75
    graded = Evaluation(rand(4), rand(4), rand(4), correct, scores=torch.tensor([0.5, 0.25, 1.0, 1.0]))
    assert (graded.score, graded.accuracy, graded.adjusted_accuracy) == (0.6875, 0.75, 0.75)


def test_an_evaluation_of_before_options_loads(tmp_path: Path) -> None:
    record = EXAMPLES["Evaluation"]
    tensors, facts = record._pack("")
    added = ("scores", "texts", "chance", "options", "option_log_likelihoods")
    kept = [{name: value for name, value in each.items() if name not in added} for each in (tensors, facts)]
    save_tensors(tmp_path / "old.safetensors", kept[0], {"record": "Evaluation", "format": 2, **kept[1]})
    found = Evaluation.load(tmp_path / "old.safetensors")
    assert found.scores.equal(record.correct.double())
    assert found.chance.tolist() == [0, 0, 0]
    assert found.texts == found.options == found.option_log_likelihoods == ()
    assert found.to_frame()["text"].tolist() == [""] * 3


def test_the_likelihoods_of_options_are_kept(tmp_path: Path) -> None:
    logs = ((-1.25, -0.1), (), (-float("inf"), -3.0, -1e-12))
    record = Evaluation(
        rand(3), rand(3), rand(3), rand(3) > 0.5, tuple("abc"), tuple("xyz"), texts=("x", "", "z"),
        options=(("x", "v"), (), ("u", "v", "z")), option_log_likelihoods=logs,
    )  # fmt: skip
    found = Evaluation.load(record.save(tmp_path / "answers.safetensors"))
    assert (found.option_log_likelihoods, found.options, found.texts) == (logs, record.options, ("x", "", "z"))


def test_an_evaluation_becomes_a_frame_of_prompts() -> None:
    record = EXAMPLES["Evaluation"]
    frame = record.to_frame()
    assert list(frame["prompt"]) == ["a", "b", "ünï\n"]
    assert list(frame["correct"]) == record.correct.tolist()
    assert list(frame["probability"]) == record.probabilities.tolist()


def test_a_sweep_knows_its_best_cell() -> None:
    """Accuracy first, then the mean probability."""
    correct = torch.tensor([[[[1, 0], [1, 1]]], [[[1, 1], [0, 0]]]], dtype=torch.bool)
    probabilities = torch.tensor([[[[0.9, 0.9], [0.3, 0.3]]], [[[0.4, 0.4], [0.9, 0.9]]]])
    record = SteeringSweep(correct, probabilities, (3, 7), (2.0,), (5, 10))
    assert record.best() == (7, 2.0, 5)
    assert record.to_frame()[["layer", "k"]].to_numpy().tolist() == [[3, 5], [3, 10], [7, 5], [7, 10]]
    assert record.to_frame()["accuracy"].tolist() == [0.5, 1, 1, 0]
    assert record.n == 2


def test_a_comparison_has_its_intervals() -> None:
    record = ConditionComparison(torch.ones(1, 30, dtype=torch.bool), torch.ones(1, 30), ("all",))
    row = record.to_frame().iloc[0]
    assert (row["accuracy"], row["high"]) == (1, 1)
    assert row["low"] == pytest.approx(0.8865, abs=1e-4)  # Wilson: 1 / (1 + 1.96^2 / 30)


def test_wilson_interval_is_that_of_the_textbook() -> None:
    assert wilson_interval(4, 10) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert wilson_interval(0, 20)[0] == 0
    with pytest.raises(ArgumentError, match="level to be between 0 and 1"):
        wilson_interval(1, 2, level=95)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MEANS.n = 8


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_effects_that_are_no_numbers_are_never_ranked(odd: float) -> None:
    with pytest.raises(ArgumentError, match=r"effects \[layer, head\] to rank; got 2 of 4 .* the first at \(0, 0\)"):
        heads_by_effect(torch.tensor([[odd, 1.0], [2.0, odd]]))


def test_an_interval_wants_a_level_and_more_than_one_prompt() -> None:
    with pytest.raises(ArgumentError, match="level to be between 0 and 1"):
        effects([[[1.0]], [[2.0]]]).interval(-1)
    lower, upper = effects([[[1.0]]]).interval()
    assert lower.isnan().all()
    assert upper.isnan().all()


def test_effects_at_a_position_are_a_head_map_and_the_frame_has_the_strongest_first() -> None:
    values = torch.tensor([[[[0.0, 1.0], [5.0, 0.0]]], [[[2.0, 1.0], [7.0, 0.0]]]])  # prompt layer head position
    record = PositionEffects(values, torch.zeros(2), "probability", "loop", ("query input", "last"), "a task")
    assert record.top(2) == [(0, 1, "query input"), (0, 0, "query input")]
    assert record.strongest_heads(2) == [(0, 1), (0, 0)]
    for ask, k in ((record.strongest_heads, 3), (record.top, 5)):
        with pytest.raises(ArgumentError, match=f"k to be at most {k - 1}, the number of heads"):
            ask(k)
    last = record.at("last")
    assert (last.aie.tolist(), last.method, last.task) == ([[1.0, 0.0]], "loop", "a task")
    frame = record.to_frame()
    assert list(frame.columns) == ["layer", "head", "position", "by", "aie", "stderr", "rank"]
    assert frame.iloc[0].tolist() == [0, 1, "query input", "role", 6.0, 1.0, 1]
    assert frame["position"].tolist() == ["query input", "query input", "last", "last"]
    with pytest.raises(ArgumentError, match="position to be one of 'query input', 'last'; got 'first'"):
        record.at("first")


def test_effects_that_were_saved_with_places_load_with_positions(tmp_path: Path) -> None:
    record = PositionEffects(torch.rand(2, 1, 2, 1), torch.zeros(2), "probability", "loop", ("last",))
    facts = {"record": "PositionEffects", "metric": "probability", "method": "loop", "task": "", "provenance": {}}
    tensors = {"values": record.values, "baseline": record.baseline}
    path = save_tensors(tmp_path / "earlier.safetensors", tensors, facts | {"places": ["last"]})
    loaded = PositionEffects.load(path)
    assert loaded.positions == ("last",)
    assert torch.equal(loaded.values, record.values)


def test_rank_correlation_shares_ranks_between_equal_values() -> None:
    assert spearman([1, 2, 2, 3], [10, 20, 20, 90]) == pytest.approx(1)
    assert spearman([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
