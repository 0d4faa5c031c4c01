"""What a report costs, by what is done how often: each interval once, no figure beyond the page's room."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plotly.basedatatypes import BaseFigure

from comparisons import made
from ivlens.records import (
    CheckpointPatching,
    HeadEffects,
    Record,
    Repair,
    TrainingRun,
    WeightReverts,
    prompts_needed,
    top_k_stability,
)
from ivlens.views import write_report
from ivlens.views.explorer.figures import draw_map, empty_map
from ivlens.views.explorer.static_map import map_picture
from patchings import patched
from repairs import repaired
from reverted import reverted

GENEROUS = 60  # CPU seconds; a tenth of it is expected


def counted(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> Counter[Any]:
    """How often a method is called with which arguments, from now on."""
    calls: Counter[Any] = Counter()
    method: Callable[..., Any] = getattr(kind, name)

    def count(self: Any, *given: Any) -> Any:
        calls[id(self), str(given)] += 1
        return method(self, *given)

    monkeypatch.setattr(kind, name, count)
    return calls


@pytest.mark.parametrize(
    ("make", "kind", "name"),
    [
        (lambda: patched(4, 3), CheckpointPatching, "_frame_of"),
        (lambda: reverted(4), WeightReverts, "_numbers"),
        (repaired, Repair, "_gain"),
    ],
)
def test_each_interval_is_computed_once(
    make: Callable[[], Record], kind: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, record = counted(monkeypatch, kind, name), make()
    frame = record.to_frame()  # as the gathering of records does
    write_report(tmp_path / "report.html", {"a": record})
    assert calls
    by_task = {call: n for call, n in calls.items() if "'task'" in call[1]} or calls  # gains by role are a few more
    assert set(by_task.values()) == {1}
    assert frame.equals(record.to_frame())


def test_figures_are_checked_once_and_not_drawn_where_the_page_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {"a": made(n_layers=4, n_heads=3), "b": patched(4, 3), "c": effects(6, 4, 3), "d": reverted(4)}
    updates, checked, initialize = [], [], BaseFigure.__init__
    monkeypatch.setattr(BaseFigure, "plotly_update", lambda *given, **more: updates.append(more))
    monkeypatch.setattr(
        BaseFigure, "__init__", lambda *given, **more: (checked.append(1), initialize(*given, **more))[1]
    )
    text = write_report(tmp_path / "report.html", records).read_text(encoding="utf-8")
    assert updates == []
    assert len(checked) == text.count("Plotly.newPlot(") > 15
    checked.clear()
    monkeypatch.setattr("ivlens.views.report.FIGURES_LENGTH", 0)
    write_report(tmp_path / "report.html", records)
    assert checked == []


def test_many_records_take_seconds(tmp_path: Path) -> None:
    records: dict[str, Record] = {f"heads {at}": effects(25, 30, 9, f"task {at}") for at in range(20)}
    records |= {f"run {at}": TrainingRun(torch.rand(40, 3).double(), ("loss", "kl", "seconds")) for at in range(20)}
    records |= {f"comparison {at}": made(n_layers=12, n_heads=8) for at in range(3)}
    started = time.process_time()
    write_report(tmp_path / "report.html", records)
    assert time.process_time() - started < GENEROUS


def test_a_map_of_80_layers_of_64_heads_over_500_prompts_takes_seconds(tmp_path: Path) -> None:
    large = effects(500, 80, 64)
    started = time.process_time()
    write_report(tmp_path / "report.html", {"large": large})
    low, high = large.interval()
    stability = top_k_stability(large, 10)
    figure = empty_map((80, 64), "probability")
    draw_map(figure, large, "large")
    assert map_picture(figure).startswith("<img")
    assert time.process_time() - started < GENEROUS
    assert bool((low <= large.aie).all() & (large.aie <= high).all())
    assert stability.probability.sum().item() == pytest.approx(10)
    assert len(prompts_needed(large, 10, sizes=[250], resamples=5)) == 1


def effects(n_prompts: int, layers: int, heads: int, task: str = "antonym") -> HeadEffects:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(n_prompts, layers, heads, generator=draw)
    return HeadEffects(values, torch.rand(n_prompts, generator=draw), "probability", "exact", task)
