"""A report of any records: contents that lead to them, figures, tables, provenance; data that stays text."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from ivlens import InstructionVector
from ivlens.errors import ArgumentError
from ivlens.records import (
    ConditionComparison,
    Evaluation,
    HeadEffects,
    HeadMeans,
    MethodAgreement,
    PositionEffects,
    Record,
    Stability,
    SteeringSweep,
    TrainingRun,
    TransferMatrix,
    UniversalEffects,
)
from ivlens.views import add_section, sections, write_report
from ivlens.views.sections import heads_parts
from ivlens.vocabulary import Head
from patchings import patched

MALICE = "<img src=x onerror=alert(1)>"
FACTS = {"model": {"source": "smollm2", "weights_sha256": "abc"}, "settings": {"shots": 2}}
ALL = (
    "patching",
    "heads",
    "universal",
    "positions",
    "agreement",
    "stability",
    "sweep",
    "conditions",
    "transfer",
    "run",
    "answers",
    "vector",
)
HEADINGS = [
    "Contents", "What carries the loss", "Heads that carry the instructions", "Where in the prompt heads act",
    "How far methods agree", "How stable the choice of heads is",
    "Where the vector works", "Conditions compared", "What tasks share", "Training", "Answers",
    "Vectors and other tables",
]  # fmt: skip


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))


def example(kind: str, task: str = "antonym", prompts: int = 6, steps: int = 3) -> Record:
    correct, facts = torch.ones(2, 2, prompts) > 0.5, {"provenance": FACTS}
    measured = ({"step": steps, "ability": task, "role": "new", "accuracy": 0.5, "low": 0.2, "high": 0.8, "n": 9},)
    makers: dict[str, Callable[[], Record]] = {
        "patching": lambda: patched(4, 3, prompts, task=task),
        "heads": lambda: HeadEffects(rand(prompts, 4, 3), rand(prompts), "probability", "exact", task, **facts),
        "universal": lambda: UniversalEffects(rand(4, 3), rand(4, 3), "probability", (task, "two"), 9, **facts),
        "positions": lambda: PositionEffects(
            rand(prompts, 4, 3, 2), rand(prompts), "probability", "loop", (task, "last"), task, **facts
        ),
        "agreement": lambda: MethodAgreement(
            rand(1, prompts), rand(1, prompts), rand(1), rand(1), (task,), "exact", "probability", 10, task, **facts
        ),
        "stability": lambda: Stability(rand(4, 3), 0.5, 3, prompts, 100, task, **facts),
        "sweep": lambda: SteeringSweep(
            correct[:, :, None], rand(2, 2, 1, prompts), (4, 9), (1.0, 2.0), (20,), task, **facts
        ),
        "conditions": lambda: ConditionComparison(
            correct[0], rand(2, prompts), ("bare", "bare + vector"), task, **facts
        ),
        "transfer": lambda: TransferMatrix(rand(2, 2), rand(2, 2), correct, correct[0], (task, "two"), **facts),
        "run": lambda: TrainingRun(rand(steps, 2), ("loss", "seconds"), measured, "", **facts),
        "answers": lambda: Evaluation(
            *(rand(prompts),) * 3, correct[0, 0], (task,) * prompts, ("a",) * prompts, **facts
        ),
        "vector": lambda: InstructionVector(rand(8), rand(1, 8), (Head(3, 1),), task, **facts),
    }
    return makers[kind]()


def written(tmp_path: Path, records: dict[str, Record], **options: Any) -> str:
    text = write_report(tmp_path / "report.html", records, **options).read_text(encoding="utf-8")
    assert len(text.encode()) < 10_000_000
    return text


def seen(text: str) -> str:
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)


def headings(text: str, level: int) -> list[str]:
    return re.findall(rf"<h{level}[^>]*>(.*?)</h{level}>", text)


class Anchors(HTMLParser):
    """The ids of a page, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.details = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.details += tag == "details" and ("class", "section") not in attrs


def test_records_of_every_kind_have_their_part(tmp_path: Path) -> None:
    text = written(tmp_path, {f"{kind}.safetensors": example(kind) for kind in reversed(ALL)}, title="A <title>")
    assert headings(text, 1) == ["A &lt;title&gt;"]
    assert headings(text, 2) == HEADINGS
    two = "antonym, two"
    assert headings(text, 3) == ["antonym", two, *["antonym"] * 6, two, "antonym", "answers", "antonym"]
    assert text.count("Plotly.newPlot(") == 11  # two of heads and of patching, none of agreement, answers and vector
    anchors = Anchors(seen(text))
    assert len([link for link in anchors.links if link.startswith("#record")]) == 12
    assert {link.removeprefix("#") for link in anchors.links} < {*anchors.ids}
    assert len(anchors.ids) == len({*anchors.ids})
    assert anchors.details == 12
    assert seen(text).count("<td>settings: shots</td><td>2</td>") == 12
    assert "<td>run.safetensors</td>" in text
    for told in (
        "All 12 heads",
        "share 50% with those of all prompts",
        "All 4 combinations",
        "bare + vector",
        "accuracy 1.00 (0.61 to 1.00)",
    ):
        assert told in seen(text), told


def test_it_loads_nothing_and_holds_plotly_once(tmp_path: Path) -> None:
    text = written(tmp_path, {"a": example("heads"), "b": example("sweep")})
    assert not re.search(r"""<(script|img|iframe|link|source)\b[^>]*\b(src|href)\s*=""", text, re.IGNORECASE)
    assert "://" not in seen(text)
    assert "default-src 'none'" in text
    version = re.search(r"plotly\.js v[\d.]+", text)
    assert version
    assert text.count(version[0]) == 1


def test_a_comparison_of_checkpoints_keeps_its_sections(comparison: Any, tmp_path: Path) -> None:
    text = written(tmp_path, {"comparison.safetensors": comparison(), "run": example("run")})
    assert headings(text, 2) == ["Contents", "What became of the base&#x27;s abilities", "Training"]
    assert headings(text, 4)[:3] == ["The answer", "What was compared", "Verdicts"]
    assert headings(text, 4)[-1] == "Tables"
    assert "accuracy fell by 0.20" in text
    assert "<summary>How this was measured</summary>" in text


def test_records_about_the_same_are_told_apart_by_their_files(tmp_path: Path) -> None:
    records = {"antonym.a.safetensors": example("conditions"), "b/c.d.safetensors": example("conditions")}
    text = written(tmp_path, records | {"other.safetensors": example("conditions", task="synonym")})
    assert headings(text, 3) == ["antonym.a", "antonym (b/c.d)", "synonym"]


def test_records_without_a_task_have_their_files_name(tmp_path: Path) -> None:
    several = UniversalEffects(rand(2, 2), rand(2, 2), "probability", tuple(f"task {at}" for at in range(9)), 9)
    records = {"deep/one.safetensors": example("heads", task=""), "many.safetensors": several,
               "base.safetensors": TrainingRun(rand(0, 1), ("loss",))}  # fmt: skip
    assert headings(written(tmp_path, records), 3) == ["one", "9 tasks", "base"]


LITTLE = [("heads", {"prompts": 1}), ("heads", {"prompts": 3}), ("run", {"steps": 0}), ("run", {"steps": 1})]


@pytest.mark.parametrize(("kind", "options"), [*LITTLE, ("answers", {"prompts": 1})])
def test_records_of_little_are_shown(kind: str, options: dict[str, int], tmp_path: Path) -> None:
    text = written(tmp_path, {"a": example(kind, **options)})
    assert ("No step was taken." in text) is (options == {"steps": 0})
    assert text.count("Plotly.newPlot(") == (kind != "answers" and options != {"steps": 0})


def test_an_evaluation_without_prompts_and_a_vector_without_heads_are_shown(tmp_path: Path) -> None:
    answers = Evaluation(*(torch.ones(2),) * 3, torch.ones(2).bool())
    vector = InstructionVector(rand(8), rand(0, 8), (), "random")
    text = written(tmp_path, {"answers": answers, "vector": vector})
    assert headings(text, 3) == ["answers", "random"]


def test_long_tables_say_what_they_leave_out(tmp_path: Path) -> None:
    effects = HeadEffects(rand(2, 6, 9), rand(2), "probability", "exact", "antonym")
    text = written(tmp_path, {"a": effects, "b": example("answers", prompts=60)})
    assert "The strongest 20 of 54 heads" in text
    assert "The first 50 of 60 prompts" in text


def test_a_full_page_leaves_figures_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {"a": example("conditions"), "b": example("conditions", task="synonym"), "c": example("heads")}
    whole = written(tmp_path, records)
    assert (whole.count("Plotly.newPlot("), whole.count("A figure is left out")) == (4, 0)
    figures = [each() for each in heads_parts(records["c"]) if callable(each)]
    monkeypatch.setattr("ivlens.views.report.FIGURES_LENGTH", 1 + sum(len(each.to_json()) for each in figures))
    text = written(tmp_path, records)
    assert (text.count("Plotly.newPlot("), text.count("A figure is left out")) == (2, 2)
    assert text.count("<table>") == whole.count("<table>")
    monkeypatch.setattr("ivlens.views.report.FIGURES_LENGTH", 0)
    assert len(written(tmp_path, records)) < 50_000


def test_the_key_of_a_record_is_not_said_twice(tmp_path: Path) -> None:
    key = {"model": FACTS["model"], "settings": {"shots": 2, "seed": 7}}
    run = TrainingRun(rand(1, 1), ("loss",), provenance={**FACTS, "key": key})
    text = written(tmp_path, {"run": run})
    assert "<td>key: settings: seed</td><td>7</td>" in text
    assert "key: model" not in text
    assert "key: settings: shots" not in text


def test_what_is_not_in_it_is_said(tmp_path: Path) -> None:
    text = written(tmp_path, {"a": example("run")}, broken={"cut.safetensors": "a < b"}, passed_over=3)
    assert "Passed over: 3 safetensors files" in text
    assert "<td>cut.safetensors</td><td>a &lt; b</td>" in text
    assert "Passed over" not in written(tmp_path, {"a": example("run")})


@pytest.mark.parametrize("kind", ALL)
def test_everything_is_escaped(kind: str, tmp_path: Path) -> None:
    records = {f"{MALICE}.1": example(kind, task=MALICE), f"{MALICE}.2": example(kind, task=MALICE)}
    text = written(tmp_path, records, title=MALICE, broken={MALICE: MALICE})
    assert "<img" not in seen(text)
    assert seen(text).count("&lt;img src=x") > 8


def test_records_without_a_table_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="got none"):
        write_report(tmp_path / "a.html", {})
    with pytest.raises(ArgumentError, match="shown as a table; got means"):
        write_report(tmp_path / "a.html", {"means": HeadMeans(rand(1, 1, 1), 1), "run": example("run")})
    assert not [*tmp_path.iterdir()]


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    records = {kind: example(kind) for kind in ALL}
    assert written(tmp_path, records) == written(tmp_path, records)
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


@dataclass(frozen=True, eq=False)
class Weather(Record):
    """A record of tomorrow."""

    rain: float
    task: str = "tomorrow"

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"rain": [self.rain]})


def test_a_record_of_a_new_class_has_a_section_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert headings(written(tmp_path, {"a": Weather(0.5)}), 2) == ["Contents", "Vectors and other tables"]
    monkeypatch.setattr(sections, "SECTIONS", sections.SECTIONS[:])
    monkeypatch.setattr("ivlens.views.report.SECTIONS", sections.SECTIONS)
    add_section(Weather, "Weather", "Rain < sun.", lambda weather: [go.Figure(go.Bar(x=[1], y=[weather.rain]))])
    text = written(tmp_path, {"a": Weather(0.5), "b": example("vector")})
    assert headings(text, 2) == ["Contents", "Weather", "Vectors and other tables"]
    assert "Rain &lt; sun." in text
    assert text.count("Plotly.newPlot(") == 1
