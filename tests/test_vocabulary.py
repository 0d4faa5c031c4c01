"""Heads compare and print like tuples, plain ones are taken, what a model has not is refused in one wording."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError
from ivlens.checks import checked
from ivlens.records import HeadEffects, Record
from ivlens.tensor_files import load_tensors, save_tensors
from ivlens.vocabulary import (
    Head,
    TokenizedPrompt,
    Verdict,
    all_heads,
    check_count,
    check_heads,
    check_layer,
    check_layers,
)


def test_a_head_is_its_tuple_with_names() -> None:
    head = Head(3, 7)
    assert head == (3, 7)
    assert {head} == {(3, 7)}
    assert (repr(head), f"{head}", json.dumps(head)) == ("(3, 7)", "(3, 7)", "[3, 7]")
    assert (head.layer, head.head) == (3, 7)
    assert pickle.loads(pickle.dumps(head)) == head
    assert torch.arange(40).view(5, 8)[head] == 31
    assert all_heads(2, 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert TokenizedPrompt((1, 2)) == ((1, 2), ())


def test_effects_give_heads_and_take_plain_tuples() -> None:
    effects = HeadEffects(torch.arange(6.0).view(1, 2, 3), torch.zeros(1), "probability", "exact")
    assert all(isinstance(head, Head) for head in effects.top(3))
    assert effects.top(2) == [(1, 2), (1, 1)]
    assert ivlens.head_overlap([[1, 2], (0, 0)], effects.top(2)) == 0.5

    @checked
    def taken(heads: list[Head]) -> Any:
        return heads

    found = taken([[0, 1], torch.tensor([1, 2])])
    assert found == [(0, 1), (1, 2)]
    assert all(isinstance(head, Head) for head in found)
    with pytest.raises(ArgumentError, match=r"heads\[0\] to be \(layer, head\); got \(1, 2, 3\); effects.top\(k\)"):
        taken([(1, 2, 3)])
    with pytest.raises(ArgumentError, match=r"heads\[1\]\[0\] to be a whole number of 0 or more; got -1"):
        taken([(0, 0), (-1, 2)])


def test_a_saved_vector_comes_back_with_heads(tmp_path: Path) -> None:
    vector = ivlens.InstructionVector(torch.ones(4), torch.ones(2, 4), (Head(0, 1), Head(1, 0)), "a task")
    path = vector.save(tmp_path / "vector.safetensors")
    assert load_tensors(path)[1]["heads"] == [[0, 1], [1, 0]]
    back = ivlens.InstructionVector.load(path)
    assert back.heads == vector.heads
    assert all(isinstance(head, Head) for head in back.heads)
    tensors, facts = load_tensors(path)
    save_tensors(path, tensors, facts | {"heads": [[0, 1, 2], [1, 0]]})
    with pytest.raises(ivlens.RecordError, match="heads"):
        ivlens.InstructionVector.load(path)


def test_a_records_repr_is_a_line_whatever_it_holds() -> None:
    effects = HeadEffects(torch.zeros(25, 30, 9), torch.zeros(25), "probability", "exact", "antonym")
    shapes = "values=f32[25,30,9], baseline=f32[25]"
    assert repr(effects) == f"HeadEffects(metric='probability', method='exact', task='antonym', {shapes})"
    kinds = [Record]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert all(kind.__repr__ is Record.__repr__ for kind in kinds if kind.__module__.startswith("ivlens."))
    assert len(repr(HeadEffects(*effects_of(3), "probability", "exact", "t" * 500))) <= 120


def effects_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(n, 2, 3), torch.zeros(n)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_heads((2, 4), []), "heads as (layer, head), one or more; got none"),
        (lambda: check_heads((2, 4), [(0, 0), (2, 0)]), "layers below 2 and heads below 4; got (2, 0)"),
        (lambda: check_layer(2, -1, "the layer"), "the layer to be from 0 to 1; got -1"),
        (lambda: check_layers(2, (0, 2)), "layers from 0 to 1, one or more; got (0, 2)"),
        (lambda: check_layers(2, ()), "layers from 0 to 1, one or more; got ()"),
        (lambda: check_count(9, 8), "k to be at most 8, the number of heads; got 9"),
    ],
)
def test_what_a_model_has_not_is_refused_in_one_wording(check: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check()
    assert str(caught.value) == f"expected {message}"


def test_a_verdict_is_its_text() -> None:
    assert Verdict("kept") is Verdict.KEPT
    assert f"{Verdict.LOST}" == "knowledge lost"
    with pytest.raises(ValueError, match="drowned"):
        Verdict("drowned")
