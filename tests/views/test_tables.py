"""Frames as HTML: escaped, with numbers that can be read."""

import pandas as pd

from ivlens.views import frame_table


def test_numbers_have_three_digits_and_stand_at_the_right() -> None:
    frame = pd.DataFrame({"task": ["a", "b", "c"], "p": [0.5, 0.000123456, float("nan")], "n": [50, 12345, 7]})
    text = frame_table(frame)
    for cell in ("0.500", "0.000123", "n/a", "50", "12345"):
        assert f'<td class="number">{cell}</td>' in text
    assert "<th>task</th>" in text
    assert '<th class="number">p</th>' in text


def test_large_round_and_odd_values() -> None:
    frame = pd.DataFrame({"value": [100.0, 1234.56, -0.0517], "flag": [True, False, True], "none": [None, "x", pd.NA]})
    text = frame_table(frame)
    for cell in ("100", "1235", "-0.0517"):
        assert f'<td class="number">{cell}</td>' in text
    assert "<td>True</td>" in text
    assert text.count("<td>n/a</td>") == 2


def test_everything_is_escaped() -> None:
    text = frame_table(pd.DataFrame({"<b>": ["<script>alert(1)</script>"]}), caption="a < b & c")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<caption>a &lt; b &amp; c</caption>" in text


def test_the_index_shows_where_it_says_something() -> None:
    frame = pd.DataFrame({"task": ["a", "b"], "p": [0.1, 0.2]})
    assert "<th>index</th>" not in frame_table(frame.iloc[1:])
    assert "<th>task</th>" in frame_table(frame.set_index("task"))
    assert "<td>row</td>" in frame_table(pd.DataFrame({"p": [0.1]}, index=["row"]))


def test_column_levels_are_joined() -> None:
    frame = pd.DataFrame({"task": ["a", "a"], "p": [0.1, 0.3]}).groupby("task").agg({"p": ["mean", "max"]})
    assert '<th class="number">p mean</th>' in frame_table(frame)
