"""How a sequence of tasks is learned and measured: ``ContinualConfig``, and its variants for an ablation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Annotated, Any, Literal

from ..checks import Between, Count, Natural, Seed, checked
from ..errors import ArgumentError
from ..records.variants import SEED
from ..tasks import AnyFormat, CutSide, format_facts
from .config import Guidance, TrainingConfig

WHOLE = "whole"  # the variant that the others are compared with


def reference(name: str) -> str:
    """The name of the run that a variant's run is compared with, which has the same seed."""
    return WHOLE + (found[0] if (found := SEED.search(name)) else "")


@checked
@dataclass(frozen=True)
class ContinualConfig:
    """How each task of a sequence is trained, and on how many prompts abilities are measured after it.

    Args:
        training: how each task is trained; with LoRA each has updates of its own, which are merged after it.
        epochs: times that a task's training prompts are seen (None: the training's number of steps instead).
        n_train: training prompts of a task, at most as many as its split has (None: all).
        n_test: test prompts of each ability, at most as many as the split has.
        shots: demonstrations in prompts of new tasks, in training and in tests.
        keep_shots: demonstrations in prompts of old abilities.
        context_shots: demonstrations in prompts of general abilities that are asked in context.
        k: heads of an instruction vector.
        n_clean: clean prompts for a vector.
        n_corrupted: corrupted prompts for a vector.
        vectors: also measure how the vectors of old abilities change.
        measure_after: when all abilities are measured: after "each" task, or only after the "last" one. The base and
            each new task right after it was learned are measured in both cases.
        layer: the layer at which hidden states are compared with vectors (None: the middle one).
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A ``Chat`` has
            its settings.
        max_tokens: tokens of a prompt to learn or to answer, at most; of longer ones the inputs are cut, with a warning
            (None: a prompt without room in the model's context is refused). Clozes and prompts for vectors are not cut.
        cut: the side from which inputs are cut: "left" keeps their end, "right" their beginning, "middle" both.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> config = iv.ContinualConfig(iv.TrainingConfig(batch_size=8), epochs=2)
        >>> config.steps(30)
        8
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    epochs: Annotated[float, Between(1e-6)] | None = None
    n_train: Count | None = None
    n_test: Count = 30
    shots: Natural = 0
    keep_shots: Natural = 2
    context_shots: Count = 4
    k: Count = 20
    n_clean: Count = 40
    n_corrupted: Count = 12
    vectors: bool = True
    measure_after: Literal["each", "last"] = "each"
    layer: Natural | None = None
    format: AnyFormat = "labelled"
    max_tokens: Count | None = None
    cut: CutSide = "left"

    @checked
    def steps(self, n_prompts: Count) -> int:
        """Optimiser steps on a task.

        Args:
            n_prompts: its training prompts.

        Returns:
            As many as ``epochs`` passes over the prompts take, or ``training.steps``.
        """
        return self.training.steps if self.epochs is None else ceil(self.epochs * n_prompts / self.training.batch_size)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that weights and rows depend on, as provenance holds them."""
        unused = {"measure_after", *(() if self.max_tokens else ("max_tokens", "cut"))}
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in unused}
        return values | {"training": self.training.facts, **format_facts(self.format)}


@checked
def ablations(
    config: ContinualConfig,
    *,
    terms: bool = False,
    ks: Sequence[Count] = (),
    layers: Sequence[Natural] = (),
    seeds: Sequence[Seed] = (),
) -> dict[str, ContinualConfig]:
    """The variants of a configuration that say what each of its parts is worth.

    Args:
        config: the whole.
        terms: also without any term of its guidance ("plain"), with every term alone, and with every term left out; of
            a term with several losses, as the two divergences of arXiv 2502.11019, every loss.
        ks: also with these numbers of heads.
        layers: also with the vector added at these layers.
        seeds: all of these again with each seed (none: with the configuration's own alone).

    Returns:
        The variants by name, "whole" the first.

    Raises:
        ArgumentError: terms of guidance without any, or layers or numbers of heads without a term that has a vector.

    Example:
        >>> config = iv.ContinualConfig(iv.TrainingConfig(iv.Guidance.preset("guided")))
        >>> [*iv.ablations(config, terms=True)][:4]
        ['whole', 'plain', 'only ProgressiveVector', 'without ProgressiveVector']
    """
    guidance = config.training.guidance
    if (ks or layers) and "vector" not in guidance.needs:
        raise ArgumentError(
            "guidance with a vector (iv, fv, guided), to vary its heads or its layer",
            f"{', '.join(guidance.facts) or 'none'}",
        )
    if terms and not guidance.terms:
        raise ArgumentError("guidance with terms, to leave them out", "none")
    variants = {WHOLE: config}
    if terms:
        variants |= {name: _with_guidance(config, each) for name, each in _subsets(guidance).items()}
    variants |= {f"{k} heads": replace(config, k=k) for k in ks}
    for layer in layers:
        moved = tuple(replace(term, layer=layer) if hasattr(term, "layer") else term for term in guidance)  # type: ignore[call-arg]
        variants[f"layer {layer}"] = _with_guidance(config, Guidance(moved))
    if not seeds:
        return variants
    return {
        f"{name}, seed {seed}": replace(each, training=replace(each.training, seed=seed))
        for seed in seeds for name, each in variants.items()
    }  # fmt: skip


def _subsets(guidance: Guidance) -> dict[str, Guidance]:
    """No term, every term alone, and every term left out, or every loss of a term with several."""
    found = {"plain": Guidance()}
    parts = [(name, alone, term) for term in guidance for name, alone in term.parts.items()]
    for name, alone, term in parts if len(parts) > 1 else ():
        found[f"only {name}"] = Guidance((alone,))
        if len(parts) > 2:
            rest = (term.without(name),) if len(term.parts) > 1 else ()
            at = guidance.terms.index(term)
            found[f"without {name}"] = Guidance((*guidance.terms[:at], *rest, *guidance.terms[at + 1 :]))
    return found


def _with_guidance(config: ContinualConfig, guidance: Guidance) -> ContinualConfig:
    return replace(config, training=replace(config.training, guidance=guidance))
