"""Attention views: what they hold, what they refuse, and that they load nothing."""

import json
import re
from pathlib import Path
from urllib import request

import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.views import Html, attention_view

TOKENS = ["<s>", " The", "\n", " capital"]


def patterns(heads: int = 2, tokens: int = 4) -> torch.Tensor:
    return torch.softmax(torch.randn(heads, tokens, tokens, generator=torch.Generator().manual_seed(0)), -1).tril()


def props(view: Html) -> dict:
    """What is handed to circuitsvis, parsed back."""
    return json.loads(re.search(r'CircuitsVis\.AttentionHeads,\s*(\{"attention.*\})\s*\)\s*</script>', view.html)[1])


def test_tokens_names_and_weights_arrive() -> None:
    view = attention_view(TOKENS, patterns(), ["20.5", "3.8"])
    held = props(view)
    assert held["tokens"] == ["<s>", " The", "↵", " capital"]
    assert held["attentionHeadNames"] == ["20.5", "3.8"]
    assert torch.tensor(held["attention"]).allclose(patterns(), atol=1e-4)


def test_half_precision_and_gradients_are_accepted() -> None:
    held = props(attention_view(TOKENS, patterns().bfloat16().requires_grad_(), ["20.5", "3.8"]))
    assert torch.tensor(held["attention"]).allclose(patterns(), atol=4e-3)


def test_it_loads_nothing_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(request, "urlopen", refuse)
    text = attention_view(TOKENS, patterns(), ["20.5", "3.8"])._repr_html_()
    assert "unpkg" not in text
    assert not re.search(r"""<script[^>]*\ssrc=|<link|\bimport\s*[{"'(]""", text)


def test_a_token_cannot_leave_its_script() -> None:
    evil = ["</script><img src=x onerror=alert(1)>", "<!--<script>", '"]})', " "]
    view = attention_view(evil, patterns(), ["</script>", "b"])
    assert view.html.count("</script>") == 1
    assert view.html.endswith("</script>")
    assert "<!--" not in view.html
    assert props(view)["tokens"] == [*evil[:3], "␣"]


def test_its_element_is_closed() -> None:
    assert re.match(r'<div id="[\w-]+" style="[^"]*"></div>', attention_view(TOKENS, patterns(), ["a", "b"]).html)
    assert re.search(r'<div id="[\w-]+" style="[^"]*"></div>', attention_view(TOKENS, patterns(1), ["a"]).html)


def test_a_single_head_needs_no_choosing_and_keeps_its_name() -> None:
    view = attention_view(TOKENS, patterns(1), ["</b>20.5"])
    assert view.html.startswith("<div><b>&lt;/b&gt;20.5</b></div>")
    held = json.loads(re.search(r'CircuitsVis\.AttentionPattern,\s*(\{"tokens.*\})\s*\)\s*</script>', view.html)[1])
    assert held["tokens"] == ["<s>", " The", "↵", " capital"]
    assert torch.tensor(held["attention"]).allclose(patterns(1)[0], atol=1e-4)
    assert held["showAxisLabels"]


@pytest.mark.parametrize(
    ("tokens", "names", "shape"),
    [
        (TOKENS[:3], ["a", "b"], (2, 4, 4)),
        (TOKENS, ["a"], (2, 4, 4)),
        (TOKENS, ["a", "b"], (2, 1, 4)),
        ([], [], (0, 0, 0)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tokens: list[str], names: list[str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="patterns of shape"):
        attention_view(tokens, torch.ones(shape), names)


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="finite"):
        attention_view(TOKENS, patterns() * torch.nan, ["a", "b"])


def test_it_saves_as_a_document(tmp_path: Path) -> None:
    view = attention_view(["é", "日", "b", "c"], patterns(), ["a", "b"])
    path = view.save(tmp_path / "deep" / "view.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert view.html in text
