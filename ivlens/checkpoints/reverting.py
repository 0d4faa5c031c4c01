"""``revert_weights``: which of a tuned model's weights have to be the base's again for its old abilities to return."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checks import Count, Fraction, Natural, Seed, checked
from ..errors import ArgumentError
from ..files import held
from ..models import head_axes
from ..progress import ProgressBar
from ..records import Answers, WeightReverts
from ..records.reverting import RevertKind, RevertPart, RevertRole
from ..tasks import AnyFormat, Prompt, Task, as_tasks
from ..vocabulary import Head, check_heads
from .answers import KeptAnswers, clean_prompts, kept_answers
from .mixing import Fractions
from .search import KINDS, bands
from .sources import two_checkpoints


@checked
@dataclass(frozen=True)
class RevertConfig:
    """Which weights are put back, and on how many prompts their effect is measured.

    Args:
        fractions: of the change to keep everywhere, on the straight way; 0 and 1, the two models, are always there.
        depths: fractions in the first and in the last layer, for the changes by depth (LiNeS, 2410.17146).
        n_bands: bands of layers whose attention and MLPs are put back, alone and together.
        n_test: test prompts of each task, at most as many as the split has.
        shots: demonstrations in the prompts.
        learned_shots: those in the prompts of learned tasks, which should be asked as they were trained (None: shots).
        seed: seed of the prompts.
        instruction: the words, or which of a task's instructions (None: the first), as in ``CheckpointConfig``.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the base's chat template. A ``Chat`` has
            its settings.
        batch_size: answers per forward pass.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.RevertConfig(n_bands=4).fractions
        (0.0, 0.25, 0.5, 0.75, 1.0)
    """

    fractions: tuple[Fraction, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    depths: tuple[tuple[Fraction, Fraction], ...] = ((0.0, 1.0), (0.5, 1.0))
    n_bands: Count = 6
    n_test: Count = 20
    shots: Natural = 2
    learned_shots: Natural | None = None
    seed: Seed = 0
    instruction: bool | int | str | None = None
    format: AnyFormat = "labelled"
    batch_size: Count = 32

    @checked
    def prompts(self, task: Task, tokenizer: Any, *, learned: bool = False) -> list[Prompt]:
        """Clean test prompts of a task.

        Args:
            task: the task.
            tokenizer: for the chat format.
            learned: whether it is a learned task.

        Returns:
            One prompt per query.

        Raises:
            ArgumentError: neither instruction nor demonstrations.

        Example:
            >>> len(iv.RevertConfig(n_test=2).prompts(task, None))
            2
        """
        return clean_prompts(self, task, "test", self.n_test, tokenizer, learned=learned)


class Mixture(NamedTuple):
    """Weights between the two models, and how they are called in ``WeightReverts``."""

    what: RevertKind
    part: RevertPart
    weights: Fractions | tuple[Head, ...]
    layers: tuple[int, ...] = ()
    fractions: tuple[float, float] = (0.0, 0.0)
    name: str = ""


@checked
def revert_weights(
    base: Any,
    tuned: Any,
    tasks: Sequence[Task | str],
    learned: Sequence[Task | str],
    config: RevertConfig | None = None,
    *,
    heads: Mapping[str, Sequence[Head]] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> WeightReverts:
    """Put weights of the base back into a tuned model, one part at a time: where was an ability lost?

    Measured are the answers to prompts of old and of learned tasks: what returns beside what it costs. The parts are
    the attention, the MLPs, or both of a band of layers; embeddings, unembedding and norms; and sets of heads. A head's
    weights are W_Q, W_O and the bias of its queries, and W_K and W_V with their biases only where all query heads that
    share these are in the set; what all heads of a layer share stays tuned. Beside the parts stands the straight way
    between the two models, ``w_base + f (w_tuned - w_base)``, everywhere the same f, or one that grows with depth.
    Nothing is trained.

    One model is in memory at a time; files of its weights lie in a temporary folder meanwhile. A model object that is
    given as ``tuned`` is changed while this runs, and is what it was afterwards.

    Args:
        base: anything that ``load_model`` reads.
        tuned: a checkpoint of the base; see ``compare_checkpoints``.
        tasks: old tasks, or names of built-in ones or files.
        learned: new tasks, which the tuned model learned.
        config: what is put back, and on how many prompts (None: the defaults of ``RevertConfig``).
        heads: sets of heads by names, each set put back together, like the strongest and as many random ones; a set of
            one puts a head back alone.
        out: folder for the answers, from which an interrupted call resumes (None: a temporary one).
        options: options of ``load_model`` for both models: ``device``, ``dtype``, ``tokenizer``.

    Returns:
        The answers with each part put back; its ``to_frame`` has what returns and what it costs.

    Raises:
        ArgumentError: no old or no learned task, a task given twice or without test examples; LoRA on a model; no such
            head.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context, or on which logits are
            not finite.
        SourceError, DownloadError: a model cannot be loaded.
        UnsupportedError: a model cannot be loaded, or its weights of single heads are not known, or they are quantised.
        MismatchError: the tuned model is no checkpoint of the base, or is the base.
        HookError: hooks are active on a model.
        RecordError: ``out`` cannot be written, or another process is at work in it.

    Example:
        >>> config = iv.RevertConfig(n_bands=2, n_test=2, shots=1)
        >>> found = iv.revert_weights(model, tuned, [task], [new_task], config, heads={"strongest": effects.top(2)})
        >>> found.to_frame().query("what == 'heads'")["name"].tolist()  # of old tasks, and of learned ones
        ['strongest', 'strongest']
    """
    config = config or RevertConfig()
    of_role: dict[RevertRole, list[Task]] = {"old": as_tasks(tasks), "learned": as_tasks(learned)}
    names = [task.name for each in of_role.values() for task in each]
    if not all(of_role.values()) or len({*names}) < len(names):
        raise ArgumentError(
            "old and learned tasks, none of them twice", ", ".join(names) or "none", "name each task once"
        )
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch if out is None else out).absolute()
        first, second = two_checkpoints(base, tuned, options, folder / "facts")
        stack.enter_context(held(scratch if out is None else out))
        tokenizer = first.tokenizer()
        drawn = [
            (role, task.name, prompt)
            for role, each in of_role.items() for task in each
            for prompt in config.prompts(task, tokenizer, learned=role == "learned")
        ]  # fmt: skip
        prompts = [prompt for _, _, prompt in drawn]
        with kept_answers(first, second, prompts, folder, Path(scratch), config) as kept:
            mixtures = [*_mixtures(config, kept.mixed.model.cfg.n_layers), *_sets_of_heads(kept, heads or {})]
            bar = ProgressBar(mixtures, "putting back", leave=False)
            answers = [_answers(kept, each, prompts) for each in bar]
    return WeightReverts(
        torch.stack([each.log_probability for each in answers]),
        torch.stack([each.correct for each in answers]),
        what=tuple(each.what for each in mixtures),
        part=tuple(each.part for each in mixtures),
        layers=tuple(each.layers for each in mixtures),
        fractions=tuple(each.fractions for each in mixtures),
        names=tuple(each.name for each in mixtures),
        heads=tuple(each.weights if isinstance(each.weights, tuple) else () for each in mixtures),
        tasks=tuple(task for _, task, _ in drawn),
        roles=tuple(role for role, _, _ in drawn),
        provenance=kept.provenance(config),
    )


def _mixtures(config: RevertConfig, n_layers: int) -> Iterator[Mixture]:
    """The straight way, the changes by depth, the bands of layers, and the rest."""
    for fraction in sorted({0.0, *config.fractions, 1.0}):
        yield Mixture("straight", "all", Fractions.uniform(n_layers, fraction), fractions=(fraction, fraction))
    for ends in config.depths:
        yield Mixture("by depth", "all", Fractions.by_depth(n_layers, *ends), fractions=ends)
    tuned = Fractions.uniform(n_layers, 1.0)
    for band in bands(n_layers, config.n_bands):
        layers = (band.start, band.stop - 1)
        for kind in KINDS:
            yield Mixture("layers", kind, tuned.changed(0.0, band, (kind,)), layers)
        yield Mixture("layers", "both", tuned.changed(0.0, band, KINDS), layers)
    yield Mixture("rest", "rest", tuned.changed(0.0, [], ["rest"]))


def _sets_of_heads(kept: KeptAnswers, heads: Mapping[str, Sequence[Head]]) -> Iterator[Mixture]:
    """The sets of heads.

    Raises:
        ArgumentError: no such head.
        UnsupportedError: the weights of single heads are not known.
    """
    model = kept.mixed.model
    for name, each in heads.items():
        check_heads((model.cfg.n_layers, model.cfg.n_heads), each)
        for layer in {head.layer for head in each}:
            head_axes(model, layer)
        yield Mixture("heads", "heads", tuple(each), name=name)


def _answers(kept: KeptAnswers, mixture: Mixture, prompts: Sequence[Prompt]) -> Answers:
    """The mixture's answers to old and learned tasks' prompts."""
    if isinstance(mixture.weights, Fractions):
        return kept.of(mixture.weights, prompts)
    heads = sorted(mixture.weights)
    return kept.after(partial(kept.mixed.put_heads_back, heads), ["heads", heads], prompts)
