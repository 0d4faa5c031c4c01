"""``patch_checkpoints``: what carries the loss? Activations of a base and a tuned model exchanged part by part."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import Count, Seed, checked
from ..effects.checks import check_stream_dtype
from ..errors import ArgumentError
from ..files import held, short_hash
from ..models import identity, package_versions
from ..records import CheckpointPatching, Evaluation, PartActivations, PatchedParts
from ..records.patching import LEAST_GAP
from ..scoring import evaluate, listed
from ..tasks import Prompt, task_names
from ..vocabulary import PARTS, Direction, PatchRole
from .measure import kept_measure
from .parts import of_prompts, patch_parts, read_parts
from .prompts import check_same_tokens
from .sources import CheckpointUnderTest, check_comparable, two_checkpoints

MEASURES, FACTS = "measures", "facts"  # folders in ``out``


@checked
def patch_checkpoints(
    base: Any,
    tuned: Any,
    prompts: Iterable[Prompt] | Prompt,
    *,
    kept: Iterable[Prompt] | Prompt = (),
    learned: Iterable[Prompt] | Prompt = (),
    only_forgotten: bool = True,
    seed: Seed = 0,
    stream_dtype: torch.dtype | None = None,
    n_jobs: Count | None = 1,
    out: str | Path | None = None,
    **options: Any,
) -> CheckpointPatching:
    """Exchange the activations of a base and a tuned model at the last prompt token, part by part (arXiv 2402.14811).

    The base's activation put into the tuned model says what carries the loss of an ability: its share of the gap in
    log P(answer) returns. The tuned model's put into the base says what breaks it. A head is exchanged in two ways: its
    output, and its z alone, under the W_O of the model that is patched; where the first restores and the second does
    not, the head writes otherwise than it did. What carries a loss need not be where the weights changed.

    One model is in memory at a time. Every finished measure is saved in ``out`` and found again by content.

    Args:
        base: anything that ``load_model`` reads.
        tuned: a checkpoint of the base: also a hub name with ``@revision``, an adapter of the base, or the folder of a
            training run.
        prompts: prompts of abilities that were lost, as ``task.prompts`` makes them.
        kept: control: prompts of a task that the tuned model still does.
        learned: control: prompts of the task that it was trained on, to see what restoring costs there.
        only_forgotten: leave out those of ``prompts`` that the base does not answer or the tuned model does.
        seed: of the third control: each forgotten prompt with the activations on another one of them.
        stream_dtype: a wider dtype to compute effects in, for models in half precision (``indirect_effects``).
        n_jobs: workers that share the prompts (``indirect_effects``).
        out: folder for the measures (None: a temporary one).
        options: options of ``load_model`` for both models: ``device``, ``dtype``, ``tokenizer``.

    Returns:
        The effects of every head, attention block, MLP and incoming stream, in nats per prompt, in both directions.

    Raises:
        ArgumentError: none of the prompts was forgotten, or an option outside its values.
        PromptError: no prompts, one that cannot be tokenised or is longer than a model's context, or one on which
            effects are not finite.
        MismatchError: models of different architectures, weight processing or dtypes, or tokenizers that disagree.
        SourceError, DownloadError: a model does not exist or cannot be read.
        UnsupportedError: a model that cannot be loaded, or with layers that are not represented.
        HookError: hooks are active on a model.
        RecordError: ``out`` cannot be written, or another process is at work in it.

    Example:
        >>> patching = iv.patch_checkpoints(model, model, prompts, learned=prompts, only_forgotten=False)
        >>> patching.gap.value  # nothing is lost between a model and itself
        0.0
    """
    asked: dict[PatchRole, list[Prompt]] = {"forgotten": listed(prompts)}
    controls: dict[PatchRole, list[Prompt]] = {"kept": _listed(kept), "learned": _listed(learned)}
    asked |= {role: own for role, own in controls.items() if own}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch if out is None else out).absolute()
        one, two = two_checkpoints(base, tuned, options, folder / FACTS)
        stack.enter_context(held(scratch if out is None else out))
        exchange = _Exchange(folder / MEASURES, one, two, asked, only_forgotten, seed, stream_dtype, n_jobs)
        try:
            return exchange.run()
        finally:
            exchange.release()


def _listed(prompts: Iterable[Prompt] | Prompt) -> list[Prompt]:
    """Prompts of a control, of which there may be none."""
    return [prompts] if isinstance(prompts, Prompt) else list(prompts)


@dataclass(frozen=True)
class _Patched:
    """The prompts of one role that are patched, and for each the index of the prompt that the activations are of.

    ``activations`` index the prompts of the role ``of``.
    """

    role: PatchRole
    of: PatchRole
    chosen: list[int]
    activations: list[int]


@dataclass(frozen=True)
class _Exchange:
    """The two models, the prompts of each role, and how they are patched; measures are kept in ``folder``."""

    folder: Path
    base: CheckpointUnderTest
    tuned: CheckpointUnderTest
    asked: Mapping[PatchRole, list[Prompt]]
    only_forgotten: bool
    seed: int
    stream_dtype: torch.dtype | None
    n_jobs: int | None

    def run(self) -> CheckpointPatching:
        """Read the base, read and patch the tuned model, then patch the base: one of them in memory at a time."""
        base_facts, tokenizer = self.base.facts, self.base.tokenizer()
        check_stream_dtype(getattr(torch, base_facts["dtype"]), self.stream_dtype)
        base_answers, base_activations = self._read(self.base)
        self.base.release()
        check_comparable(base_facts, self.tuned.facts)
        every = [prompt for prompts in self.asked.values() for prompt in prompts]
        check_same_tokens("tuned", tokenizer, self.tuned.tokenizer(), every)
        tuned_answers, tuned_activations = self._read(self.tuned)
        counts, patched = self._choose(base_answers["forgotten"], tuned_answers["forgotten"])
        restored = [self._patch("restores", each, base_activations) for each in patched]
        self.tuned.release()
        broken = [self._patch("breaks", each, tuned_activations) for each in patched]
        self.base.release()
        correct = [
            torch.cat([answers[each.of].correct[each.chosen] for each in patched])
            for answers in (base_answers, tuned_answers)
        ]
        return self._record(patched, restored, broken, correct, counts)

    def release(self) -> None:
        """Free both models."""
        self.base.release()
        self.tuned.release()

    def _read(
        self, checkpoint: CheckpointUnderTest
    ) -> tuple[dict[PatchRole, Evaluation], dict[PatchRole, PartActivations]]:
        """How a model answers the prompts of each role, and its activations on them."""
        answers, activations = {}, {}
        for role, prompts in self.asked.items():
            answer, read = partial(evaluate, prompts=prompts), partial(read_parts, prompts=prompts, n_jobs=self.n_jobs)
            answers[role] = kept_measure(self.folder, "answers", Evaluation, checkpoint, role, answer, prompts)
            activations[role] = kept_measure(
                self.folder, "activations", PartActivations, checkpoint, role, read, prompts
            )
        return answers, activations

    def _choose(self, base: Evaluation, tuned: Evaluation) -> tuple[dict[str, int], list[_Patched]]:
        """Counts of the prompts that may be forgotten, and the prompts to patch in each role.

        Raises:
            ArgumentError: only forgotten prompts are wanted, and there is none.
        """
        lost = base.correct & ~tuned.correct
        chosen = lost.nonzero().flatten().tolist() if self.only_forgotten else list(range(base.n))
        counts = {
            "given": base.n, "answered by the base": int(base.correct.sum()),
            "answered by the tuned model": int(tuned.correct.sum()), "forgotten": int(lost.sum()),
            "patched": len(chosen),
        }  # fmt: skip
        if not chosen:
            raise ArgumentError(
                "prompts that the base answers and the tuned model does not",
                f"none of {base.n}: the base answers {counts['answered by the base']}, the tuned model "
                f"{counts['answered by the tuned model']}",
                "give prompts of a task that was lost, or only_forgotten=False",
            )  # fmt: skip
        patched = [_Patched("forgotten", "forgotten", chosen, chosen)]
        for role in ("kept", "learned"):
            if role in self.asked:
                every = list(range(len(self.asked[role])))
                patched.append(_Patched(role, role, every, every))
        if len(chosen) > 1:
            patched.append(_Patched("other prompt", "forgotten", chosen, _exchanged(chosen, self.seed)))
        return counts, patched

    def _patch(
        self, direction: Direction, patched: _Patched, activations: Mapping[PatchRole, PartActivations]
    ) -> PatchedParts:
        """The effects of one model's activations in the other, on the prompts of one role."""
        into, out_of = (self.tuned, self.base) if direction == "restores" else (self.base, self.tuned)
        prompts, others = (
            [self.asked[patched.of][number] for number in numbers] for numbers in (patched.chosen, patched.activations)
        )
        values = of_prompts(activations[patched.of], patched.activations)
        compute = partial(patch_parts, prompts=prompts, activations=values, dtype=self.stream_dtype, n_jobs=self.n_jobs)
        return kept_measure(
            self.folder, direction, PatchedParts, into, patched.role, compute, prompts,
            activations={"model": identity(out_of.facts), "prompts": short_hash(others)},
            stream_dtype=_name(self.stream_dtype),
        )  # fmt: skip

    def _record(
        self,
        patched: Sequence[_Patched],
        restored: Sequence[PatchedParts],
        broken: Sequence[PatchedParts],
        correct: Sequence[Tensor],
        counts: Mapping[str, int],
    ) -> CheckpointPatching:
        both = [restored, broken]
        effects = {
            part: torch.stack([torch.cat([getattr(each, part) for each in found]) for found in both]) for part in PARTS
        }
        prompts = [self.asked[each.of][number] for each in patched for number in each.chosen]
        settings = {
            "only_forgotten": self.only_forgotten, "seed": self.seed, "stream_dtype": _name(self.stream_dtype),
            "least_gap": LEAST_GAP, "method": restored[0].provenance["settings"]["method"],
        }  # fmt: skip
        return CheckpointPatching(
            **effects,
            base=torch.cat([each.clean for each in broken]),
            tuned=torch.cat([each.clean for each in restored]),
            base_correct=correct[0],
            tuned_correct=correct[1],
            roles=tuple(each.role for each in patched for _ in each.chosen),
            prompts=tuple(prompt.text for prompt in prompts),
            answers=tuple(prompt.answers[0] for prompt in prompts),
            counts=counts,
            task=", ".join(task_names(self.asked["forgotten"])),
            provenance={
                "model": dict(self.base.facts), "tuned": dict(self.tuned.facts), "settings": settings,
                "versions": package_versions(),
            },
        )  # fmt: skip


def _exchanged(chosen: Sequence[int], seed: int) -> list[int]:
    """Another one of the ``chosen`` for each of them: the next one in a random circle."""
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed)).tolist()
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [chosen[following[number]] for number in range(len(chosen))]


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype)
