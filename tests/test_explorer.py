"""``explore``: what it computes is what the plain functions compute, in groups that can be stopped; what it refuses."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, Chat, Prompt, Task
from ivlens import explorer as room
from ivlens.errors import MismatchError
from ivlens.explorer import Explorer, explore
from tiny_models import WORDS


def shift(by: int) -> list[tuple[str, str]]:
    """Every word of the tiny tokenizer with the one that comes ``by`` words later."""
    return [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]


NEXT = Task("next", shift(1), ("the quick fox jumps",))
SKIP = Task("skip", shift(2), ("the lazy dog",))
METRIC = "log-probability"


@pytest.fixture
def model(tiny_hooked: Callable[..., Any]) -> Any:
    return tiny_hooked("llama", max_position_embeddings=256)


@pytest.fixture
def explorer(model: Any) -> Explorer:
    """Five training prompts and four test prompts of two tasks."""
    return handed(model, [NEXT, SKIP], n_clean=5, n_test=4)


def handed(*given: Any, **options: Any) -> Explorer:
    """What explore hands to its widget, which is closed before it computes effects in the background."""

    async def made() -> Explorer:
        widget = explore(*given, **options)
        widget.close()
        return widget.explorer

    return asyncio.run(made())


def run(explorer: Explorer, task: str = "next") -> list[tuple[int, int]]:
    return list(explorer.compute(task, METRIC))


def test_groups_of_prompts_add_up_to_the_effects_of_all(explorer: Explorer) -> None:
    assert run(explorer) == [(0, 5), (2, 5), (4, 5), (5, 5)]
    expected = ivlens.locate_heads(explorer.model, NEXT, n_clean=5, n_corrupted=5)
    found = explorer.effects["next", METRIC]
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.baseline, expected.baseline)
    assert found.provenance["settings"]["prompts"] == 5


def test_what_is_there_at_a_stop_is_kept_and_gone_on_from(explorer: Explorer) -> None:
    work = explorer.compute("next", METRIC)
    assert [next(work), next(work)] == [(0, 5), (2, 5)]
    work.close()
    kept = explorer.effects["next", METRIC].values
    assert run(explorer) == [(2, 5), (4, 5), (5, 5)]
    assert torch.equal(explorer.effects["next", METRIC].values[:2], kept)


def test_effects_that_are_there_are_not_computed_again(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = ivlens.locate_heads(model, NEXT, n_clean=4, n_corrupted=3, shots=1, seed=7, metric="probability")
    explorer = handed(model, [NEXT, SKIP], effects=effects, n_clean=5, n_test=2)
    monkeypatch.setattr(room, "indirect_effects", None)
    monkeypatch.setattr(room, "mean_head_activations", None)
    assert list(explorer.compute("next", "probability")) == [(3, 3)]
    assert explorer.effects["next", "probability"] is effects
    assert explorer.vector("next", [(1, 2)]).heads == ((1, 2),)
    drawn = {"shots": 1, "seed": 7, "split": "train"}
    assert explorer.prompts["next"].corrupted == NEXT.prompts(3, corruption="no-instruction", **drawn)
    assert explorer.prompts["next"].clean == NEXT.prompts(3, **drawn)


def test_a_chat_is_explored_as_its_effects_were_computed(model: Any, tiny_tokenizer: Any, chatml: str) -> None:
    model.tokenizer = tiny_tokenizer(chat_template="{{ bos_token if extra }}" + chatml)
    chat = Chat("Be brief.", template_options={"extra": True})
    drawn = {"format": chat, "tokenizer": model.tokenizer}
    prompts = handed(model, NEXT, n_clean=2, n_test=2, format=chat).prompts["next"]
    assert prompts.clean == NEXT.prompts(2, split="train", **drawn)
    assert prompts.test_clean == NEXT.prompts(2, split="test", **drawn)
    effects = ivlens.locate_heads(model, NEXT, n_clean=2, n_corrupted=2, format=chat)
    assert handed(model, NEXT, effects=effects, n_test=2).prompts["next"] == prompts


@pytest.mark.parametrize("instruction", [1, "and the lazy fox", False])
def test_clean_prompts_have_the_instruction_of_the_effects(model: Any, instruction: Any) -> None:
    task = replace(NEXT, instructions=("the quick fox jumps", "the lazy dog"))
    effects = ivlens.locate_heads(model, task, n_clean=3, n_corrupted=3, instruction=instruction)
    prompts = handed(model, task, effects=effects, n_test=2).prompts["next"]
    assert prompts.clean == task.prompts(3, instruction=instruction, split="train")
    assert prompts.test_clean == task.prompts(2, instruction=instruction, split="test")


def test_a_task_without_instructions_is_shown_by_its_demonstrations(model: Any) -> None:
    bare = replace(NEXT, instructions=())
    assert handed(model, bare, n_clean=3, n_test=2).prompts["next"].clean == bare.prompts(
        3, instruction=False, split="train"
    )


def test_clean_and_corrupted_bare_and_asked_prompts_pair_up(explorer: Explorer) -> None:
    prompts = explorer.prompts["skip"]
    for one, other in ((prompts.clean, prompts.corrupted), (prompts.test_bare, prompts.test_clean)):
        assert [prompt.input for prompt in one] == [prompt.input for prompt in other]
        assert not {prompt.text for prompt in one} & {prompt.text for prompt in other}
    assert not {prompt.input for prompt in prompts.clean} & {prompt.input for prompt in prompts.test_bare}


def test_ranks_are_those_of_the_effects_on_every_task_that_has_some(explorer: Explorer) -> None:
    assert list(explorer.ranks((1, 2), METRIC)["task"]) == []
    run(explorer)
    run(explorer, "skip")
    ranks = explorer.ranks((1, 2), METRIC).set_index("task")
    for task in ("next", "skip"):
        frame = explorer.effects[task, METRIC].to_frame().set_index(["layer", "head"])
        assert ranks.loc[task, "rank"] == frame.loc[(1, 2), "rank"]
        assert ranks.loc[task, "effect"] == pytest.approx(frame.loc[(1, 2), "aie"])
    assert explorer.ranks((1, 2), "probability").empty


def test_accuracy_is_that_of_evaluate_bare_steered_and_clean(explorer: Explorer) -> None:
    prompts, vector = explorer.prompts["next"], explorer.vector("next", [(0, 1), (1, 3)])
    found = explorer.accuracy("next", vector, 1, 3.0).set_index("condition")
    assert list(found.index) == ["bare", "steered", "clean"]
    with ivlens.steer(explorer.model, vector, 1, 3.0):
        steered = ivlens.evaluate(explorer.model, prompts.test_bare)
    assert found.loc["steered", "probability"] == pytest.approx(steered.probability)
    for name, each in (("bare", prompts.test_bare), ("clean", prompts.test_clean)):
        assert found.loc[name, "probability"] == pytest.approx(ivlens.evaluate(explorer.model, each).probability)
    assert found.loc["bare", "probability"] != pytest.approx(found.loc["steered", "probability"])
    assert list(explorer.accuracy("next", None, 1, 3.0)["condition"]) == ["bare", "clean"]


@torch.no_grad()
def test_tokens_are_the_models_likeliest_with_the_vector_and_without(explorer: Explorer) -> None:
    model, vector = explorer.model, explorer.vector("next", [(0, 1)])
    bare, clean = Prompt("the quick", " b"), Prompt("the lazy dog", " b")
    found = explorer.tokens(bare, clean, vector, 0, 5.0, k=3).set_index(["condition", "rank"])
    added = 5.0 * vector.values

    def add(stream: torch.Tensor, hook: Any) -> torch.Tensor:
        stream[:, -1] += added
        return stream

    for condition, prompt, hooks in (("bare", bare, []), ("steered", bare, [("blocks.0.hook_resid_pre", add)]),
                                     ("clean", clean, [])):  # fmt: skip
        ids = torch.tensor([model.tokenizer(prompt.text)["input_ids"]])
        best = model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1].softmax(-1).topk(3)
        probabilities = found.loc[condition, "probability"].to_numpy()
        assert probabilities == pytest.approx(best.values.numpy(), rel=1e-3)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_logit_lens_and_attention_are_those_of_the_head(explorer: Explorer) -> None:
    whole = ivlens.logit_lens(explorer.model, explorer.vector("next", [(1, 2)]), 8)
    assert list(explorer.logit_lens("next", (1, 2))["token"]) == list(whole["token"])
    tokens, patterns = explorer.attention("next", (1, 2), 3)
    assert "".join(tokens) == explorer.prompts["next"].clean[3].text
    torch.testing.assert_close(patterns.sum(-1), torch.ones(1, len(tokens)))


def test_prompts_made_by_hand_are_one_prompts(model: Any) -> None:
    clean, corrupted = [Prompt("the capital of France", " is")], [Prompt("the fox of France", " is")]
    explorer = handed(model, clean, corrupted=corrupted)
    assert list(explorer.compute("prompts", METRIC)) == [(0, 1), (1, 1)]
    assert explorer.prompts["prompts"].test_bare == corrupted
    effects = explorer.effects["prompts", METRIC]
    assert handed(model, clean, corrupted=corrupted, effects=effects).effects == explorer.effects


ONE = [Prompt("the fox", " is")]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (ONE, {}, "as many corrupted prompts as clean ones, 1; got 0"),
        (ONE, {"corrupted": ONE * 2}, "as many corrupted prompts"),
        ([NEXT], {"corrupted": ONE}, "corrupted= beside clean prompts"),
        ([], {}, "tasks of different names, one or more"),
        ([NEXT, NEXT], {}, "tasks of different names"),
        ([NEXT, *ONE], {}, "every task to be a Task or a name; got a Prompt"),
        (NEXT, {"layer": 2}, "layer to be from 0 to 1"),
        (NEXT, {"layer": -1}, "layer to be from 0 to 1; got -1"),
        (NEXT, {"scale": float("inf")}, "scale to be a finite number"),
        (NEXT, {"n_clean": 0}, "n_clean to be a whole number of 1 or more"),
    ],
)
def test_what_cannot_be_explored_is_refused(model: Any, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        handed(model, given, **options)


def test_effects_that_do_not_belong_here_are_refused(model: Any, tiny_hooked: Any) -> None:
    effects = ivlens.locate_heads(model, NEXT, n_clean=2, n_corrupted=2)
    with pytest.raises(ArgumentError, match="effects on skip; got some on 'next'"):
        handed(model, SKIP, effects=effects)
    bare = ivlens.indirect_effects(model, NEXT.prompts(2), effects.means)
    with pytest.raises(ArgumentError, match="how their prompts were drawn"):
        handed(model, NEXT, effects=bare)
    with pytest.raises(ArgumentError, match="all of them alike"):
        handed(model, NEXT, effects=[effects, ivlens.locate_heads(
            model, NEXT, n_clean=2, n_corrupted=2, seed=1, metric="probability")])  # fmt: skip
    other = tiny_hooked("llama", seed=1, max_position_embeddings=256)
    with pytest.raises(MismatchError, match="weights_sha256"):
        handed(other, NEXT, effects=effects)


def test_explore_gives_the_widget_which_computes_at_once_without_an_event_loop(model: Any) -> None:
    widget = explore(model, NEXT, n_clean=3, n_test=2, layer=1, scale=2.5)
    assert widget.effects.n == 3
    widget.heads = widget.effects.top(2)
    assert widget.vector.heads == tuple(widget.effects.top(2))
    assert "steered" in widget.vector_panel.accuracy.value
    assert (widget.vector_panel.layer.value, widget.vector_panel.scale.value) == (1, 2.5)


def test_a_composed_prompt_can_be_edited_by_hand(model: Any) -> None:
    widget = explore(model, [NEXT], n_clean=2, n_test=2)
    panel = widget.vector_panel
    widget.heads = [(1, 2)]
    before = panel.tokens.value
    panel.bare.value = "Input: fox\nOutput:"
    assert widget.callbacks.status.value == ""
    assert panel.tokens.value != before
    expected = widget.explorer.tokens(Prompt(panel.bare.value, " a"), Prompt(panel.clean.value, " a"), None, 0, 1.0)
    assert repr(expected["token"][0]).replace("'", "&#x27;") in panel.tokens.value


def test_an_export_is_loaded_again(model: Any, tmp_path: Any) -> None:
    widget = explore(model, NEXT, n_clean=3, n_test=2, k=3)
    assert widget.heads == tuple(widget.effects.top(3))
    folder = widget.export(tmp_path / "found")
    vector = ivlens.InstructionVector.load(folder / "vector.safetensors")
    assert vector.heads == widget.heads
    torch.testing.assert_close(vector.values, widget.vector.values)
    assert [path.name for path in folder.iterdir() if path.stem == "map"]
    other = explore(model, [SKIP, NEXT], n_clean=3, n_test=2)
    other.state = json.loads((folder / "state.json").read_text())
    assert other.state == widget.state
    torch.testing.assert_close(other.vector.values, vector.values)


def test_a_set_to_begin_with_has_as_many_heads_as_the_model_has_at_most(model: Any) -> None:
    assert len(explore(model, NEXT, n_clean=2, n_test=2).heads) == 8
    assert explore(model, NEXT, n_clean=2, n_test=2, k=0).heads == ()
