"""Records of weights put back: what a base's weights return in a tuned model, part by part, and what they cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_finite, checked
from ..stats import Interval, paired_drop, ratio_interval, t_interval
from ..vocabulary import Head
from .html import block, frame_table, note, text
from .patching import LEAST_GAP
from .store import Record

# What is put back: a fraction of the whole change, one that grows with depth, a band of layers, what is in no layer, or
# a set of heads.
RevertKind = Literal["straight", "by depth", "layers", "rest", "heads"]
RevertPart = Literal["all", "attention", "mlp", "both", "rest", "heads"]
RevertRole = Literal["old", "learned"]  # of a task
REVERT_ROLES: tuple[RevertRole, ...] = get_args(RevertRole)
MOST_UNITS = 5  # parts that a notebook shows


@checked
@dataclass(frozen=True, eq=False)
class WeightReverts(Record):
    """Answers of a tuned model with weights of its base put back, one part at a time (methods: arXiv 2410.17146).

    Mixtures are the ``straight`` way between the models, fraction 0 the base and 1 the tuned model; the same ``by
    depth``; and parts put back whole: bands of ``layers``, the ``rest`` (embeddings, unembedding, norms), ``heads``.

    Args:
        log_probability: [mixture, prompt], log P(answer) in nats.
        correct: [mixture, prompt], whether the answer is an accepted one.
        what: of each mixture, the kind of what is put back.
        part: "attention", "mlp", or "both" of a band of layers; "rest"; "heads"; "all" where no part is singled out.
        layers: the first and the last layer of a band, else ().
        fractions: of the change that is kept there, in the first and in the last layer; 0 is the base.
        names: of the sets of heads, else "".
        heads: the heads of each set, else ().
        tasks: of each prompt.
        roles: of each prompt's task: "old", or "learned" by the tuned model.

    Example:
        >>> sorted(set(reverts.what))  # of iv.revert_weights(model, tuned, [task], [new_task])
        ['by depth', 'layers', 'rest', 'straight']
    """

    log_probability: Float[Tensor, "mixture prompt"]
    correct: Bool[Tensor, "mixture prompt"]
    what: tuple[RevertKind, ...] = field(metadata={"axis": "mixture"})
    part: tuple[RevertPart, ...] = field(metadata={"axis": "mixture"})
    layers: tuple[tuple[int, ...], ...] = field(metadata={"axis": "mixture"})
    fractions: tuple[tuple[float, float], ...] = field(metadata={"axis": "mixture"})
    names: tuple[str, ...] = field(metadata={"axis": "mixture"})
    heads: tuple[tuple[Head, ...], ...] = field(metadata={"axis": "mixture"})
    tasks: tuple[str, ...] = field(metadata={"axis": "prompt"})
    roles: tuple[RevertRole, ...] = field(metadata={"axis": "prompt"})

    def __post_init__(self) -> None:
        check_finite("log probabilities [mixture, prompt]", self.log_probability)

    @checked
    def gap(self, role: RevertRole = "old") -> Interval:
        """Mean of log P(answer) over a role's prompts, the base's minus the tuned model's, in nats.

        Args:
            role: of the prompts' tasks.

        Returns:
            The mean with its 95% interval (Student's t over prompts).

        Example:
            >>> gap = reverts.gap()
            >>> gap.low <= gap.value <= gap.high
            True
        """
        base = self.to_frame().query("what == 'straight' and fraction == 0 and role == @role")
        return Interval(*base[["nats", "nats_low", "nats_high"]].to_numpy()[0].tolist())

    def to_frame(self) -> pd.DataFrame:
        """One row per mixture and role, all of the role's prompts together, paired with the tuned model.

        Returns:
            what, part, layers ("first to last"), name (of a set of heads), fraction and last_fraction (of the change
            that is kept, in the first and in the last layer), role, n; nats, the change of log P(answer) against the
            tuned model, and share, what that is of the gap between tuned model and base, with their 95% intervals
            (nats_low, nats_high, share_low, share_high); accuracy, and gain, the change of it, with its interval
            (gain_low, gain_high). For learned tasks a share is what is undone. It is not a number where the gap is
            below 0.5 nats.

        Example:
            >>> reverts.to_frame().query("what == 'straight' and fraction == 1")["nats"].tolist()
            [0.0, 0.0]
        """
        return self._by_role.copy()

    @cached_property
    def _by_role(self) -> pd.DataFrame:
        return self._frame("role", self.roles, [role for role in REVERT_ROLES if role in self.roles])

    def tasks_frame(self) -> pd.DataFrame:
        """One row per mixture and task.

        Returns:
            The columns of ``to_frame``, and the task.

        Example:
            >>> set(reverts.tasks_frame()["task"]) == {task.name, new_task.name}
            True
        """
        return self._frame("task", self.tasks, list(dict.fromkeys(self.tasks)))

    def _repr_html_(self) -> str:
        """What a notebook shows: the gaps, the straight way, and the parts that return most, beside what they cost."""
        gaps = [f"{role}: {text(each.value)} nats" for role in REVERT_ROLES for each in [self.gap(role)]]
        frame = self.to_frame().drop(columns=["last_fraction", "n"])
        old, learned = (frame[frame["role"] == role].reset_index(drop=True) for role in REVERT_ROLES)
        columns = ["what", "part", "layers", "name", "fraction", "nats", "nats_low", "nats_high", "share", "accuracy"]
        rows = old[columns].assign(learned=learned["nats"], learned_accuracy=learned["accuracy"])
        parts = rows[rows["what"].isin(["layers", "rest", "heads"])].nlargest(MOST_UNITS, "nats")
        facts = f"{', '.join(dict.fromkeys(self.tasks))}; base minus tuned, {', '.join(gaps)}"
        notes = note("nats, share, accuracy: of the old tasks; learned: nats and accuracy of the learned ones")
        return block("WeightReverts", facts, frame_table(rows[rows["what"] == "straight"]), frame_table(parts), notes)

    @property
    def _base(self) -> int:
        return self._end(0.0)

    @property
    def _tuned(self) -> int:
        return self._end(1.0)

    def _end(self, fraction: float) -> int:
        """The number of the mixture that is the base or the tuned model."""
        return list(zip(self.what, self.fractions, strict=True)).index(("straight", (fraction, fraction)))

    @staticmethod
    def _prompts(names: Sequence[str], name: str) -> list[int]:
        return [at for at, each in enumerate(names) if each == name]

    def _frame(self, by: str, names: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
        """Mixture by mixture, a row for each group of prompts; ``names`` are those of the prompts' groups."""
        role_of = dict(zip(names, self.roles, strict=True))
        about = pd.DataFrame({
            "what": self.what, "part": self.part, "layers": [" to ".join(map(str, each)) for each in self.layers],
            "name": self.names, "fraction": [first for first, _ in self.fractions],
            "last_fraction": [last for _, last in self.fractions],
        })  # fmt: skip
        frames = []
        for group in groups:
            prompts = self._prompts(names, group)
            numbers = {"role": role_of[group], by: group, "n": len(prompts), **self._numbers(prompts)}
            frames.append(about.assign(**numbers))
        return pd.concat(frames).sort_index(kind="stable").reset_index(drop=True)

    def _numbers(self, prompts: Sequence[int]) -> dict[str, Any]:
        """What each mixture changes on these prompts, as columns."""
        log_probability, correct = self.log_probability[:, prompts].double().T, self.correct[:, prompts]
        changes = log_probability - log_probability[:, [self._tuned]]
        gap, unknown = changes[:, self._base], torch.full_like(changes[0], torch.nan)
        nats, share = (changes.mean(0), *t_interval(changes)), (unknown, unknown, unknown)
        if len(prompts) > 1 and gap.mean().abs() >= LEAST_GAP:
            share = changes.mean(0) / gap.mean(), *ratio_interval(changes, gap)
        gain = torch.tensor([paired_drop(own, correct[self._tuned]) for own in correct], dtype=torch.float64).T
        accuracy = {"accuracy": correct.double().mean(1).numpy()}
        return _ends("nats", nats) | _ends("share", share) | accuracy | _ends("gain", gain)


def _ends(name: str, interval: Iterable[Tensor]) -> dict[str, Any]:
    """Values and the ends of their intervals as columns."""
    names = name, f"{name}_low", f"{name}_high"
    return {column: values.numpy() for column, values in zip(names, interval, strict=True)}
