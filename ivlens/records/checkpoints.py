"""Records of checkpoints: what is measured on one of them, and many compared with their base."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..checks import checked
from ..vocabulary import Head, Metric
from .effects import HeadEffects, heads_by_effect
from .html import block, line, note, table, text
from .store import Record

MATRICES = ("W_Q", "W_K", "W_V", "W_O")
COLUMNS = 6  # a notebook shows so many checkpoints in full, the last ones


@checked
@dataclass(frozen=True, eq=False)
class HeadReading(Record):
    """A task's heads on one checkpoint: effects, and its vector as groups of clean prompts give it, for intervals.

    ``z`` is [group, chosen, d_head], the mean outputs of the base's heads, and ``parts`` [group, chosen, d_model] what
    they write; ``reselected`` is [group, d_model], the vector of as many heads chosen anew on this checkpoint.
    """

    effects: HeadEffects = field(metadata={"record": HeadEffects})
    z: Float[Tensor, "group chosen d_head"]
    parts: Float[Tensor, "group chosen d_model"]
    reselected: Float[Tensor, "group d_model"]
    heads: tuple[Head, ...] = field(metadata={"axis": "chosen"})


@dataclass(frozen=True, eq=False)
class HiddenStates(Record):
    """``residual`` is [prompt, layer, d_model]: the stream entering each block at the last token of clean prompts."""

    residual: Float[Tensor, "prompt layer d_model"]


@dataclass(frozen=True, eq=False)
class WeightChange(Record):
    """``values`` is [matrix, layer, head]: how far each head's W_Q, W_K, W_V, W_O are from the base's, relative to it.

    Query heads that share keys and values show the same change of W_K and W_V.
    """

    values: Float[Tensor, "matrix layer head"]


@checked
@dataclass(frozen=True, eq=False)
class CheckpointComparison(Record):
    """A base model and its checkpoints, task by task (2406.12227, section 4; 2502.11019, section 3).

    ``checkpoints`` are in the order given, the base first; ``rows`` hold one mapping for each checkpoint and task: the
    columns of ``to_frame``. ``recovery`` has one for each checkpoint, task and condition. ``aie`` and ``stderr`` are
    [checkpoint, task, layer, head]; ``weights`` [checkpoint, matrix, layer, head], see ``WeightChange``; ``alignment``,
    the cosine of the hidden state with the base's vector, ``stream_cosine`` and ``cka``, of the hidden states with the
    base's, are [checkpoint, task, layer]; ``head_cosine`` and ``head_norm`` [checkpoint, task, chosen] compare what the
    base's heads write now and then. ``learned`` names what each checkpoint was trained on, where that is known, and
    ``failures`` says why a checkpoint could not be measured.
    """

    rows: tuple[dict[str, Any], ...]
    recovery: tuple[dict[str, Any], ...]
    aie: Float[Tensor, "checkpoint task layer head"]
    stderr: Float[Tensor, "checkpoint task layer head"]
    weights: Float[Tensor, "checkpoint matrix layer head"]
    alignment: Float[Tensor, "checkpoint task layer"]
    stream_cosine: Float[Tensor, "checkpoint task layer"]
    cka: Float[Tensor, "checkpoint task layer"]
    head_cosine: Float[Tensor, "checkpoint task chosen"]
    head_norm: Float[Tensor, "checkpoint task chosen"]
    checkpoints: tuple[str, ...] = field(metadata={"axis": "checkpoint"})
    tasks: tuple[str, ...] = field(metadata={"axis": "task"})
    heads: tuple[tuple[Head, ...], ...] = field(metadata={"axis": "task"})
    metric: Metric
    learned: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a checkpoint and task: probabilities, accuracy, forgetting, vector, heads, recovery, verdict."""
        return pd.DataFrame(list(self.rows))

    def recovery_frame(self) -> pd.DataFrame:
        """One row a checkpoint, task and condition: accuracy with its 95% interval (low, high), probability, n."""
        return pd.DataFrame(list(self.recovery))

    def layers_frame(self) -> pd.DataFrame:
        """One row a checkpoint, task and layer: alignment, stream_cosine, cka."""
        return pd.DataFrame([
            {"checkpoint": checkpoint, "task": task, "layer": layer, "alignment": self.alignment[i, j, layer].item(),
             "stream_cosine": self.stream_cosine[i, j, layer].item(), "cka": self.cka[i, j, layer].item()}
            for i, checkpoint in enumerate(self.checkpoints) for j, task in enumerate(self.tasks)
            for layer in range(self.alignment.shape[2])
        ])  # fmt: skip

    def heads_frame(self) -> pd.DataFrame:
        """One row a checkpoint, task and head: aie, stderr, rank, and the relative change of its weights."""
        rows = []
        for i, checkpoint in enumerate(self.checkpoints):
            for j, task in enumerate(self.tasks):
                for rank, (layer, head) in enumerate(heads_by_effect(self.aie[i, j]), 1):
                    place = {"checkpoint": checkpoint, "task": task, "layer": layer, "head": head, "rank": rank}
                    effect = {
                        "aie": self.aie[i, j, layer, head].item(),
                        "stderr": self.stderr[i, j, layer, head].item(),
                    }
                    change = zip(MATRICES, self.weights[i, :, layer, head].tolist(), strict=True)
                    rows.append(place | effect | {f"change_{name}": value for name, value in change})
        return pd.DataFrame(rows)

    def matrix(self) -> pd.DataFrame:
        """Accuracy R[i, j] on task j at checkpoint i: the continual-learning matrix, the base first."""
        frame = self.to_frame().pivot(index="checkpoint", columns="task", values="accuracy")
        return frame.loc[list(self.checkpoints), list(self.tasks)]

    def sequence(self) -> pd.DataFrame:
        """Of a sequence of checkpoints, one row a task: base, best, final, forgetting, backward transfer, plasticity.

        ``forgetting``: the best accuracy before the last checkpoint minus the final one (Chaudhry et al., arXiv
        1801.10112). ``backward_transfer`` and ``plasticity`` are those of tasks that a checkpoint learned: final minus
        right after learning (Lopez-Paz and Ranzato, arXiv 1706.08840), and right after learning minus the base.
        """
        matrix, rows = self.matrix(), []
        learned = dict(zip(self.learned, self.checkpoints[1:], strict=False))
        for task in self.tasks:
            accuracy = matrix[task]
            final = accuracy.iloc[-1]
            row = {"task": task, "base": accuracy.iloc[0], "final": final}
            row["forgetting"] = accuracy.iloc[:-1].max() - final if len(accuracy) > 1 else 0.0
            at = accuracy[learned[task]] if task in learned else float("nan")
            rows.append(row | {"backward_transfer": final - at, "plasticity": at - accuracy.iloc[0]})
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a task, with its accuracy from checkpoint to checkpoint, and the verdicts."""
        base, *others = self.checkpoints
        known = {(row["checkpoint"], row["task"]): row for row in self.rows}
        shown, rows = others[-COLUMNS:], []
        for task in self.tasks:
            accuracy = [float(known.get((name, task), {}).get("accuracy", "nan")) for name in self.checkpoints]
            values = dict(zip(self.checkpoints, accuracy, strict=True))
            verdicts = [known.get((name, task), {}).get("verdict", "") for name in shown]
            drawn = line(accuracy, f"{task}: accuracy, 0 to 1, from {base} to {self.checkpoints[-1]}", limits=(0, 1))
            cells = [f"{text(values[name])} {said}" for name, said in zip(shown, verdicts, strict=True)]
            rows.append([task, drawn, values[base], *cells])
        notes = [f"the last {COLUMNS} of {len(others)} checkpoints"] * (len(others) > COLUMNS)
        notes += [f"{name} could not be measured: {why}" for name, why in self.failures.items()]
        count = f"{len(others)} checkpoint{'s' * (len(others) != 1)} beside the base"
        return block("CheckpointComparison", count, table(["task", "accuracy", base, *shown], rows), *map(note, notes))
