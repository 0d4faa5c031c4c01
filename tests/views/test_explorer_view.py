"""The explorer's widget on a made-up explorer: what a click shows, choosing, stopping, errors, and escaped text."""

import asyncio
import html
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from ivlens.errors import ArgumentError, PromptError, RecordError
from ivlens.records import HeadEffects
from ivlens.tasks import Prompt
from ivlens.views import ExplorerWidget, save_figure
from ivlens.views.explorer import exporting
from ivlens.views.explorer.paired_edit import same_edit
from ivlens.views.explorer.results import RECOMPUTING, STALE
from ivlens.views.explorer.widget import HINT, WAITING

LAYERS, HEADS, COUNT = 4, 3, 6
METRIC = "log-probability"
EVIL = "<script>alert('&')</script>"


class Planted:
    """Head (2, 1) has the effect 1 on every prompt of "one" and -1 of "two"; all others up to 0.1."""

    shape = LAYERS, HEADS

    def __init__(self) -> None:
        prompts = [Prompt(f"{EVIL} {at}", " b", input=f"{EVIL} {at}") for at in range(COUNT)]
        subject = SimpleNamespace(clean=prompts, corrupted=prompts, test_bare=prompts, test_clean=prompts)
        self.prompts = {"one": subject, "two": subject}
        self.effects: dict[tuple[str, str], HeadEffects] = {}
        self.told: list[Any] = []
        self.error: Exception | None = None

    def values(self, task: str) -> torch.Tensor:
        values = 0.1 * torch.rand(COUNT, LAYERS, HEADS, generator=torch.Generator().manual_seed(0))
        values[:, 2, 1] = 1.0 if task == "one" else -1.0
        return values

    def compute(self, task: str, metric: str) -> Iterator[tuple[int, int]]:
        done = self.effects[task, metric].n if (task, metric) in self.effects else 0
        yield done, COUNT
        while done < COUNT:
            if self.error:
                raise self.error
            done += 2
            self.effects[task, metric] = HeadEffects(self.values(task)[:done], torch.zeros(done), metric, "exact", task)
            yield done, COUNT

    def ranks(self, head: Any, metric: str) -> pd.DataFrame:
        return pd.DataFrame({"task": [task for task, _ in self.effects], "rank": 1, "effect": 0.5, "n": COUNT})

    def vector(self, task: str, heads: Any) -> Any:
        return SimpleNamespace(task=task, heads=tuple(heads))

    def logit_lens(self, task: str, head: Any) -> pd.DataFrame:
        return pd.DataFrame({"token": [f" {EVIL}", "\n"], "value": [2.5, 1.0]})

    def attention(self, task: str, head: Any, prompt: int) -> tuple[list[str], torch.Tensor]:
        self.told.append(("attention", task, head, prompt))
        return [EVIL, "b"], torch.eye(2)[None]

    def accuracy(self, task: str, vector: Any, layer: int, scale: float) -> pd.DataFrame:
        if self.error:
            raise self.error
        self.told.append(("accuracy", task, vector.heads, layer, scale))
        return pd.DataFrame({"condition": ["bare", "steered", "clean"], "accuracy": [0.0, 0.75, 1.0], "n": COUNT})

    def tokens(self, bare: Prompt, asked: Prompt, vector: Any, layer: int, scale: float) -> pd.DataFrame:
        self.told.append(("tokens", bare.text, asked.text, layer, scale))
        names = ["bare", "clean"] if vector is None else ["bare", "steered", "clean"]
        return pd.DataFrame({"condition": names, "rank": 1, "token": EVIL, "probability": 0.5})


@pytest.fixture
def planted() -> Planted:
    return Planted()


@pytest.fixture
def widget(planted: Planted) -> ExplorerWidget:
    return ExplorerWidget(planted, layer=1, scale=4.0, k=0)


def click(widget: ExplorerWidget, layer: int, head: int) -> None:
    """What the browser tells of a click on a cell of the map."""
    points = {"xs": [head], "ys": [layer], "point_indexes": [[layer, head]], "trace_indexes": [0]}
    widget.map._js2py_pointsCallback = {"event_type": "plotly_click", "points": points}


def frames(widget: ExplorerWidget) -> list[tuple[float, float, str]]:
    """The frames on the map: layer, head, colour."""
    return [((at.y0 + at.y1) / 2, (at.x0 + at.x1) / 2, at.line.color) for at in widget.map.layout.shapes]


def test_without_an_event_loop_all_effects_are_there_and_on_the_map(widget: ExplorerWidget, planted: Planted) -> None:
    assert widget.effects.n == COUNT
    assert widget.map.data[0].z == pytest.approx(planted.values("one").double().mean(0).numpy())
    assert widget.map_box.layout.visibility == "visible"
    assert widget.working.layout.visibility == "hidden"
    assert widget.map.layout.title.text.startswith("one<br>")


def test_a_click_shows_the_head(widget: ExplorerWidget, planted: Planted) -> None:
    assert widget.head_panel.rest.layout.display == "none"
    click(widget, 2, 1)
    panel = widget.head_panel
    assert panel.rest.layout.display is None
    assert "Head 2.1" in panel.facts.value
    assert "mean effect 1 ± 0 nats, rank 1 of 12, n = 6" in panel.facts.value
    assert list(panel.strip.data[0].x) == [1.0] * COUNT
    assert "one" in panel.ranks.value
    assert "2.50" in panel.lens.value
    assert planted.told[-1] == ("attention", "one", (2, 1), 0)
    assert [(layer, head) for layer, head, _ in frames(widget)] == [(2, 1)]


def test_another_click_on_it_chooses_it_and_one_more_takes_it_out(widget: ExplorerWidget, planted: Planted) -> None:
    for _ in range(2):
        click(widget, 2, 1)
    assert widget.heads == ((2, 1),)
    assert widget.vector.heads == ((2, 1),)
    assert ("accuracy", "one", ((2, 1),), 1, 4.0) in planted.told
    assert "0.750" in widget.vector_panel.accuracy.value
    assert widget.head_panel.toggle.description == "Take out of the set"
    assert len({colour for *_, colour in frames(widget)}) == 2
    click(widget, 2, 1)
    assert (widget.heads, widget.vector) == ((), None)
    assert "0.750" not in widget.vector_panel.accuracy.value


def test_the_button_the_tags_and_python_choose_heads_too(widget: ExplorerWidget) -> None:
    click(widget, 0, 2)
    widget.head_panel.toggle.click()
    assert widget.vector_panel.chosen.value == ["0.2"]
    widget.vector_panel.chosen.value = ["0.2", "3.0"]
    assert widget.heads == ((0, 2), (3, 0))
    widget.heads = [(1, 1), (2, 1), (1, 1)]
    assert widget.vector_panel.chosen.value == ["1.1", "2.1"]
    assert {(layer, head) for layer, head, _ in frames(widget)} == {(0, 2), (1, 1), (2, 1)}
    widget.vector_panel.count.value = 3
    widget.vector_panel.top.click()
    assert widget.heads == tuple(widget.effects.top(3))
    widget.vector_panel.none.click()
    assert widget.heads == ()


@pytest.mark.parametrize("head", [(4, 0), (0, 3), (-1, 0)])
def test_heads_that_are_not_there_are_refused(widget: ExplorerWidget, head: tuple[int, int]) -> None:
    widget.heads = [(1, 1)]
    with pytest.raises(ArgumentError, match=r"layers below 4 and heads below 3"):
        widget.heads = [head]
    with pytest.raises(ArgumentError, match=r"layers below|head\[0\] to be a whole number of 0 or more"):
        widget.look(head)
    assert (widget.heads, widget.shown_head) == (((1, 1),), None)


def test_one_prompt_can_be_looked_at(widget: ExplorerWidget, planted: Planted) -> None:
    click(widget, 0, 0)
    widget.prompt.index = 4
    expected = planted.values("one")[3]
    assert widget.map.data[0].z == pytest.approx(expected.double().numpy())
    assert "n = 1 prompt" in widget.map.layout.title.text
    assert f"mean effect {expected[0, 0].item():.3g} nats" in widget.head_panel.facts.value
    assert widget.head_panel.strip.data[0].selectedpoints == (3,)
    assert planted.told[-1] == ("attention", "one", (0, 0), 3)
    widget.prompt.index = 0
    assert widget.head_panel.strip.data[0].selectedpoints is None


def test_another_task_and_another_metric_are_shown_whole(widget: ExplorerWidget, planted: Planted) -> None:
    click(widget, 2, 1)
    widget.heads, widget.prompt.index = [(2, 1)], 3
    widget.task.value = "two"
    assert widget.prompt.index == 0
    assert widget.map.data[0].z[2][1] == -1
    assert widget.vector.task == "two"
    assert "rank 12 of 12" in widget.head_panel.facts.value
    assert planted.told[-1] == ("attention", "two", (2, 1), 0)
    assert ("accuracy", "two", ((2, 1),), 1, 4.0) in planted.told
    widget.metric.value = "probability"
    assert widget.effects.metric == "probability"
    assert widget.map.data[0].colorbar.title.text == "effect on probability"
    assert widget.head_panel.strip.layout.xaxis.title.text == "probability"


def test_sliders_and_edited_prompts_try_the_vector_again(widget: ExplorerWidget, planted: Planted) -> None:
    widget.heads = [(2, 1)]
    widget.vector_panel.layer.value = 3
    assert planted.told[-1] == ("accuracy", "one", ((2, 1),), 3, 4.0)
    widget.vector_panel.scale.value = -2.5
    assert planted.told[-1] == ("accuracy", "one", ((2, 1),), 3, -2.5)
    widget.vector_panel.bare.value = "by hand"
    assert planted.told[-1] == ("tokens", "by hand", f"{EVIL} 0", 3, -2.5)
    widget.vector_panel.example.index = 2
    assert planted.told[-1] == ("tokens", f"{EVIL} 2", f"{EVIL} 2", 3, -2.5)
    assert widget.vector_panel.bare.value == f"{EVIL} 2"
    assert "P(steered)" in widget.vector_panel.tokens.value


def test_errors_are_told_escaped_and_gone_with_the_next_action(widget: ExplorerWidget, planted: Planted) -> None:
    planted.error = PromptError(f"a prompt without {EVIL}")
    panel = widget.vector_panel
    widget.heads = [(2, 1)]
    assert "&lt;script&gt;" in panel.callbacks.status.value
    assert "P(steered)" in panel.tokens.value
    panel.bare.value = ""
    assert "the text of a prompt" in panel.callbacks.status.value
    planted.error = None
    panel.bare.value = "a text"
    assert panel.callbacks.status.value == ""


def test_a_prompt_that_fails_leaves_no_tokens_of_another_one(widget: ExplorerWidget) -> None:
    widget.vector_panel.bare.value = ""
    assert widget.vector_panel.tokens.value == ""
    widget.vector_panel.bare.value = "a text"
    assert "P(bare)" in widget.vector_panel.tokens.value


def test_an_error_that_is_not_ours_is_told_and_raised(widget: ExplorerWidget, planted: Planted) -> None:
    planted.error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        widget.heads = [(2, 1)]
    assert "RuntimeError: out of memory" in widget.vector_panel.callbacks.status.value


async def turns(count: int) -> None:
    """Let the background job take about ``count`` steps."""
    for _ in range(count):
        await asyncio.sleep(0.03)


def test_in_the_background_effects_come_bit_by_bit_and_stay_at_a_stop(planted: Planted) -> None:
    async def told() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=0)
        assert widget.map_box.layout.visibility == "hidden"
        while widget.effects is None:
            await asyncio.sleep(0)
        assert widget.working.layout.visibility == "visible"
        assert (widget.progress.max, widget.button.description) == (COUNT, "Stop")
        widget.button.click()
        there = widget.effects.n
        assert 0 < there < COUNT
        await turns(4)
        assert (widget.effects.n, widget.button.description) == (there, "Go on")
        widget.prompt.index = COUNT
        assert widget.map_box.layout.visibility == "hidden"
        widget.button.click()
        await turns(5)
        assert (widget.effects.n, widget.job) == (COUNT, None)
        assert widget.map_box.layout.visibility == "visible"
        assert widget.working.layout.visibility == "hidden"

    asyncio.run(told())


def test_a_head_without_effects_shows_none_of_another_task(planted: Planted) -> None:
    async def told() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=0)
        await turns(5)
        click(widget, 2, 1)
        panel = widget.head_panel
        assert (panel.strip_row.layout.display, "rank 1 of 12" in panel.facts.value) == (None, True)
        widget.task.value = "two"
        assert (panel.strip_row.layout.display, panel.ranks.value) == ("none", "")
        assert "Head 2.1" in panel.facts.value
        assert "rank" not in panel.facts.value
        assert WAITING in widget.hint.value
        await turns(5)
        assert (panel.strip_row.layout.display, "rank 12 of 12" in panel.facts.value) == (None, True)
        assert HINT in widget.hint.value

    asyncio.run(told())


def test_clicks_in_other_threads_are_answered_in_the_widgets_own(planted: Planted) -> None:
    """JupyterLab may send clicks to a thread beside the cells'; a model has one set of hooks."""

    async def told() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=0)
        await turns(5)
        own, seen = threading.get_ident(), []
        planted.vector = lambda *_: seen.append(threading.get_ident()) or SimpleNamespace(heads=())
        changes = (
            lambda: setattr(widget, "heads", [(2, 1)]),
            lambda: click(widget, 1, 1),
            widget.head_panel.toggle.click,
            lambda: setattr(widget.task, "value", "two"),
        )
        for change in changes:
            await asyncio.to_thread(change)
            await turns(2)
        assert (widget.heads, widget.shown_head) == (((2, 1), (1, 1)), (1, 1))
        assert set(seen) == {own}
        first = widget.job
        await asyncio.to_thread(widget.button.click)
        await turns(2)
        assert first is None or first.cancelled()

    asyncio.run(told())


def test_the_spread_is_seen_beside_zero_and_whole(widget: ExplorerWidget) -> None:
    click(widget, 2, 1)
    low, high = widget.head_panel.strip.layout.xaxis.range
    assert low < 0 < 1 < high
    widget.task.value = "two"
    low, high = widget.head_panel.strip.layout.xaxis.range
    assert low < -1 < 0 < high


def test_another_task_ends_the_job_and_so_does_closing(planted: Planted) -> None:
    async def told() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=0)
        await turns(1)
        first = widget.job
        widget.task.value = "two"
        await turns(1)
        assert first.cancelled()
        assert planted.effects["one", METRIC].n < COUNT
        second = widget.job
        widget.close()
        await turns(1)
        assert second.cancelled()
        assert planted.effects["two", METRIC].n < COUNT

    asyncio.run(told())


def test_an_error_in_the_background_is_told_and_the_job_can_go_on(planted: Planted) -> None:
    async def told() -> None:
        planted.error = PromptError("a shorter prompt")
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=0)
        await turns(2)
        assert "a shorter prompt" in widget.callbacks.status.value
        assert (widget.job, widget.button.description) == (None, "Go on")
        planted.error = None
        widget.button.click()
        await turns(5)
        assert widget.effects.n == COUNT

    asyncio.run(told())


def test_a_page_that_is_opened_later_gets_the_figures_as_they_are(widget: ExplorerWidget, planted: Planted) -> None:
    click(widget, 2, 1)
    widget.task.value = "two"
    assert widget.map._widget_data[0]["z"][2][1] == -1
    assert len(widget.map._widget_layout["shapes"]) == 1
    assert list(widget.head_panel.strip._widget_data[0]["x"]) == [-1.0] * COUNT


def test_names_that_the_browser_gives_to_traces_do_not_matter(widget: ExplorerWidget) -> None:
    named = [{"uid": trace.uid, "name": f"trace {at}"} for at, trace in enumerate(widget.map.data)]
    edit = {"trace_deltas": named, "trace_edit_id": widget.map._last_trace_edit_id}
    widget.map._js2py_traceDeltas = edit
    assert widget.map.data[0].name == "trace 0"
    widget.task.value = "two"
    assert widget.map.data[0].z[2][1] == -1
    assert widget.callbacks.status.value == ""


def test_text_of_prompts_is_escaped_everywhere(widget: ExplorerWidget) -> None:
    click(widget, 2, 1)
    widget.prompt.index = 2
    widget.heads = [(2, 1)]
    panel = widget.head_panel
    pieces = [panel.facts, panel.lens, panel.ranks, panel.attention, widget.vector_panel.tokens]
    shown = [piece.value for piece in pieces] + [widget.map.layout.title.text, *panel.strip.data[0].text]
    for text in shown:
        assert EVIL not in text
        assert "<script" not in text
    assert sum("script&gt;" in text for text in shown) >= 4


def test_attention_runs_in_a_frame_that_reaches_nothing_else(widget: ExplorerWidget) -> None:
    click(widget, 2, 1)
    value = widget.head_panel.attention.value
    [(attributes, source)] = re.findall(r'<iframe ([^>]*?) srcdoc="([^"]*)"></iframe>', value)
    assert 'sandbox="allow-scripts"' in attributes
    document = html.unescape(source)
    assert "Content-Security-Policy\" content=\"default-src 'none'" in document
    assert "CircuitsVis.AttentionPattern" in document


def test_a_set_to_begin_with_comes_with_the_last_effects(planted: Planted) -> None:
    widget = ExplorerWidget(planted, layer=1, scale=4.0, k=5)
    assert widget.heads == tuple(widget.effects.top(5))
    assert "0.750" in widget.vector_panel.accuracy.value
    widget.task.value = "two"
    assert widget.heads == tuple(planted.effects["one", METRIC].top(5))


@pytest.mark.parametrize("heads", [[(0, 1)], []])
def test_heads_chosen_before_the_last_effects_stay(planted: Planted, heads: list[tuple[int, int]]) -> None:
    async def chosen() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=5)
        widget.heads = heads
        await turns(5)
        assert widget.effects.n == COUNT
        assert widget.heads == tuple(heads)

    asyncio.run(chosen())


@pytest.mark.parametrize("change", [{"layer": 3}, {"scale": 2.0}, {"state": {"layer": 3}}])
def test_a_layer_set_before_the_last_effects_leaves_the_set_to_begin_with(
    planted: Planted, change: dict[str, Any]
) -> None:
    async def chosen() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=5)
        for name, value in change.items():
            setattr(widget, name, value)
        await turns(5)
        assert widget.heads == tuple(widget.effects.top(5))
        assert (widget.layer, widget.scale) != (1, 4.0)

    asyncio.run(chosen())


def test_a_state_without_heads_begins_without_a_set(planted: Planted) -> None:
    async def chosen() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=5)
        widget.state = {"task": "two", "heads": []}
        await turns(5)
        assert (widget.effects.n, widget.heads) == (COUNT, ())

    asyncio.run(chosen())


def test_a_task_whose_vector_cannot_be_shown_is_computed_alone(planted: Planted) -> None:
    """The effects of the task before go on no longer, whose last step would look for those of this one."""

    async def changed() -> None:
        widget = ExplorerWidget(planted, layer=1, scale=4.0, k=5)
        await turns(1)
        monkey, planted.tokens = planted.tokens, failing  # type: ignore[method-assign]
        widget.task.value = "two"
        assert (widget.progress.value, "no answer" in widget.callbacks.status.value) == (0, True)
        planted.tokens = monkey  # type: ignore[method-assign]
        await turns(5)
        assert (widget.effects.task, widget.effects.n) == ("two", COUNT)
        assert widget.heads == tuple(widget.effects.top(5))

    asyncio.run(changed())


def failing(*_: Any) -> Any:
    raise PromptError("no answer")


def test_undo_and_redo_of_heads_layer_and_scale(widget: ExplorerWidget, planted: Planted) -> None:
    panel = widget.vector_panel
    assert (panel.undo.disabled, panel.redo.disabled) == (True, True)
    widget.heads = [(2, 1)]
    widget.layer, panel.scale.value = 3, 2.0
    panel.undo.click()
    panel.undo.click()
    assert (widget.heads, widget.layer, widget.scale) == (((2, 1),), 1, 4.0)
    assert planted.told[-1] == ("accuracy", "one", ((2, 1),), 1, 4.0)
    widget.redo()
    assert (widget.layer, widget.scale, panel.redo.disabled) == (3, 4.0, False)
    widget.heads = [(0, 0)]
    assert panel.redo.disabled
    for _ in range(9):
        widget.undo()
    assert (widget.heads, widget.layer, panel.undo.disabled) == ((), 1, True)
    assert frames(widget) == []


def test_layer_and_scale_can_be_set(widget: ExplorerWidget) -> None:
    widget.layer, widget.scale = 2, -25
    assert (widget.vector_panel.layer.value, widget.vector_panel.scale.value) == (2, -25.0)
    with pytest.raises(ArgumentError, match="layer to be from 0 to 3"):
        widget.layer = 4
    with pytest.raises(ArgumentError, match="scale to be a finite number"):
        widget.scale = float("nan")
    assert (widget.layer, widget.scale) == (2, -25.0)


def test_the_state_can_be_kept_as_json_and_restored(widget: ExplorerWidget, planted: Planted) -> None:
    state = {"task": "two", "metric": "probability", "prompt": 3, "heads": [[2, 1], [0, 2]], "layer": 2, "scale": 1.5}
    widget.state = json.loads(json.dumps(state))
    assert widget.state == state
    assert (widget.vector.task, widget.effects.metric, widget.heads) == ("two", "probability", ((2, 1), (0, 2)))
    assert ("accuracy", "two", ((2, 1), (0, 2)), 2, 1.5) in planted.told
    assert "n = 1 prompt" in widget.map.layout.title.text
    assert len(frames(widget)) == 2
    widget.state = {"prompt": None}
    assert widget.state == state | {"prompt": None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"heds": []}, "a state of task, metric, prompt, heads, layer, scale; got also 'heds'"),
        ({"task": "three"}, "task to be one of 'one', 'two'"),
        ({"metric": "logits"}, "metric to be"),
        ({"prompt": COUNT}, "prompt to be below 6, or None"),
        ({"heads": [[9, 9]]}, "layers below 4 and heads below 3"),
        ({"layer": 4}, "layer to be from 0 to 3"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(widget: ExplorerWidget, state: dict[str, Any], message: str) -> None:
    before = widget.state
    with pytest.raises(ArgumentError, match=message):
        widget.state = before | {"scale": 1.0} | state
    assert widget.state == before
    with pytest.raises(ArgumentError, match="state to be a mapping"):
        widget.state = None


def test_what_is_recomputed_is_marked_until_it_is_new(widget: ExplorerWidget, planted: Planted) -> None:
    click(widget, 2, 1)
    widget.heads = [(2, 1)]
    vector, head, seen = widget.vector_panel, widget.head_panel, []

    def stale() -> set[str]:
        pieces = {"accuracy": vector.accuracy, "tokens": vector.tokens, "lens": head.lens, "attention": head.attention}
        return {name for name, piece in pieces.items() if STALE in piece._dom_classes}

    for name in ("accuracy", "tokens", "logit_lens", "attention"):
        compute = getattr(planted, name)

        def watched(*given: Any, name: str = name, compute: Any = compute) -> Any:
            signs = [each.sign.value for each in (vector.results, vector.trial.results, head.results)]
            seen.append((name, stale(), [RECOMPUTING in sign and 'role="status"' in sign for sign in signs]))
            return compute(*given)

        setattr(planted, name, watched)
    widget.task.value = "two"
    assert seen == [
        ("tokens", {"accuracy", "tokens", "lens", "attention"}, [True, True, True]),
        ("accuracy", {"accuracy", "lens", "attention"}, [True, False, True]),
        ("logit_lens", {"lens", "attention"}, [False, False, True]),
        ("attention", {"lens", "attention"}, [False, False, True]),
    ]
    assert stale() == set()
    assert RECOMPUTING not in vector.results.sign.value + head.results.sign.value


def test_numbers_of_before_are_gone_when_their_successors_fail(widget: ExplorerWidget, planted: Planted) -> None:
    widget.heads = [(2, 1)]
    planted.error = PromptError("no answer")
    widget.layer = 3
    panel = widget.vector_panel
    assert (panel.accuracy.value, panel.results.sign.value) == ("", "")
    planted.error = None
    widget.layer = 2
    assert "layer 2, scale 4" in panel.accuracy.value


def test_an_edited_prompt_offers_to_change_its_partner(widget: ExplorerWidget, planted: Planted) -> None:
    panel = widget.vector_panel
    trial = panel.trial
    trial._fill({"bare": "Input: hot\nOutput:", "clean": "Antonyms. Input: hot dogs\nInput: hot\nOutput:"})
    panel.bare.value = "Input: very cold\nOutput:"
    assert trial.offer.layout.display is None
    assert "The clean prompt still asks what it asked before" in trial.question.value
    trial.follow.click()
    assert panel.clean.value == "Antonyms. Input: hot dogs\nInput: very cold\nOutput:"
    assert planted.told[-1] == ("tokens", panel.bare.value, panel.clean.value, 1, 4.0)
    assert trial.offer.layout.display == "none"
    panel.clean.value = "Antonyms. Input: hot dogs\nInput: warm\nOutput:"
    trial.follow.click()
    assert panel.bare.value == "Input: warm\nOutput:"
    panel.clean.value = "Opposites. Input: hot dogs\nInput: warm\nOutput:"
    assert trial.offer.layout.display == "none"


@pytest.mark.parametrize(
    ("before", "after", "partner", "changed"),
    [
        ("hot", "cold", "not a shot: hot", "not a shot: cold"),
        ("a hot day", "a day", "one hot day", "one day"),
        ("hot", "very hot", "hot, hot.", "hot, very hot."),
        ("hot", "cold", "warm", None),
        ("hot", "hot", "hot", None),
        ("", "cold", "hot", None),
        ("a.c", "abc", "axc a.c", "axc abc"),
    ],
)
def test_an_edit_is_made_where_its_words_last_occur(before: str, after: str, partner: str, changed: str | None) -> None:
    assert same_edit(before, after, partner) == changed


def test_another_task_says_that_the_vector_is_another(widget: ExplorerWidget) -> None:
    widget.task.value = "two"
    assert widget.vector_panel.news.value == ""
    widget.heads = [(2, 1)]
    widget.task.value = "one"
    assert "now with their mean outputs on one instead of two" in widget.vector_panel.news.value
    widget.layer = 2
    assert widget.vector_panel.news.value == ""


def test_an_export_without_heads_is_state_and_map(
    widget: ExplorerWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "save_figure", without_browser)
    for _ in range(2):
        widget.vector_panel.export.click()
    assert "Saved in explorer-one-2: state.json, map.html" in widget.vector_panel.news.value
    for folder in ("explorer-one-1", "explorer-one-2"):
        assert sorted(path.name for path in Path(folder).iterdir()) == ["map.html", "state.json"]
        assert json.loads(Path(folder, "state.json").read_text()) == widget.state
    assert "Plotly.newPlot" in Path("explorer-one-1", "map.html").read_text(encoding="utf-8")


def test_no_vector_of_other_heads_stays_beside_an_exported_state(
    widget: ExplorerWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "save_figure", without_browser)
    (tmp_path / "vector.safetensors").touch()
    with pytest.raises(RecordError, match=r"no vector at .*choose another folder"):
        widget.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vector.safetensors"]


def without_browser(figure: Any, path: Path) -> Path:
    """``save_figure`` on a machine that has no Chrome."""
    if path.suffix == ".png":
        raise ArgumentError("Chrome or Chromium to draw .png files", "none")
    return save_figure(figure, path)
