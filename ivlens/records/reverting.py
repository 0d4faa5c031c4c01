"""Records of weights put back: what a base's weights return in a tuned model, part by part, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_finite, checked
from ..stats import NOTHING, Interval, bootstrap_mean, paired_drop, ratio_of_means
from ..vocabulary import Head
from .html import block, frame_table, note, text
from .store import Record

# What is put back: a fraction of the whole change, one that grows with depth, a band of layers, what is in no layer, or
# a set of heads.
RevertKind = Literal["straight", "by depth", "layers", "rest", "heads"]
RevertPart = Literal["all", "attention", "mlp", "both", "rest", "heads"]
RevertRole = Literal["old", "learned"]  # of a task
REVERT_ROLES: tuple[RevertRole, ...] = get_args(RevertRole)
LEAST_GAP = 0.5  # nats between base and tuned model below which a share of them means nothing
MOST_UNITS = 5  # parts that a notebook shows


@checked
@dataclass(frozen=True, eq=False)
class WeightReverts(Record):
    """Answers of a tuned model with weights of its base put back, one part at a time (methods: arXiv 2410.17146).

    Mixtures are the ``straight`` way between the models, fraction 0 the base and 1 the tuned model; the same ``by
    depth``; and parts put back whole: bands of ``layers``, the ``rest`` (embeddings, unembedding, norms), ``heads``.

    Args:
        log_probability: [mixture, prompt], log P(answer) in nats.
        correct: [mixture, prompt], whether the greedy answer is an accepted one.
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
            The mean with its 95% interval (bootstrap over prompts).

        Example:
            >>> gap = reverts.gap()
            >>> gap.low <= gap.value <= gap.high
            True
        """
        prompts = self._prompts(self.roles, role)
        base, tuned = (self.log_probability[at, prompts].double() for at in (self._base, self._tuned))
        low, high = _bootstrap((base - tuned)[:, None])
        return Interval((base - tuned).mean().item(), *low, *high)

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
        """Mixture by mixture, the rows of each group of prompts, ``names`` being those of the prompts' groups."""
        role_of = dict(zip(names, self.roles, strict=True))
        rows = []
        for group in groups:
            prompts = self._prompts(names, group)
            numbers = self._numbers(prompts)
            for mixture, each in enumerate(numbers):
                rows.append(self._about(mixture) | {"role": role_of[group], by: group, "n": len(prompts)} | each)
        frame = pd.DataFrame(rows)
        return frame.sort_values("mixture", kind="stable", ignore_index=True).drop(columns="mixture")

    def _about(self, mixture: int) -> dict[str, Any]:
        first, last = self.fractions[mixture]
        return {
            "mixture": mixture, "what": self.what[mixture], "part": self.part[mixture],
            "layers": " to ".join(map(str, self.layers[mixture])), "name": self.names[mixture], "fraction": first,
            "last_fraction": last,
        }  # fmt: skip

    def _numbers(self, prompts: Sequence[int]) -> list[Mapping[str, float]]:
        """What each mixture changes on these prompts."""
        log_probability, correct = self.log_probability[:, prompts].double(), self.correct[:, prompts]
        changes = log_probability - log_probability[self._tuned]
        gap = changes[self._base]
        sign = 1 if gap.mean() > 0 else -1  # the base is better, or, on what was learned, the tuned model
        known = len(prompts) > 1 and gap.mean().abs() >= LEAST_GAP
        rows = []
        for change, own, low, high in zip(changes, correct, *_bootstrap(changes.T), strict=True):
            nats = Interval(change.mean().item(), low, high)
            share = ratio_of_means(sign * change, sign * gap) if known else NOTHING
            gain = paired_drop(own, correct[self._tuned])
            accuracy = {"accuracy": own.double().mean().item()}
            rows.append(_ends("nats", nats) | _ends("share", share) | accuracy | _ends("gain", gain))
        return rows


def _bootstrap(values: Float[Tensor, "prompt mixture"]) -> tuple[list[float], list[float]]:
    """The ends of the 95% intervals of the means over prompts, which one prompt does not have."""
    if len(values) < 2:
        return [NOTHING.low] * values.shape[1], [NOTHING.high] * values.shape[1]
    low, high = bootstrap_mean(values)
    return low.tolist(), high.tolist()


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
