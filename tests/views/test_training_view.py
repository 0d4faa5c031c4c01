"""Training as figures: which line lies in which panel, intervals, a legend where it is needed; trade-offs as points."""

import math

import pandas as pd
import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.records import TrainingRun
from ivlens.views import tradeoff_scatter, training_curves

COLUMNS = ("supervised", "loss", "learning_rate", "gradient_norm", "seconds")
VECTOR = {"cosine": 0.9, "norm_ratio": 1.1, "alignment": 0.2}


def run(steps=3, columns=COLUMNS, abilities=("new-task", "antonym"), times=None, vector=VECTOR, stopped=""):
    """Column c has the value 10 c + s at step s; the first ability is new; accuracies are 0.5 at all ``times``."""
    values = 10 * torch.arange(len(columns)) + torch.arange(steps)[:, None]
    measured = [
        {"step": step, "role": "keep" if place else "new", "ability": name, "accuracy": 0.5, "low": 0.2, "high": 0.9,
         "n": 20} | (vector if place else {})
        for step in ((0, steps) if times is None else times) for place, name in enumerate(abilities)
    ]  # fmt: skip
    return TrainingRun(values.double(), tuple(columns), tuple(measured), stopped)


def titles(figure):
    return [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations if note.text]


def panel(figure, title):
    """Traces of the panel of this title, without bands, and its axes."""
    at = [note.text for note in figure.layout.annotations].index(f"<b>{title}</b>")
    number = "" if at == 0 else str(at + 1)
    traces = [each for each in figure.data if (each.xaxis or "x") == f"x{number}" and each.name != "interval"]
    return traces, figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"]


def legend(figure):
    shown = [trace for trace in figure.data if trace.showlegend and figure.layout.showlegend]
    return [trace.name for trace in sorted(shown, key=lambda trace: trace.legendrank)]


def test_a_panel_for_each_term_the_loss_first_and_for_each_ability_the_new_one_first() -> None:
    figure = training_curves(run(abilities=("new-task", "antonym"), vector={}))
    assert [each for each in titles(figure) if each != "<b></b>"][:2] == ["loss", "supervised"]
    assert "new-task (new)" in titles(figure)
    assert "antonym (keep)" in titles(figure)
    assert not {"learning_rate", "gradient_norm", "seconds"} & {*titles(figure)}
    [loss], steps, nats = panel(figure, "loss")
    assert (list(loss.x), list(loss.y)) == ([0, 1, 2], [10, 11, 12])
    assert (steps.title.text, nats.title.text) == ("steps", "nats")
    assert legend(figure) == []
    assert figure.layout.title.text.startswith("Training<br>")


def test_accuracies_lie_in_the_band_of_their_interval() -> None:
    figure = training_curves(run())
    [line], _, axis = panel(figure, "antonym (keep)")
    [band] = [each for each in figure.data if each.name == "interval" and each.xaxis == line.xaxis]
    assert (list(line.x), list(line.y)) == ([0, 3], [0.5, 0.5])
    assert (list(band.x), list(band.y)) == ([0, 3, 3, 0], [0.2, 0.2, 0.9, 0.9])
    assert (axis.title.text, axis.range[0] < 0, axis.range[1] > 1) == ("accuracy", True, True)
    assert line.customdata[0].tolist() == [0, 0.2, 0.9, 20]
    assert "n = 20 prompts" in figure.layout.title.text


def test_an_ability_measured_once_is_a_point_with_a_bar() -> None:
    figure = training_curves({"a": run(times=[3]), "b": run(times=[3])})
    [one, two], axis, _ = panel(figure, "antonym (keep)")
    assert (list(one.x), list(two.x)) == ([0], [1])
    assert (list(one.error_y.array), list(one.error_y.arrayminus)) == (pytest.approx([0.4]), pytest.approx([0.3]))
    assert axis.title.text == "after 3 steps"
    assert (
        panel(training_curves({"a": run(times=[3]), "b": run(4, times=[4])}), "antonym (keep)")[1].title.text
        == "at the end"
    )


def test_rows_without_a_step_were_measured_at_the_end() -> None:
    record = run(times=[0])
    bare = tuple({name: value for name, value in row.items() if name != "step"} for row in record.measured)
    figure = training_curves(TrainingRun(record.values, record.columns, bare))
    assert panel(figure, "antonym (keep)")[1].title.text == "after 3 steps"


def test_several_runs_keep_their_colours_and_only_the_first_of_their_traces_is_in_the_legend() -> None:
    guided = run(columns=("supervised", "kl_last", "consistency", "loss"))
    figure = training_curves({"plain": run(), "guided": guided})
    assert legend(figure) == ["plain", "guided"]
    [plain, other], _, _ = panel(figure, "loss")
    [own], _, axis = panel(figure, "kl_last")
    assert (plain.legendgroup, other.legendgroup, own.legendgroup) == ("plain", "guided", "guided")
    assert plain.line.color != other.line.color == own.line.color
    assert (axis.title.text, panel(figure, "consistency")[2].title.text) == ("nats", "squared distance")
    assert list(other.y) == [30, 31, 32]


def test_vectors_of_one_run_share_panels_whose_lines_are_abilities() -> None:
    figure = training_curves(run(abilities=("new-task", "antonym", "synonym")))
    traces, _, axis = panel(figure, "cosine")
    assert [each.name for each in traces] == ["antonym", "synonym"]
    assert traces[0].line.color == panel(figure, "antonym (keep)")[0][0].line.color
    assert axis.range[0] < 0.9 < axis.range[1]
    assert axis.range[1] - axis.range[0] >= 0.1 - 1e-9
    assert not axis.title.text  # the panel's title says it
    assert {"cosine", "norm ratio", "alignment"} <= {*titles(figure)}
    assert legend(figure) == ["new-task", "antonym", "synonym"]
    assert "alignment: cosine of hidden state" in figure.layout.title.text


def test_measures_that_are_missing_or_not_a_number_have_no_panel() -> None:
    figure = training_curves(
        {"a": run(vector={"cosine": 0.9, "alignment": math.nan}), "b": run(vector={"cosine": 0.8})}
    )
    traces, _, axis = panel(figure, "antonym")
    assert [list(each.y) for each in traces] == [[0.9, 0.9], [0.8, 0.8]]
    assert axis.title.text == "cosine"
    units = [figure.layout[each].title.text for each in figure.layout if each.startswith("yaxis")]
    assert not {"norm ratio", "alignment"} & {*units}
    assert "accuracy" not in training_curves(run(abilities=())).layout.title.text


@pytest.mark.parametrize(("steps", "mode"), [(1, "lines+markers"), (40, "lines+markers"), (3000, "lines")])
def test_short_runs_have_markers_and_long_ones_thin_lines(steps: int, mode: str) -> None:
    figure = training_curves({"one": run(steps), "two": run(steps)}, title="<i>")
    [loss, _], axis, _ = panel(figure, "loss")
    assert loss.mode == mode
    assert axis.title.text == ("steps" if steps > 1 else "after 0 steps")
    assert figure.layout.title.text.startswith("&lt;i&gt;<br>")


def test_many_runs_and_abilities_fit_a_page() -> None:
    names = [f"a run with a rather long name <{index}>" for index in range(12)]
    abilities = tuple(f"ability-{index}" for index in range(10))
    figure = training_curves({name: run(abilities=abilities) for name in names})
    assert figure.layout.width <= 1080
    assert len(legend(figure)) == 12
    assert all("&lt;" in name for name in legend(figure))
    lines = panel(figure, "loss")[0]
    assert len({(each.line.color, each.line.dash) for each in lines}) == 12
    hidden = [each for each in figure.layout if each.startswith("xaxis") and figure.layout[each].visible is False]
    assert len(titles(figure)) - len(hidden) == 2 + 10 + 27


def test_a_run_that_stopped_early_is_named() -> None:
    assert "stopped early: b" in training_curves({"a": run(), "b": run(stopped="step 3: loss nan")}).layout.title.text
    assert "stopped early: the run" in training_curves(run(stopped="step 3")).layout.title.text
    assert "Training: only<br>" in training_curves({"only": run()}).layout.title.text


def test_no_run_and_a_run_without_steps_are_refused() -> None:
    with pytest.raises(ArgumentError, match="one training run or more; got none"):
        training_curves({})
    with pytest.raises(ArgumentError, match="one step or more; got none in 'b'"):
        training_curves({"a": run(), "b": run(0)})
    with pytest.raises(ArgumentError, match="one step or more; got none"):
        training_curves(TrainingRun(torch.zeros(0, 0), ()))


def points(**more):
    """Plain at one setting, guided at four in no order, the last of them worse than its second, in one panel."""
    frame = pd.DataFrame({"method": ["plain"] + 4 * ["guided"], "setting": ["rate 1", "<3>", "0.3", "1", "2"],
                          "learned": [0.9, 0.4, 0.8, 0.6, 0.7], "kept": [0.3, 0.8, 0.4, 0.6, 0.35]})  # fmt: skip
    return frame.assign(**more)


def facts_of(figure):
    """What is said under the title, its lines joined."""
    return figure.layout.title.text.replace("<br>", " ")


def methods(figure):
    """Traces of all settings by panel and method, in the order of their legend."""
    traces = [trace for trace in figure.data if trace.name not in ("chosen", "frontier")]
    return sorted(traces, key=lambda trace: (trace.xaxis, legend(figure).index(trace.name)))


def frontiers(figure):
    """By method, the points its line joins."""
    return {trace.legendgroup: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data
            if trace.name == "frontier"}  # fmt: skip


def test_a_line_joins_a_methods_settings_that_no_other_beats() -> None:
    figure = tradeoff_scatter(points(), title="<i>", facts="3 seeds")
    plain, guided = methods(figure)
    assert (plain.name, list(plain.x), list(plain.y)) == ("plain", [0.9], [0.3])
    assert (list(guided.x), list(guided.y)) == ([0.4, 0.8, 0.6, 0.7], [0.8, 0.4, 0.6, 0.35])
    assert frontiers(figure) == {"plain": [(0.9, 0.3)], "guided": [(0.4, 0.8), (0.6, 0.6), (0.8, 0.4)]}
    assert [text.split("<br>")[1] for text in guided.hovertext] == ["&lt;3&gt;", "0.3", "1", "2"]
    assert "±" not in guided.hovertext[0]
    assert "none learns more and keeps more" in facts_of(figure)
    assert "3 seeds" in facts_of(figure)
    assert figure.layout.title.text.startswith("&lt;i&gt;<br>")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (
        "accuracy on new tasks", "accuracy kept on old tasks")  # fmt: skip


def test_of_equal_settings_the_line_takes_one_and_drops_what_another_matches() -> None:
    same = tradeoff_scatter(points(learned=0.5, kept=0.5))
    assert frontiers(same) == {"plain": [(0.5, 0.5)], "guided": [(0.5, 0.5)]}
    level = tradeoff_scatter(points(kept=0.5))
    assert frontiers(level)["guided"] == [(0.8, 0.5)]


def test_standard_errors_are_bars_and_chosen_points_are_larger() -> None:
    frame = points(learned_error=0.01, kept_error=[0.02, 0.03, 0.04, 0.05, 0.06],
                   chosen=[True, False, None, True, False])  # fmt: skip
    figure = tradeoff_scatter(frame)
    guided = methods(figure)[1]
    assert list(guided.error_x.array) == [0.01] * 4
    assert list(guided.error_y.array) == [0.03, 0.04, 0.05, 0.06]
    assert "0.600 ± 0.050" in guided.hovertext[2]
    chosen = [trace for trace in figure.data if trace.name == "chosen"]
    assert {trace.legendgroup: (list(trace.x), list(trace.y)) for trace in chosen} == {
        "plain": ([0.9], [0.3]), "guided": ([0.6], [0.6])}  # fmt: skip
    assert chosen[0].marker.size > guided.marker.size
    assert "±1 standard error; outlined: chosen" in facts_of(figure)


def test_a_method_keeps_its_colour_and_symbol_in_all_panels() -> None:
    trials, reported = points(panel="trials", base_kept=0.9), points(panel="reported").iloc[1:]
    figure = tradeoff_scatter(pd.concat([trials, reported]))
    assert titles(figure)[:2] == ["trials", "reported"]
    plain, first, second = methods(figure)
    assert (first.marker.color, first.marker.symbol) == (second.marker.color, second.marker.symbol)
    assert (plain.marker.color, plain.marker.symbol) != (first.marker.color, first.marker.symbol)
    assert legend(figure) == ["plain", "guided"]
    [line] = figure.layout.shapes
    assert (line.y0, line.y1, line.line.dash, line.yref) == (0.9, 0.9, "dash", "y")
    assert titles(figure)[2:] == ["base"]


def test_twenty_methods_differ_and_fit_a_page() -> None:
    names = [f"method {index}" for index in range(20)]
    frame = pd.DataFrame({"method": names, "setting": "1", "learned": 0.5, "kept": 0.5})
    figure = tradeoff_scatter(pd.concat([frame.assign(panel=name) for name in "abc"]))
    assert len({(each.marker.color, each.marker.symbol) for each in methods(figure)}) == 20
    assert legend(figure) == names
    assert figure.layout.width <= 1080
    assert "none learns more" not in facts_of(figure)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.1, 0.95, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.4, 0.9, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.86, 0.97, [0.86, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98]),
        (1.0, 1.0, [0.95, 0.96, 0.97, 0.98, 0.99, 1]),
        (0.0, 0.0, [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
    ],
)
def test_axes_are_zoomed_to_the_points_and_say_where_they_start(low: float, high: float, ticks: list[float]) -> None:
    ends = [low, high, high, high, high]
    for side, column in (("horizontal", "learned"), ("vertical", "kept")):
        figure = tradeoff_scatter(points(**{column: ends}))
        axis = figure.layout.xaxis if column == "learned" else figure.layout.yaxis
        assert list(axis.tickvals) == ticks
        assert axis.range[0] < ticks[0] <= low <= high <= ticks[-1] < axis.range[1]
        assert (f"the {side} axis starts at {ticks[0]:g}" in facts_of(figure)) is (ticks[0] > 0)
        assert (f"the {side} axis starts at" in facts_of(figure)) is (ticks[0] > 0)


def test_panels_that_are_compared_have_one_range() -> None:
    figure = tradeoff_scatter(pd.concat([points(learned=0.97, panel="one"), points(learned=0.86, panel="two")]))
    one, two = figure.layout.xaxis, figure.layout.xaxis2
    assert one.range == two.range
    assert one.tickvals == two.tickvals
    assert one.tickvals[0] == 0.86


def test_error_bars_and_the_base_are_inside_the_axes_and_no_tick_is_above_1() -> None:
    layout = tradeoff_scatter(points(learned=0.97, learned_error=0.06, kept=0.4, base_kept=0.77)).layout
    assert layout.xaxis.range[0] < 0.91
    assert layout.xaxis.range[1] > 1.03
    assert layout.xaxis.tickvals[-1] == 1
    assert layout.yaxis.range[1] > 0.77
    wide = tradeoff_scatter(points(learned_error=math.inf)).layout.xaxis
    assert list(wide.tickvals) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert wide.range[1] < 1.2


def test_points_of_the_same_thing_are_joined_instead_of_the_best_settings() -> None:
    joined = pd.Categorical(["one", "one", "two", None, "two"])
    figure = tradeoff_scatter(points(joined=joined))
    [lines] = [trace for trace in figure.data if trace.mode == "lines"]
    assert (lines.x, lines.y) == ((0.9, 0.4, None, 0.8, 0.7, None), (0.3, 0.8, None, 0.4, 0.35, None))
    assert "lines join a method's" not in facts_of(figure)
    assert legend(figure) == ["plain", "guided"]


def test_missing_columns_no_rows_and_percentages_are_refused() -> None:
    with pytest.raises(ArgumentError, match="method, setting, learned, kept; got one without setting, kept"):
        tradeoff_scatter(points().drop(columns=["setting", "kept"]))
    for frame in (points().iloc[:0], points(kept=80.0), points(learned=math.nan), points(base_kept=70.0)):
        with pytest.raises(ArgumentError, match="one point or more, accuracies being from 0 to 1"):
            tradeoff_scatter(frame)


def test_a_run_whose_losses_nobody_logged_shows_its_abilities() -> None:
    rows = [
        {"step": step, "role": "keep", "ability": "old", "accuracy": 0.5, "low": 0.2, "high": 0.8, "n": 10}
        for step in (0, 5)
    ]
    figure = training_curves(TrainingRun(torch.zeros(0, 1).double(), ("loss",), tuple(rows)))
    assert [[*trace.x] for trace in figure.data if trace.name != "interval"] == [[0, 5]]
    assert "no loss was logged" in figure.layout.title.text
