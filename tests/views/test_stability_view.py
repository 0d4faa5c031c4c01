"""The curve of prompts needed: the mean in its band, in the order of sizes."""

import pandas as pd

from ivlens.views import stability_curve

FRAME = pd.DataFrame({"prompts": [20, 5], "overlap": [0.8, 0.4], "low": [0.6, 0.1], "high": [1.0, 0.7]})


def test_the_mean_is_a_line_in_the_band_of_low_and_high() -> None:
    figure = stability_curve(FRAME)
    high, low, mean = figure.data
    assert all(list(trace.x) == [5, 20] for trace in figure.data)
    assert [list(trace.y) for trace in (low, mean, high)] == [[0.1, 0.6], [0.4, 0.8], [0.7, 1.0]]
    assert low.fill == "tonexty"
    assert mean.customdata.tolist() == [[0.1, 0.7], [0.6, 1.0]]


def test_axes_and_title_say_what_is_shown() -> None:
    figure = stability_curve(FRAME, title="<i>")
    assert figure.layout.xaxis.title.text == "prompts in each set"
    assert tuple(figure.layout.yaxis.range) == (0, 1.02)
    assert figure.layout.title.text.startswith("&lt;i&gt;<br>")
    assert "sharing no prompt" in stability_curve(FRAME).layout.title.text
