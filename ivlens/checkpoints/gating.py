"""``gate``: limits on a comparison's numbers, for continuous integration: failed, undecided or passed.

A measure has failed where its whole 95% interval lies beyond the limit, and passed where none of it does. Where the
interval contains the limit, more prompts would decide. What the base cannot do cannot be forgotten: it is skipped. A
limit that nothing is left for was not held to anything, so it is undecided, never passed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import pandas as pd

from ..checks import checked
from ..errors import ArgumentError
from ..records import CheckpointComparison
from ..records.abilities import general_abilities
from ..records.columns import EVIDENCE_ON_TASKS, FRAMES
from ..records.tables import interval_in
from ..text import did_you_mean, visible
from ..vocabulary import Verdict
from .rejudging import rule_of
from .verdict import TOO_FEW

Outcome = Literal["failed", "undecided", "passed", "skipped"]
COLUMNS = ("checkpoint", "task", "limit", "value", "low", "high", "outcome")
LIMIT = re.compile(r"\s*(\w+)\s*([<>])\s*([-+.\w]+)\s*")
COMPARED = [name for name in FRAMES["CheckpointComparison.to_frame"] if name not in EVIDENCE_ON_TASKS]
MEASURES = tuple(name for name in COMPARED if not {f"{name}_low", f"{name}_stderr"}.isdisjoint(COMPARED))


class Limit(NamedTuple):
    """A measure and what it may not be: above or below a number."""

    measure: str
    sign: str
    number: float

    @classmethod
    def read(cls, text: str, measures: Sequence[str] = MEASURES) -> "Limit":
        """The limit that a text such as ``forgetting>0.1`` states on one of the ``measures``.

        Raises:
            ArgumentError: no such text, or another measure.
        """
        expected = "a limit like forgetting>0.1 or accuracy<0.8"
        found = LIMIT.fullmatch(text)
        if found is None:
            raise ArgumentError(expected, repr(text), "a column, < or > and a plain number, in quotes")
        if found[1] not in measures:
            question = did_you_mean(found[1], measures)
            raise ArgumentError(f"a limit on one of {', '.join(measures)}", found[1], question or "see docs/columns.md")
        try:
            number = float(found[3])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ArgumentError(f"{expected}, with a finite number", repr(text))
        return cls(found[1], found[2], number)

    def outcome(self, low: float, high: float) -> Outcome:
        """What an interval says; undecided where it is not known."""
        if math.isnan(low) or math.isnan(high):
            return "undecided"
        beyond, within = low > self.number, high <= self.number
        if self.sign == "<":
            beyond, within = high < self.number, low >= self.number
        return "failed" if beyond else "passed" if within else "undecided"

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.number:g}"


@dataclass(frozen=True)
class Gate:
    """What limits say of each checkpoint and task; ``failures`` are checkpoints that could not be compared, and why.

    ``unheld``: by checkpoint, the limits that none of its tasks could be held to.

    Example:
        >>> from ivlens.checkpoints import gate
        >>> gate(comparison, ["forgetting>0.05"]).outcome
        'passed'
    """

    rows: tuple[Mapping[str, Any], ...]
    failures: Mapping[str, str]
    unheld: Mapping[str, Sequence[str]]

    @property
    def outcome(self) -> Outcome:
        """Failed where any limit has; else undecided where any is or was held to nothing; else passed."""
        found = {row["outcome"] for row in self.rows}
        if self.failures or "failed" in found:
            return "failed"
        return "undecided" if self.unheld or "undecided" in found or "passed" not in found else "passed"

    def to_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and limit: the value with its 95% interval (low, high), and the outcome."""
        return pd.DataFrame(list(self.rows), columns=COLUMNS)

    def as_json(self) -> str:
        """The outcome, the rows, and what was not held or compared, for programs; an unknown number is null."""
        rows = [{name: None if each != each else each for name, each in row.items()} for row in self.rows]
        facts = {"outcome": self.outcome, "limits": rows, "not_compared": dict(self.failures), "unheld": self.unheld}
        return json.dumps(facts, indent=1, allow_nan=False) + "\n"

    def as_junit(self) -> str:
        """The same as JUnit XML, a suite for each checkpoint; an error stands for what is undecided or not compared."""
        suites = ElementTree.Element("testsuites", name="ivlens")
        for checkpoint in dict.fromkeys([*(row["checkpoint"] for row in self.rows), *self.failures, *self.unheld]):
            cases = [_junit_case(row) for row in self.rows if row["checkpoint"] == checkpoint]
            errors = {f"{limit} is held": nothing_held(limit, checkpoint) for limit in self.unheld.get(checkpoint, ())}
            if checkpoint in self.failures:
                errors["is compared"] = self.failures[checkpoint]
            for name, message in errors.items():
                cases.append(ElementTree.Element("testcase", classname="checkpoint", name=name))
                ElementTree.SubElement(cases[-1], "error", message=visible(message))
            found = [each.tag for case in cases for each in case]
            counts = {"tests": len(cases), "failures": found.count("failure"), "errors": found.count("error")}
            counts["skipped"] = found.count("skipped")
            suite = ElementTree.SubElement(suites, "testsuite", name=visible(checkpoint))
            suite.attrib.update({name: str(count) for name, count in counts.items()})
            suite.extend(cases)
        ElementTree.indent(suites)
        return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _junit_case(row: Mapping[str, Any]) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=visible(row["task"]), name=row["limit"])
    if row["outcome"] != "passed":
        kind = {"failed": "failure", "undecided": "error", "skipped": "skipped"}[row["outcome"]]
        ElementTree.SubElement(case, kind, type=row["outcome"], message=visible(in_words(row)))
    return case


def in_words(row: Mapping[str, Any]) -> str:
    """A row of a gate in a line."""
    interval = f"95% interval {row['low']:.3g} to {row['high']:.3g}"
    interval = TOO_FEW if math.isnan(row["low"]) else interval
    value = "not measured" if math.isnan(row["value"]) else f"{row['value']:.3g}, {interval}"
    return f"{row['outcome']}: {row['limit']} of {row['checkpoint']} on {row['task']} ({value})"


def nothing_held(limit: str, checkpoint: str) -> str:
    """That no task of a checkpoint could be held to a limit, and what to do, in a line."""
    return (
        f"undecided: {limit} of {checkpoint}: the base is not shown to do any of the tasks, so that none could be held "
        "to it; look at how the base answers: prompts, instruction, format, chat template and shots may not suit it, "
        "or more prompts may show that it does not guess"
    )


@checked
def gate(comparison: CheckpointComparison, limits: Sequence[str]) -> Gate:
    """Hold a comparison's checkpoints to limits, task by task and for general abilities; nothing is measured.

    Args:
        comparison: a record of ``compare_checkpoints``.
        limits: what a checkpoint fails on, such as ``"forgetting>0.1"`` or ``"cosine<0.9"``: a column of ``to_frame``
            with an interval, > or <, and a number in the column's unit. Of general abilities only accuracy and
            forgetting are known.

    Returns:
        The gate: failed where a 95% interval lies beyond its limit, undecided where it contains the limit or was not
        measured, passed where it does not reach beyond. Forgetting of what the base cannot do is skipped; a limit that
        every task of a checkpoint is skipped by is undecided (``unheld``).

    Raises:
        ArgumentError: no limits, or one that is not of this form or of a column without an interval.

    Example:
        >>> from ivlens.checkpoints import gate
        >>> gate(comparison, ["forgetting>0.05", "accuracy<0.9"]).to_frame()["outcome"].tolist()
        ['passed', 'failed']
    """
    if not limits:
        raise ArgumentError("limits, one or more", "none", "give one like 'forgetting>0.1'")
    read = list(dict.fromkeys(map(Limit.read, limits)))
    rows = tuple(
        {"checkpoint": row["checkpoint"], "task": row["task"], "limit": str(limit)}
        | dict(zip(("value", "low", "high"), interval, strict=True))
        | {"outcome": "skipped" if limit.measure == "forgetting" and not able else limit.outcome(*interval[1:])}
        for row, known, able in _measured(comparison)
        for limit in read if limit.measure in known
        for interval in [interval_in(row, limit.measure)]
    )  # fmt: skip
    held = {(row["checkpoint"], row["limit"]) for row in rows if row["outcome"] != "skipped"}
    compared = [name for name in comparison.checkpoints[1:] if name not in comparison.failures]
    unheld = {name: [str(limit) for limit in read if (name, str(limit)) not in held] for name in compared}
    return Gate(rows, dict(comparison.failures), {name: found for name, found in unheld.items() if found})


def _measured(comparison: CheckpointComparison) -> Iterator[tuple[Mapping[str, Any], Sequence[str], bool]]:
    """The checkpoints' rows, which measures each has, and whether the base has the ability.

    A general ability that is also a task is asked once.
    """
    base, tasks, known = comparison.checkpoints[0], comparison.tasks, rule_of(comparison).known
    guessed = {
        row["task"] for row in comparison.rows
        if row["checkpoint"] == base and row.get("accuracy_low", 1.0) <= row.get("chance", 0.0)
    }  # fmt: skip
    for row in comparison.rows:
        if row["checkpoint"] != base:
            yield row, MEASURES, row.get("verdict") != Verdict.UNKNOWN and row["task"] not in guessed
    able = general_abilities(comparison, known)
    for row in comparison.general:
        if row["checkpoint"] != base and row["task"] not in tasks:
            own = {**row, "accuracy_low": row["low"], "accuracy_high": row["high"]}
            yield own, ("accuracy", "forgetting"), row["task"] in able
