"""The benchmark as a figure: a point a contender, lines along what grows, all ratios on logarithmic axes."""

import pandas as pd

from ivlens.views import benchmark_panels

CONTENDERS = pd.DataFrame(
    {"contender": ["ours", "<loop>"], "weights": ["a", "b"], "times the sweep": [1.0, 120.5], "threads": [2, 2]}
)
SCALING = pd.DataFrame({
    "along": ["tokens", "tokens", "prompts", "heads"], "tokens": [24, 51, 51, 51], "prompts": [1, 1, 4, 1],
    "heads": [270, 270, 270, 16], "loop / sweep": [60.0, 120.0, 130.0, 8.0], "sweep / forward": [3.0, 2.0, 1.9, 1.5],
})  # fmt: skip


def test_contenders_are_points_in_their_order_with_name_and_layout() -> None:
    figure = benchmark_panels(CONTENDERS, SCALING, title="Title", facts="facts")
    race = figure.data[0]
    assert list(race.x) == [1.0, 120.5]
    assert list(race.text) == ["1", "120"]
    assert [text.split("<br>")[0] for text in figure.layout.yaxis.ticktext] == ["ours", "&lt;loop&gt;"]
    assert tuple(figure.layout.yaxis.range) == (1.5, -0.5)
    assert figure.layout.xaxis.type == "log"
    assert "facts" in figure.layout.title.text


def test_each_thing_that_grows_has_both_ratios_and_one_key() -> None:
    lines = benchmark_panels(CONTENDERS, SCALING, title="Title").data[1:]
    assert [(line.name, list(line.x), list(line.y)) for line in lines] == [
        ("loop / sweep", [24, 51], [60.0, 120.0]), ("sweep / forward", [24, 51], [3.0, 2.0]),
        ("loop / sweep", [4], [130.0]), ("sweep / forward", [4], [1.9]),
        ("loop / sweep", [16], [8.0]), ("sweep / forward", [16], [1.5]),
    ]  # fmt: skip
    assert [line.showlegend for line in lines] == [True, True, False, False, False, False]
