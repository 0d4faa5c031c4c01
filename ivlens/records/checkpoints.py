"""Records of checkpoints: the measures of one, and many compared with their base."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..checks import checked
from ..vocabulary import Head, Verdict
from .effects import HeadEffects, heads_by_effect
from .html import block, line, note, table, text
from .store import Record, todays_condition

MATRICES = ("W_Q", "W_K", "W_V", "W_O")
COLUMNS = 6  # checkpoints that a notebook shows in full: the last ones

# Columns of ``CheckpointComparison.to_frame`` that comparisons saved by the first version lack.
LATER_COLUMNS = (
    "chance", "knowledge_fraction_low", "knowledge_fraction_high", "lost", "won", "mcnemar", "lost_adjusted",
    "won_adjusted",
    "probability_fall", "probability_fall_low", "probability_fall_high", "first_token_change", "rest_change",
    "subtracted", "subtracted_random", "subtracted_gain", "subtracted_gain_low", "subtracted_gain_high",
    "subtracted_fraction", "subtracted_fraction_low", "subtracted_fraction_high", "subtracted_fraction_p",
    "subtracted_fraction_p_low", "subtracted_fraction_p_high", "recovered_fraction_p", "recovered_fraction_p_low",
    "recovered_fraction_p_high", "subtracted_layer",
    "subtracted_scale", "spillover", "spillover_low", "spillover_high", "spillover_base", "copied", "copied_base",
    "kl_new", "kl_text", "weight_distance", "relearned", "relearned_gain", "relearned_gain_low",
    "relearned_gain_high", "relearned_fraction", "relearned_fraction_low", "relearned_fraction_high", "relearned_n",
    "anew_gain", "prompts_to_decide", "n_available",
)  # fmt: skip
EVIDENCE_COLUMNS = ["checkpoint", "task", "kind", "value", "low", "high", "threshold", "opinion", "prompts",
                    "prompts_needed"]  # fmt: skip
SPECTRUM_COLUMNS = ["checkpoint", "layer", "matrix", "change", "stable_rank", "rank90"]
REPLY_COLUMNS = ["checkpoint", "task", "prompt", "text", "bare", "answer", "reply", "correct", "steered",
                 "steered_correct"]  # fmt: skip
GENERAL_COLUMNS = ["checkpoint", "task", "n", "accuracy", "low", "high", "chance", "forgetting", "forgetting_low",
                   "forgetting_high"]  # fmt: skip


@checked
@dataclass(frozen=True, eq=False)
class HeadReading(Record):
    """A task's heads on one checkpoint: effects, and the vector from each group of clean prompts, for intervals.

    Args:
        effects: of every head on the corrupted prompts.
        z: [group, chosen, d_head], mean outputs of the base's heads at the last token, before W_O.
        parts: [group, chosen, d_model], what these heads write; their sum over ``chosen`` is the vector.
        reselected: [group, d_model], the vector of as many heads chosen anew on this checkpoint.
        heads: the base's heads, in the order of ``chosen``.
    """

    effects: HeadEffects = field(metadata={"record": HeadEffects})
    z: Float[Tensor, "group chosen d_head"]
    parts: Float[Tensor, "group chosen d_model"]
    reselected: Float[Tensor, "group d_model"]
    heads: tuple[Head, ...] = field(metadata={"axis": "chosen"})


@dataclass(frozen=True, eq=False)
class HiddenStates(Record):
    """The streams that enter each block of one checkpoint at the last token of clean prompts.

    Args:
        residual: [prompt, layer, d_model].
    """

    residual: Float[Tensor, "prompt layer d_model"]


@dataclass(frozen=True, eq=False)
class WeightChange(Record):
    """How far each head's matrices are from the base's, in Frobenius norm relative to the base's.

    Query heads that share keys and values show the same change of W_K and W_V.

    Args:
        values: [matrix, layer, head], the matrices in the order of ``MATRICES``: W_Q, W_K, W_V, W_O; not-a-number where
            queries, keys and values are parts of one joint matrix, which are not known.
    """

    values: Float[Tensor, "matrix layer head"]


def _with_todays_verdict(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose verdict "undecided" is the one of two that its reason tells, with the number of prompts in it.

    A reason without a kind of evidence ends after the fall: whether there is one was undecided.
    """
    because = str(row.get("because"))
    if row.get("verdict") != "undecided":
        return row
    of_evidence = any(said in because for said in ("brings back", "answer has", "may restore it"))
    needed = re.search(r"about ([\d,]+) prompts would", because)
    number = float(needed[1].replace(",", "")) if needed else float("nan")
    verdict = Verdict.OPEN if of_evidence else Verdict.UNSHOWN
    return row | {"verdict": verdict.value, "prompts_to_decide": number}


@checked
@dataclass(frozen=True, eq=False)
class CheckpointComparison(Record):
    """A base model and its checkpoints, task by task (2406.12227, section 4; 2502.11019, section 3).

    Args:
        rows: the columns of ``to_frame``, one mapping per checkpoint and task.
        recovery: the columns of ``recovery_frame``, one mapping per checkpoint, task and condition.
        aie: [checkpoint, task, layer, head], average indirect effects, in the unit of ``metric``.
        stderr: [checkpoint, task, layer, head], their standard errors over prompts.
        weights: [checkpoint, matrix, layer, head], see ``WeightChange``.
        alignment: [checkpoint, task, layer], cosine of the hidden state with the base's vector.
        stream_cosine: [checkpoint, task, layer], cosine of the hidden state with the base's.
        cka: [checkpoint, task, layer], linear CKA of the hidden states with the base's.
        head_cosine: [checkpoint, task, chosen], cosine of what the base's heads write with what they wrote in the base.
        head_norm: [checkpoint, task, chosen], the norm of what they write, relative to the base's.
        checkpoints: names, in the order of the arguments, the base first.
        tasks: names.
        heads: the base's heads of each task, in the order of ``chosen``.
        metric: of the effects.
        learned: the task that each checkpoint but the base was trained on, where known.
        failures: why a checkpoint could not be measured, by its name.
        evidence: the columns of ``evidence_frame``, one mapping per checkpoint, task and kind of evidence.
        spectrum: the columns of ``spectrum_frame``, one mapping per checkpoint and matrix.
        general: the columns of ``general_frame``, one mapping per checkpoint and general ability.
        prompts: one mapping per task and test prompt: task, prompt (its number), instruction, text, bare (the text
            without instruction and demonstrations), answer.
        replies: one mapping per checkpoint, task and test prompt: the columns of ``replies_frame`` that ``prompts``
            lacks.

    Example:
        >>> comparison.checkpoints  # of iv.compare_checkpoints(model, {"same": model}, [task])
        ('base', 'same')
        >>> comparison.aie.shape == (2, 1, model.cfg.n_layers, model.cfg.n_heads)
        True
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
    metric: str
    learned: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[dict[str, Any], ...] = field(default=(), metadata={"added": True})
    spectrum: tuple[dict[str, Any], ...] = field(default=(), metadata={"added": True})
    general: tuple[dict[str, Any], ...] = field(default=(), metadata={"added": True})
    prompts: tuple[dict[str, Any], ...] = field(default=(), metadata={"added": True})
    replies: tuple[dict[str, Any], ...] = field(default=(), metadata={"added": True})

    def _with_todays_names(self) -> Self:
        recovery = tuple(row | {"condition": todays_condition(str(row["condition"]))} for row in self.recovery)
        return replace(self, recovery=recovery, rows=tuple(map(_with_todays_verdict, self.rows)))

    @property
    def joint_matrices(self) -> tuple[str, ...]:
        """Matrices whose change is unknown, since a model has them in one joint matrix whose parts are not known."""
        unknown = self.weights.isnan().all(-1).all(-1).any(0)
        return tuple(name for name, each in zip(MATRICES, unknown.tolist(), strict=True) if each)

    def to_frame(self) -> pd.DataFrame:
        """One row per checkpoint and task: probabilities, accuracy, forgetting, vector, heads, recovery, verdict.

        Returns:
            The columns of ``rows``; forgetting is the base's accuracy minus the checkpoint's. Columns of later versions
            are not a number in a comparison that was saved before them.

        Example:
            >>> comparison.to_frame()["forgetting"].tolist()
            [0.0, 0.0]
        """
        frame = pd.DataFrame(list(self.rows))
        later = [name for name in LATER_COLUMNS if name not in frame]
        return frame.join(pd.DataFrame(float("nan"), frame.index, later))

    def evidence_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and kind of evidence on whether a lost ability is still there.

        Returns:
            checkpoint, task, kind, value (a fraction) with its 95% interval (low, high), threshold of the verdict's
            rule, opinion, prompts, and prompts_needed to decide it where it is undecided.

        Example:
            >>> comparison.evidence_frame()["kind"].tolist()[:2]
            ["base's vector added", "new task's vector subtracted"]
        """
        return pd.DataFrame(list(self.evidence), columns=EVIDENCE_COLUMNS)

    def spectrum_frame(self) -> pd.DataFrame:
        """One row per checkpoint and matrix of its blocks: the change from the base's.

        Returns:
            checkpoint, layer, matrix, change, stable_rank, rank90.

        Example:
            >>> comparison.spectrum_frame()["change"].unique().tolist()
            [0.0]
        """
        return pd.DataFrame(list(self.spectrum), columns=SPECTRUM_COLUMNS)

    def general_frame(self) -> pd.DataFrame:
        """One row per checkpoint and general ability, the base's first: answers alone.

        Returns:
            checkpoint, task, n, accuracy with its 95% interval (low, high), chance (the accuracy of guessing among the
            options), and forgetting (the base's accuracy minus the checkpoint's, on the same prompts) with its 95%
            interval; no rows where they were not asked or do not fit the model's context.

        Example:
            >>> comparison.general_frame().columns.tolist()[:3]
            ['checkpoint', 'task', 'n']
        """
        return pd.DataFrame(list(self.general), columns=GENERAL_COLUMNS)

    def replies_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and test prompt: what was asked, and what the checkpoint answered.

        Returns:
            checkpoint, task, prompt (its number), text, bare (the text without instruction and demonstrations), answer,
            reply (to the text), correct, steered (the reply to the bare text with the base's vector added), and
            steered_correct; no rows in a comparison that was saved before answers were kept.

        Example:
            >>> len(comparison.replies_frame()) == 2 * len(comparison.prompts)
            True
        """
        asked = {(row["task"], row["prompt"]): row for row in self.prompts}
        rows = [asked[row["task"], row["prompt"]] | row for row in self.replies]
        return pd.DataFrame(rows, columns=REPLY_COLUMNS)

    def recovery_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and condition: answers to bare prompts with vectors added, and to clean prompts.

        Returns:
            checkpoint, task, condition, accuracy with its 95% interval (low, high), probability, n.

        Example:
            >>> comparison.recovery_frame()["condition"].tolist()[:3]
            ['bare', 'clean', "bare + base's vector"]
        """
        return pd.DataFrame(list(self.recovery))

    def layers_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and layer.

        Returns:
            checkpoint, task, layer, alignment, stream_cosine, cka.

        Example:
            >>> len(comparison.layers_frame()) == 2 * model.cfg.n_layers
            True
        """
        return pd.DataFrame([
            {"checkpoint": checkpoint, "task": task, "layer": layer, "alignment": self.alignment[i, j, layer].item(),
             "stream_cosine": self.stream_cosine[i, j, layer].item(), "cka": self.cka[i, j, layer].item()}
            for i, checkpoint in enumerate(self.checkpoints) for j, task in enumerate(self.tasks)
            for layer in range(self.alignment.shape[2])
        ])  # fmt: skip

    def heads_frame(self) -> pd.DataFrame:
        """One row per checkpoint, task and head, the strongest first.

        Returns:
            checkpoint, task, layer, head, rank (from 1), aie, stderr, and change_W_Q, change_W_K, change_W_V and
            change_W_O: the change of the head's weights, relative to the base's.

        Example:
            >>> comparison.heads_frame()["change_W_O"].unique().tolist()
            [0.0]
        """
        rows = []
        for i, checkpoint in enumerate(self.checkpoints):
            for j, task in enumerate(self.tasks):
                for rank, (layer, head) in enumerate(heads_by_effect(self.aie[i, j]), 1):
                    changes = zip(MATRICES, self.weights[i, :, layer, head].tolist(), strict=True)
                    rows.append({
                        "checkpoint": checkpoint, "task": task, "layer": layer, "head": head, "rank": rank,
                        "aie": self.aie[i, j, layer, head].item(), "stderr": self.stderr[i, j, layer, head].item(),
                        **{f"change_{name}": value for name, value in changes},
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def matrix(self) -> pd.DataFrame:
        """Accuracy R[i, j] on task j at checkpoint i: the continual-learning matrix (arXiv 1706.08840).

        Returns:
            One row per checkpoint, the base first; one column per task.

        Example:
            >>> comparison.matrix().shape
            (2, 1)
        """
        frame = self.to_frame().pivot(index="checkpoint", columns="task", values="accuracy")
        return frame.loc[list(self.checkpoints), list(self.tasks)]

    def sequence(self) -> pd.DataFrame:
        """One row per task of a sequence of checkpoints: what was forgotten and what was learned.

        Returns:
            task, base and final (accuracies), fall_from_best (the best accuracy before the last checkpoint minus the
            final one, which Chaudhry et al., arXiv 1801.10112, call forgetting), and for tasks that a checkpoint
            learned, backward_transfer (final minus right after learning: Lopez-Paz and Ranzato, arXiv 1706.08840) and
            plasticity (right after learning minus base).

        Example:
            >>> comparison.sequence()["plasticity"].tolist()
            [0.0]
        """
        matrix, rows = self.matrix(), []
        learned = dict(zip(self.learned, self.checkpoints[1:], strict=False))
        for task in self.tasks:
            accuracy = matrix[task]
            final = accuracy.iloc[-1]
            row = {"task": task, "base": accuracy.iloc[0], "final": final}
            row["fall_from_best"] = accuracy.iloc[:-1].max() - final if len(accuracy) > 1 else 0.0
            after = accuracy[learned[task]] if task in learned else float("nan")  # right after learning the task
            rows.append(row | {"backward_transfer": final - after, "plasticity": after - accuracy.iloc[0]})
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: one row per task with its accuracy from checkpoint to checkpoint and the verdicts."""
        base, *others = self.checkpoints
        last = others[-COLUMNS:]
        notes = [f"the last {COLUMNS} of {len(others)} checkpoints"] if len(others) > COLUMNS else []
        notes += [f"{name} could not be measured: {why}" for name, why in self.failures.items()]
        count = f"{len(others)} {'checkpoint' if len(others) == 1 else 'checkpoints'} beside the base"
        rows = [self._html_row(task, last) for task in self.tasks]
        return block("CheckpointComparison", count, table(["task", "accuracy", base, *last], rows), *map(note, notes))

    def _html_row(self, task: str, last: Sequence[str]) -> list[Any]:
        """A task's row: accuracy as a line and on the base, then accuracy and verdict on the ``last`` checkpoints."""
        base = self.checkpoints[0]
        known = {row["checkpoint"]: row for row in self.rows if row["task"] == task}
        accuracy = {name: float(known.get(name, {}).get("accuracy", "nan")) for name in self.checkpoints}
        title = f"{task}: accuracy, 0 to 1, from {base} to {self.checkpoints[-1]}"
        drawn = line(list(accuracy.values()), title, limits=(0, 1))
        verdicts = [f"{text(accuracy[name])} {known.get(name, {}).get('verdict', '')}" for name in last]
        return [task, drawn, accuracy[base], *verdicts]
