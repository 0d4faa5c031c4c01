"""All that is measured of every checkpoint, task by task, and the comparison that it becomes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..records import CheckpointComparison, HeadReading
from ..tasks import Prompt, Task
from .cells import BASE_VECTOR, OTHER_VECTOR, OWN_VECTOR, Cells, vector_of
from .sources import check_comparable
from .subject import Subject
from .summary import (
    Measured,
    alignment,
    head_change,
    mean_vector,
    stream_cka,
    stream_cosine,
    task_row,
)
from .tokens import check_same_tokens

Found = tuple[dict[str, Measured], Tensor]


@dataclass
class Measuring:
    """What is to be measured of every checkpoint, and what was measured of the base before."""

    cells: Cells
    tasks: list[Task]
    base: Subject
    before: dict[str, Measured] = field(default_factory=dict)
    places: dict[str, tuple[int, float]] = field(default_factory=dict)
    tokenizer: Any = None

    def measure(self, subject: Subject) -> Found:
        """All cells of one checkpoint: its tasks, and how far its heads' weights are from the base's."""
        if subject is self.base:
            self.cells.config.check_model(subject.facts["n_layers"], subject.facts["n_heads"])
            self.cells.keep_attention(subject)
            self.tokenizer = subject.tokenizer()
        else:
            self._check_comparable(subject)
        readings = {task.name: self._reading(subject, task) for task in self.tasks}
        if subject is self.base:
            for task in self.tasks:
                sweep = self.cells.sweep(subject, task, vector_of(readings[task.name], task))
                self.places[task.name] = sweep.best()[:2]
        found = {task.name: self._task(subject, task, readings) for task in self.tasks}
        if subject is self.base:
            self.before = found
        return found, self.cells.weights(subject, self.base).values

    def record(
        self, found: Mapping[str, Found], failures: Mapping[str, str], learned: tuple[str, ...]
    ) -> CheckpointComparison:
        """The comparison of all that was measured."""
        names, tasks = tuple(found), tuple(task.name for task in self.tasks)
        cells = [[found[name][0][task] for task in tasks] for name in names]
        before, config = cells[0], self.cells.config

        def table(value: Callable[[Measured, Measured], Tensor]) -> Tensor:
            return torch.stack([
                torch.stack([value(now, base) for now, base in zip(row, before, strict=True)]) for row in cells
            ])  # fmt: skip

        rows, recovery = [], []
        for name, row in zip(names, cells, strict=True):
            shared = [mean_vector([each.reading for each in of]) for of in (before, row)] if len(tasks) > 1 else []
            for task, now, base in zip(tasks, row, before, strict=True):
                place = {"checkpoint": name, "task": task}
                changed = _weight_change(found[name][1], base.reading)
                rows.append(place | task_row(now, base, shared, config) | changed)
                told = now.recovery.to_frame().drop(columns="task").to_dict("records")
                recovery += [place | {str(key): value for key, value in each.items()} for each in told]
        return CheckpointComparison(
            tuple(rows), tuple(recovery),
            table(lambda now, base: now.reading.effects.aie), table(lambda now, base: now.reading.effects.stderr),
            torch.stack([weights for _, weights in found.values()]),
            table(lambda now, base: alignment(now, base).mean(1)), table(stream_cosine), table(stream_cka),
            table(lambda now, base: head_change(now.reading, base.reading)[0]),
            table(lambda now, base: head_change(now.reading, base.reading)[1]),
            names, tasks, tuple(each.reading.heads for each in before), config.metric, learned, dict(failures),
            provenance={"model": self.base.facts, "settings": {"comparison": asdict(config), "places": self.places}},
        )  # fmt: skip

    def _check_comparable(self, subject: Subject) -> None:
        """Raise MismatchError unless the numbers of a checkpoint and the base mean the same."""
        base, now = self.base.facts, subject.facts
        check_comparable(base, now)
        if any(base.get(name) != now.get(name) for name in ("tokenizer_sha256", "bos")):
            check_same_tokens(subject.name, self.tokenizer, subject.tokenizer(), self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        """Clean prompts of both splits, as they are asked."""
        config = self.cells.config
        for task in self.tasks:
            for split, n in (("train", config.n_clean), ("test", config.n_test)):
                there = min(n, len(task.split(split)))
                yield from task.prompts(there, shots=config.shots, split=split, seed=config.seed)

    def _reading(self, subject: Subject, task: Task) -> HeadReading:
        heads = None if subject is self.base else self.before[task.name].reading.heads
        return self.cells.reading(subject, task, heads)

    def _task(self, subject: Subject, task: Task, readings: Mapping[str, HeadReading]) -> Measured:
        cells, (layer, scale) = self.cells, self.places[task.name]
        bases = {name: each.reading for name, each in self.before.items()} or readings
        vectors = {
            BASE_VECTOR: vector_of(bases[task.name], task),
            OWN_VECTOR: vector_of(readings[task.name], task, reselected=True),
        }
        if len(self.tasks) > 1:
            other = self.tasks[(self.tasks.index(task) + 1) % len(self.tasks)]
            vectors[OTHER_VECTOR] = vector_of(bases[other.name], other)
        return Measured(
            cells.answers(subject, task), cells.knowledge(subject, task), readings[task.name],
            cells.hidden(subject, task), cells.recovery(subject, task, vectors, layer, scale), layer,
        )  # fmt: skip


def _weight_change(weights: Tensor, base: HeadReading) -> dict[str, float]:
    """Mean relative change over the four matrices: of the base's heads of a task, and of all others."""
    mean = weights.double().mean(0)
    chosen = torch.zeros_like(mean, dtype=torch.bool)
    for layer, head in base.heads:
        chosen[layer, head] = True
    return {"weight_change_top": mean[chosen].mean().item(), "weight_change_rest": mean[~chosen].mean().item()}
