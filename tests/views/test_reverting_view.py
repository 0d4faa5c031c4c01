"""Maps and curves of weights put back: what returns is beside what it costs, on the layers that were put back."""

from pathlib import Path

import numpy as np
import pytest

from ivlens import views
from ivlens.errors import MismatchError
from ivlens.views.checkpoints.reverting import reverting_parts
from patchings import patched
from reverted import reverted


def test_maps_show_the_share_that_each_band_returns_beside_what_it_undoes() -> None:
    figure = views.reverting_maps(reverted(best=1))
    old, learned = figure.data
    np.testing.assert_allclose(old.z, [[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(learned.z, np.full((4, 3), 0.1), atol=1e-6)
    assert old.zmax == learned.zmax == 1  # one scale, so that they can be compared
    assert [trace.showscale for trace in figure.data] == [False, True]
    assert "MLP of layers 2 to 3" in old.customdata[2][1]
    assert "returned 1.00\u00a0(1.00\u00a0to\u00a01.00) of the gap" in old.customdata[3][1]
    assert "undone 0.10" in learned.customdata[0][0]
    assert "old tasks, 3 prompts: 2.00" in figure.layout.title.text


def test_layers_of_bands_of_different_sizes_are_each_in_their_row() -> None:
    old = views.reverting_maps(reverted(5, best=0)).data[0].z
    assert old[:, 1].tolist() == [1, 1, 0, 0, 0]


def test_a_gap_without_shares_is_shown_in_nats_red_for_what_returns_and_for_what_is_lost() -> None:
    old, learned = views.reverting_maps(reverted(gap=0.25)).data
    np.testing.assert_allclose(old.z[3], [0, 0.25, 0.25], atol=1e-6)
    np.testing.assert_allclose(learned.z, np.full((4, 3), 0.3), atol=1e-6)
    assert learned.colorbar.title.text == "nats"


def test_curves_go_from_the_base_to_the_tuned_model() -> None:
    record = reverted()
    figure = views.reverting_curves(record)
    assert [trace.name for trace in figure.data] == ["old tasks", "old tasks", "learned tasks", "learned tasks"] * 2
    accuracy, by_depth = figure.data[0], figure.data[1]
    assert accuracy.x.tolist() == [0, 0.5, 1]
    assert accuracy.y[0] == 1 > accuracy.y[-1]
    assert by_depth.x.tolist() == [0.5]
    nats = figure.data[4]
    assert nats.y.tolist() == pytest.approx([2, 1, 0])
    assert (np.array(nats.error_y.arrayminus) >= 0).all()
    assert [trace.name for trace in figure.data if trace.showlegend] == ["old tasks", "learned tasks"]


def test_what_carries_a_loss_stands_beside_what_made_it(tmp_path: Path) -> None:
    patching = patched(n_layers=4)
    figure = views.carried_and_made(patching, reverted(4))
    assert [trace.z.shape for trace in figure.data] == [(4, 3)] * 3
    assert len({trace.zmax for trace in figure.data}) == 1
    with pytest.raises(MismatchError, match="got 4 and 6 layers"):
        views.carried_and_made(patching, reverted(6))


def test_a_report_has_a_row_for_each_part(tmp_path: Path) -> None:
    text = views.write_report(tmp_path / "report.html", {"reverts.safetensors": reverted()}).read_text(encoding="utf-8")
    assert text.count("Plotly.newPlot(") == 2
    assert "Where the loss was made" in text
    assert ">old task, new task<" in text
    for row in (
        "everything: the base",
        "all but 0.5 of the change",
        "nothing: the tuned model",
        "heads: strongest",
        "by depth, all but 0 to 1 of the change",
        "attention and MLP of layers 2 to 3",
        "embeddings and norms",
    ):
        assert f"<td>{row}</td>" in text, row
    assert len(reverting_parts(reverted())) == 4
