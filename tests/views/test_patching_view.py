"""What carries a loss as maps: shares or nats, heads on one scale and layers on another, maps of others beside them."""

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.views import patching_maps, write_report
from ivlens.views.checkpoints.layers import LayerMap, layer_maps
from ivlens.views.checkpoints.patching import patching_layer_maps
from patchings import HEAD, MLP, patched


def maps(figure):
    return [each for each in figure.data if each.type == "heatmap"]


def names(figure):
    return [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations]


@pytest.mark.parametrize("direction", ["restores", "breaks"])
def test_maps_show_the_shares_of_the_frame(direction):
    record = patched()
    figure = patching_maps(record, direction=direction)
    head, z, layers = maps(figure)
    assert names(figure) == ["head's output", "head's z alone", "layers"]
    gap = record.gap.value
    sign = 1 if direction == "restores" else -1
    own = 0 if direction == "restores" else 1
    for drawn, effects in ((head, record.head), (z, record.z)):
        np.testing.assert_allclose(drawn.z, sign * effects[own, : record.n].mean(0).numpy() / gap, rtol=1e-5)
    np.testing.assert_allclose(layers.z[:, 1], sign * record.mlp[own, : record.n].mean(0).numpy() / gap, rtol=1e-5)
    assert (np.argmax(layers.z[:, 1]), np.unravel_index(np.argmax(head.z), head.z.shape)) == (MLP, HEAD)
    assert head.zmax == z.zmax == -head.zmin
    assert head.zmax < layers.zmax
    assert [each.showscale for each in (head, z, layers)] == [False, True, True]
    assert layers.colorbar.title.text == "share of the gap"
    assert "4.00\u00a0(4.00" in figure.layout.title.text


def test_what_is_said_of_a_head_and_of_a_layer():
    head, _, layers = maps(patching_maps(patched()))
    said = head.customdata[HEAD[0]][HEAD[1]]
    interval = r"0\.\d\d\s\(0\.\d\d\sto\s0\.\d\d\)"
    assert re.match(rf"<b>head's output 1\.2</b><br>restored {interval} of the gap<br>1\.\d\d\s", said)
    assert said.endswith("nats<br>n = 6")
    assert layers.customdata[MLP][1].startswith("<b>MLP 2</b>")


def test_a_small_gap_and_controls_are_drawn_in_nats():
    figure = patching_maps(patched(gap=0.2))
    assert [each.colorbar.title.text for each in maps(figure)[1:]] == ["nats", "nats"]
    learned = patching_maps(patched(), role="learned")
    assert maps(learned)[1].colorbar.title.text == "nats"
    assert "6 prompts, of the new task" in learned.layout.title.text
    assert "outlined" not in learned.layout.title.text
    assert "n/a of the gap" in maps(learned)[0].customdata[0][0]
    with pytest.raises(ArgumentError, match="role to be one of 'forgotten'"):
        patching_maps(patched(roles=()), role="kept")


def test_the_strongest_heads_are_outlined():
    (outline,) = [each for each in patching_maps(patched(), k=1).data if each.name == "outlines"][:1]
    assert (np.mean(outline.x[:4]), np.mean(outline.y[:4])) == pytest.approx((HEAD[1], HEAD[0]))
    assert not [each for each in patching_maps(patched(), k=0).data if each.name == "outlines"]


def test_maps_of_another_measurement_stand_beside():
    record = patched()
    values = np.linspace(-1, 1, 8).reshape(4, 2)
    other = LayerMap("weights put back", values, values.astype(str).astype(object), ("attention", "MLP"), "nats", 1.0)
    figure = layer_maps([*patching_layer_maps(record, "restores"), other], "Carried, and made", "facts")
    assert names(figure)[2:] == ["layers", "weights put back"]
    boxes = [(figure.layout[f"xaxis{number}"].domain) for number in ("", 2, 3, 4)]
    assert all(before[1] < after[0] for before, after in pairwise(boxes))
    assert boxes[-1][1] == pytest.approx(1)


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (2, 4), (32, 64)])
def test_models_of_any_size_fit(n_layers, n_heads):
    record = patched(max(n_layers, 3), max(n_heads, 3))
    cut = {name: getattr(record, name)[:, :, :n_layers] for name in ("attention", "mlp", "residual")}
    cut |= {name: getattr(record, name)[:, :, :n_layers, :n_heads] for name in ("head", "z")}
    figure = patching_maps(dataclasses.replace(record, **cut))
    assert figure.layout.width <= 1080
    assert maps(figure)[0].z.shape == (n_layers, n_heads)


def test_a_report_shows_counts_maps_and_the_strongest_beside_the_controls(tmp_path):
    record = patched()
    text = write_report(tmp_path / "report.html", {"patching": record}).read_text(encoding="utf-8")
    assert "What carries the loss" in text
    assert "The base answers 8 of 12 prompts, the tuned model 2; 6 were forgotten." in text
    assert text.count("Plotly.newPlot(") == 2
    for column in ("restored (nats)", "other prompt", "kept (nats)", "learned (nats)"):
        assert column in text
    bare = dataclasses.replace(patched(n=1, roles=()), base=torch.zeros(1))
    assert "What carries the loss" in write_report(tmp_path / "bare.html", {"bare": bare}).read_text(encoding="utf-8")
