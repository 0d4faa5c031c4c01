"""Figures and pages for any name: twenty panels, names of every kind and length, each shown letter by letter."""

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from ivlens import (
    ConditionComparison,
    HeadEffects,
    PositionEffects,
    RecordError,
    Stability,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
    views,
)
from ivlens.records import CheckpointComparison
from patchings import patched
from repairs import repaired
from reverted import reverted

pytestmark = pytest.mark.slow

NAMES = {
    "markup": '<b>bold</b><a href="javascript:alert(1)">a</a><img src=x onerror=alert(1)></script><br>&amp;',
    "long": "x" * 100_000,
    "words": "word " * 20_000,
    "empty": "",
    "blank": "   ",
    "lines": "a\nb\r\n c\td",
    "template": "%{x} %{customdata[0]} %s {y} %%",
    "mathematics": r"$\alpha$ and $x^2$",
    "direction": "שלום \u202egnirts",
    "emoji": "👩‍👩‍👧 é 日本",
    "control": "a\x1b[31m\0\x07b",
}
TALLEST = 25_000  # pixels of a figure of twenty panels of the longest names
TAGS = re.compile(r"</?(?:b|br|span)(?: style=['\"][^'\"<>]*['\"])?/?>|<extra></extra>")  # those of ivlens itself


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def effects(task: str) -> HeadEffects:
    return HeadEffects(draw(5, 3, 4), draw(5), "log-probability", "exact", task)


def run_of(names: list[str]) -> TrainingRun:
    known = {"low": 0.4, "high": 0.6, "n": 9, "accuracy": 0.5, "cosine": 0.9, "norm_ratio": 1.0, "alignment": 0.5}
    measured = [{"step": step, "ability": name, "role": "keep"} | known for step in (0, 3) for name in names]
    return TrainingRun(draw(4, 2), ("loss", "kl"), tuple(measured))


def figures(names: list[str], made: Callable[..., CheckpointComparison]) -> Iterator[tuple[str, go.Figure]]:
    """Every figure whose names are not its own."""
    few, name, count = names[:3], names[0], len(names)
    compared = made(("base", *few), tuple(few), learned=(name,))
    answers = [
        ConditionComparison(draw(3, 6) > 0.5, draw(3, 6), ("bare", f"random {name}", name), each) for each in names
    ]
    points = pd.DataFrame({"method": names, "setting": names, "panel": names, "learned": 0.5, "kept": 0.5})
    shared = TransferMatrix(
        draw(count, count), draw(count, count), draw(count, count, 6) > 0.5, draw(count, 6) > 0.5, tuple(names)
    )
    sweep = SteeringSweep(draw(2, 3, 2, 6) > 0.5, draw(2, 3, 2, 6), (0, 1), (1.0, 2.0, 3.0), (5, 6), name)
    places = PositionEffects(draw(5, 3, 4, count), draw(5), "log-probability", "exact", tuple(names), name)
    yield "head map", views.head_heatmap(effects(name))
    yield "head maps", views.head_heatmaps([effects(each) for each in names], title=name)
    yield "shared scale", views.head_heatmaps([effects(each) for each in names], shared_scale=True)
    yield "conditions", views.comparison_bars(answers, title=name)
    yield "sweep", views.sweep_heatmap(sweep)
    yield "places", views.position_heatmap(places)
    yield "training", views.training_curves(run_of(names))
    yield "trainings", views.training_curves({each: run_of([name]) for each in few}, title=name)
    yield "trade-off", views.tradeoff_scatter(points, title=name, facts=name)
    yield "transfer", views.transfer_heatmaps(shared, title=name)
    yield "checkpoints", views.checkpoint_heatmap(compared)
    yield "changes", views.head_change_maps(compared, name)
    yield "summary", views.checkpoint_summary(compared, title=name)
    yield "alignment", views.alignment_by_layer(compared)
    yield "trajectories", views.checkpoint_trajectories(compared)
    yield "patching", views.patching_maps(patched(task=name))
    yield "recovery", views.recovery_bars(compared)
    yield "trials of a repair", views.repair_tradeoff(repaired(), title=name)
    yield "fractions of a repair", views.repair_fractions(repaired(), title=name)
    yield "reverting", views.reverting_maps(reverted(name=name, task=name), title=name)
    yield "straight way", views.reverting_curves(reverted(name=name, task=name), title=name)


def texts(value: Any, key: str = "") -> Iterator[str]:
    """All texts that plotly reads markup in."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name not in ("legendgroup", "template"):
                yield from texts(each, name)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from texts(each, key)
    elif isinstance(value, str):
        yield value


def several(name: str, count: int) -> list[str]:
    """Different names that begin and end like ``name``."""
    return [name, *(f"{name}{at}{name}" for at in range(1, count))]


@pytest.mark.parametrize("kind", NAMES)
def test_every_figure_bears_every_name_letter_by_letter(
    kind: str, comparison: Callable[..., CheckpointComparison]
) -> None:
    name = NAMES[kind]
    for count in (1, 3):
        for what, figure in figures(several(name, count), comparison):
            shown = list(texts(figure.to_dict()))
            assert max(map(len, shown)) < 5_000, (what, "is not cut")
            for text in shown:
                rest = TAGS.sub("", text)
                assert "<" not in rest, (what, text)
                assert not {"\x1b", "\0", "\u202e"} & {*rest}, (what, text)
                assert "$" not in rest, (what, text)
                if kind == "template":
                    assert "%{x} %{" not in text, (what, text)
            assert figure.layout.height < TALLEST, what


@pytest.mark.parametrize("name", ["a task", NAMES["markup"], NAMES["long"][:3000]])
def test_twenty_panels_in_one_figure(name: str, comparison: Callable[..., CheckpointComparison]) -> None:
    for what, figure in figures(several(name, 20), comparison):
        assert 0 < figure.layout.height < TALLEST, what
        assert len(figure.to_json()) < 20_000_000, what


def test_what_plotly_decodes_is_the_name_again(comparison: Callable[..., CheckpointComparison]) -> None:
    name = NAMES["markup"] + NAMES["template"] + NAMES["mathematics"]
    title = views.head_heatmap(effects(name)).layout.title.text.split("<br><span")[0]
    assert html.unescape(title.replace("<br>", "")).replace(" ", "") == name.replace(" ", "")


@pytest.mark.parametrize("kind", [*NAMES, "surrogate"])
def test_a_page_and_a_report_bear_every_name(kind: str, tmp_path: Path) -> None:
    name = NAMES.get(kind, "a\udcffb\ud800")
    tables = [pd.DataFrame({"name": ["shown"], "value": [1.5]}), views.prose(name)]
    text = views.write_page(tmp_path / "page.html", name, [(name, tables)]).read_text(encoding="utf-8")
    records = {f"{at}.safetensors": each for at, each in enumerate((effects(name), run_of([name])))}
    report = views.write_report(tmp_path / "report.html", records, title=name).read_text(encoding="utf-8")
    for each in (text, report):
        body = each[each.index("<body>") :]
        assert "<img" not in body
        assert 'javascript:alert(1)"' not in re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)
        assert not {"\x1b", "\0", "\u202e"} & {*body}
    if kind == "surrogate":
        assert "a\\udcffb\\ud800" in text
        assert "a\\udcffb\\ud800" in report


def test_one_odd_record_does_not_end_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its rendering raises is said of it, and the others are shown."""

    def odd(record: Stability) -> pd.DataFrame:
        raise TypeError("'NoneType' object is not iterable")

    monkeypatch.setattr(Stability, "to_frame", odd)
    failed: dict[str, str] = {}
    records = {"odd.safetensors": Stability(draw(3, 4), 0.5, 2, 5, 9), "good.safetensors": effects("good")}
    path = views.write_report(tmp_path / "report.html", records, failed=failed.__setitem__)
    text = path.read_text(encoding="utf-8")
    assert failed == {"odd.safetensors": "TypeError: 'NoneType' object is not iterable"}
    assert "<td>odd.safetensors</td>" in text
    assert ">good</h3>" in text
    del records["good.safetensors"]
    with pytest.raises(RecordError, match=r"that can be shown; got odd\.safetensors"):
        views.write_report(tmp_path / "none.html", records)
    assert not (tmp_path / "none.html").exists()
