"""``explore``: heads looked at, chosen and tried on a model, by click in a notebook or from Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .activations import attention_patterns, mean_head_activations
from .checks import Count, Natural, Seed, checked
from .effects import indirect_effects
from .errors import ArgumentError
from .models import HookedTransformer, answer_logits, check_fits, padded
from .records import Evaluation, Head, HeadEffects, HeadMeans, heads_by_effect
from .scoring import evaluate, prompt_ids
from .steering import steer
from .tasks import Prompt, Task, load_task, token_text
from .vectors import InstructionVector, instruction_vector, logit_lens
from .vocabulary import Metric, check_layer

if TYPE_CHECKING:
    import ivlens.views

AT_ONCE = 2  # corrupted prompts between two looks at the Stop button
DRAWN = {"shots": 2, "format": "labelled", "split": "train", "seed": 0, "corruption": "no-instruction"}


@dataclass(frozen=True)
class Subject:
    """The prompts of one task: ``clean`` ones, each ``corrupted``, and pairs of ``bare`` and ``asked`` ones to try."""

    clean: list[Prompt]
    corrupted: list[Prompt]
    bare: list[Prompt]
    asked: list[Prompt]


@dataclass(frozen=True)
class Explorer:
    """What a model's heads are and do on some tasks: computed where it is asked for, and kept where that takes long."""

    model: HookedTransformer
    subjects: dict[str, Subject]
    found: dict[tuple[str, str], HeadEffects] = field(default_factory=dict)
    means: dict[str, HeadMeans] = field(default_factory=dict)
    answered: dict[str, tuple[Evaluation, Evaluation]] = field(default_factory=dict)
    unsteered: dict[tuple[Prompt, int], pd.DataFrame] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and heads in each."""
        return self.model.cfg.n_layers, self.model.cfg.n_heads

    def work(self, task: str, metric: Metric) -> Iterator[tuple[int, int]]:
        """Compute a task's effects, a few prompts at a time: of how many there are effects, and of how many prompts.

        What is there when the caller goes no further is kept: effects over fewer prompts.
        """
        place, prompts = (task, metric), self.subjects[task].corrupted
        done = self.found[place].n if place in self.found else 0
        yield done, len(prompts)
        self._answered(task)
        while done < len(prompts):
            part = prompts[done : done + AT_ONCE]
            more = indirect_effects(self.model, part, self._means(task), metric=metric)
            self.found[place] = _joined(self.found[place], more) if done else more
            done = self.found[place].n
            yield done, len(prompts)

    def ranks(self, head: Head, metric: Metric) -> pd.DataFrame:
        """The head's effect and rank (from 1) on every task whose effects are there; columns task, effect, rank, n."""
        rows = [
            (task, effects.aie[head].item(), heads_by_effect(effects.aie).index(head) + 1, effects.n)
            for (task, known), effects in self.found.items()
            if known == metric
        ]
        return pd.DataFrame(rows, columns=["task", "effect", "rank", "n"])

    def vector(self, task: str, heads: Sequence[Head]) -> InstructionVector:
        """The instruction vector of ``heads`` on the task."""
        return instruction_vector(self.model, self._means(task), heads)

    def read(self, task: str, head: Head, k: int = 8) -> pd.DataFrame:
        """The ``k`` tokens that the head's mean output on the task points to; columns token, value (in logits)."""
        return logit_lens(self.model, self.vector(task, [head]), k)[["token", "value"]]

    def attention(self, task: str, head: Head, at: int) -> tuple[list[str], Float[Tensor, "1 query key"]]:
        """The tokens of the task's clean prompt ``at``, and the head's attention pattern on it."""
        return attention_patterns(self.model, self.subjects[task].clean[at], [head])

    def accuracy(self, task: str, vector: InstructionVector | None, layer: int, scale: float) -> pd.DataFrame:
        """Accuracy on the prompts to try: columns condition, accuracy, low, high (95% interval), probability, n."""
        bare, clean = self._answered(task)
        scores = {"bare": bare, "clean": clean}
        if vector is not None:
            with steer(self.model, vector, layer, scale):
                scores = {"bare": bare, "steered": evaluate(self.model, self.subjects[task].bare), "clean": clean}
        return pd.DataFrame([
            {"condition": name, "accuracy": each.accuracy, "low": low, "high": high,
             "probability": each.probability, "n": each.n}
            for name, each in scores.items() for low, high in [each.accuracy_interval()]
        ])  # fmt: skip

    def tokens(
        self, bare: Prompt, asked: Prompt, vector: InstructionVector | None, layer: int, scale: float, k: int = 5
    ) -> pd.DataFrame:
        """The ``k`` likeliest next tokens after the bare prompt, the same steered, and the clean one.

        Columns: rank, token, probability, condition.
        """
        for prompt in (bare, asked):
            if (prompt, k) not in self.unsteered:
                self.unsteered[prompt, k] = self._likeliest(prompt, k)
        found = {"bare": self.unsteered[bare, k], "clean": self.unsteered[asked, k]}
        if vector is not None:
            with steer(self.model, vector, layer, scale):
                found = {"bare": found["bare"], "steered": self._likeliest(bare, k), "clean": found["clean"]}
        return pd.concat([frame.assign(condition=name) for name, frame in found.items()], ignore_index=True)

    def _means(self, task: str) -> HeadMeans:
        if task not in self.means:
            self.means[task] = mean_head_activations(self.model, self.subjects[task].clean)
        return self.means[task]

    def _answered(self, task: str) -> tuple[Evaluation, Evaluation]:
        """How the bare and the clean prompts to try are answered without a vector."""
        if task not in self.answered:
            subject = self.subjects[task]
            self.answered[task] = evaluate(self.model, subject.bare), evaluate(self.model, subject.asked)
        return self.answered[task]

    @torch.no_grad()
    def _likeliest(self, prompt: Prompt, k: int) -> pd.DataFrame:
        (ids,) = prompt_ids(self.model, [prompt])
        # an answer of one token, whichever, is read off the prompt's last token
        (logits,) = answer_logits(self.model, padded([(ids, (0,))], self.model.cfg.device))
        best = logits[0].double().softmax(-1).topk(min(k, logits.shape[-1]))
        tokens = [token_text(self.model.tokenizer, token) for token in best.indices.tolist()]
        return pd.DataFrame({"rank": range(1, len(tokens) + 1), "token": tokens, "probability": best.values.tolist()})


@checked
def explore(
    model: HookedTransformer,
    tasks_or_prompts: Task | str | Prompt | Sequence[Task | str | Prompt],
    *,
    corrupted: Sequence[Prompt] = (),
    effects: HeadEffects | Sequence[HeadEffects] = (),
    prompts: Count = 20,
    tried: Count = 12,
    shots: Natural = 2,
    layer: Natural | None = None,
    scale: float = 4.0,
    seed: Seed = 0,
) -> "ivlens.views.ExplorerWidget":
    """A widget for notebooks: the map of heads' effects, what a clicked head does, and the chosen heads' vector tried.

    Of each task ``prompts`` training prompts with ``shots`` demonstrations give means and effects, and the vector is
    tried on ``tried`` test prompts; ``effects`` that are there already (``locate_heads``) bring theirs along. Hand-made
    clean prompts need as many ``corrupted`` ones, on which their vector is tried. ``layer`` (None: at two fifths) and
    ``scale`` are where the sliders begin. The widget's ``heads`` can be assigned; ``vector`` is what they add up to.

    Raises:
        ArgumentError: no tasks, prompts that do not pair up, or an option outside its values.
        MismatchError: effects of another model.
        TaskError, PromptError: see ``load_task`` and ``Task.prompts``.
    """
    layers = model.cfg.n_layers
    layer = layers * 2 // 5 if layer is None else layer
    check_layer(layers, layer)
    given = [tasks_or_prompts] if isinstance(tasks_or_prompts, (Task, str, Prompt)) else list(tasks_or_prompts)
    known = [effects] if isinstance(effects, HeadEffects) else list(effects)
    for each in known:
        check_fits(model, each.provenance, f"the effects on {each.task or 'prompts'}", same_weights=True)
    if given and all(isinstance(each, Prompt) for each in given):
        subjects = _by_hand(given, list(corrupted))
    elif corrupted:
        raise ArgumentError("corrupted= beside clean prompts made by hand", "it beside tasks", "leave it out")
    else:
        drawn = DRAWN | {"shots": shots, "seed": seed}
        subjects = {task.name: _of_task(model, task, known, prompts, tried, drawn) for task in _tasks(given)}
    from .views import ExplorerWidget

    return ExplorerWidget(_with(Explorer(model, subjects), known), layer=layer, scale=scale)


def _by_hand(clean: list[Any], corrupted: list[Prompt]) -> dict[str, Subject]:
    """Clean and corrupted prompts that pair up, as the one subject there is."""
    if len(corrupted) != len(clean):
        do = "pass corrupted=, for each prompt the same without what asks for its task"
        raise ArgumentError(f"as many corrupted prompts as clean ones, {len(clean)}", str(len(corrupted)), do)
    name = ", ".join(sorted({prompt.task for prompt in clean})) or "prompts"
    return {name: Subject(clean, corrupted, bare=corrupted, asked=clean)}


def _tasks(given: list[Any]) -> list[Task]:
    if any(isinstance(each, Prompt) for each in given):
        raise ArgumentError("every task to be a Task or a name", "a Prompt", "pass prompts alone, or tasks alone")
    tasks = [load_task(each) if isinstance(each, str) else each for each in given]
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ArgumentError("tasks of different names, one or more", f"{[task.name for task in tasks]}")
    return tasks


def _of_task(
    model: HookedTransformer, task: Task, known: list[Any], prompts: int, tried: int, drawn: dict[str, Any]
) -> Subject:
    """A task's prompts, drawn as ``drawn`` says or, where there are known effects on it, as theirs were."""
    count = min(prompts, len(task.split("train")))
    own = [each for each in known if each.task == task.name]
    if own:
        told = [each.provenance.get("settings", {}) for each in own]
        drawn, count = {name: told[0].get(name) for name in DRAWN}, own[0].n
        if None in drawn.values() or any({name: each.get(name) for name in DRAWN} != drawn for each in told):
            expected = f"effects on {task.name!r} that say how their prompts were drawn, all of them alike"
            raise ArgumentError(expected, f"{told}"[:200], "locate_heads computes such")
    how = {"format": drawn["format"], "seed": drawn["seed"], "tokenizer": model.tokenizer}
    draw = partial(task.prompts, count, shots=drawn["shots"], split=drawn["split"], **how)
    held = partial(task.prompts, min(tried, len(task.split("test"))), split="test", **how)
    bare, asked = held(shots=0, instruction=False), held(shots=drawn["shots"])
    return Subject(draw(), draw(corruption=drawn["corruption"]), bare, asked)


def _with(explorer: Explorer, known: Sequence[HeadEffects]) -> Explorer:
    """The explorer with effects that need not be computed again, and the means that they were computed with."""
    for each in known:
        name = each.task or "prompts"
        if name not in explorer.subjects:
            raise ArgumentError(f"effects on {', '.join(explorer.subjects)}", f"some on {name!r}")
        count = len(explorer.subjects[name].corrupted)
        if each.n != count:
            raise ArgumentError(f"effects on {count} corrupted prompts", f"on {each.n}")
        explorer.found[name, each.metric] = each
        if each.means is not None:
            explorer.means.setdefault(name, each.means)
    return explorer


def _joined(effects: HeadEffects, more: HeadEffects) -> HeadEffects:
    """Effects on some prompts and on more of them, as one record."""
    values = torch.cat([effects.values, more.values])
    settings = dict(effects.provenance["settings"]) | {"prompts": len(values)}
    baseline, origin = torch.cat([effects.baseline, more.baseline]), dict(effects.provenance)
    return replace(effects, values=values, baseline=baseline, provenance=origin | {"settings": settings})
