"""Growth as panels: points, and the line of their power."""

import numpy as np
import pandas as pd
import pytest

from ivlens.errors import ArgumentError
from ivlens.views import growth_panels

POINTS = pd.DataFrame({
    "along": ["<prompts>"] * 3 + ["layers"] * 2, "size": [1, 2, 4, 2, 8], "seconds": [0.1, 0.2, 0.4, 1.0, 16.0],
    "power": [1.0] * 3 + [2.0] * 2,
})  # fmt: skip


def test_a_line_of_the_power_goes_through_the_points() -> None:
    figure = growth_panels(POINTS, title="Title", facts="facts")
    assert [trace.name for trace in figure.data] == ["fit", "measured"] * 2
    for line, points in zip(figure.data[::2], figure.data[1::2], strict=True):
        assert np.allclose(line.y, points.y)
    texts = [each.text for each in figure.layout.annotations]
    assert "&lt;prompts&gt;" in texts[0]
    assert "power 2.00" in texts[1]
    assert figure.layout.xaxis.type == figure.layout.yaxis2.type == "log"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ArgumentError, match="without power"):
        growth_panels(POINTS.drop(columns="power"), title="Title")
