"""``run_lm_eval``: tasks of lm-evaluation-harness on a model as it is now, steered or ablated, as records of ivlens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

from ..checks import Count, Natural, Seed, checked
from ..errors import ArgumentError, SourceError, TaskError, brief, few, reason
from ..models import Model, provenance
from ..records import Evaluation

if TYPE_CHECKING:
    from .lm_eval_model import HarnessModel, Scored

CORRECT = 0.5  # the score from which an answer counts as correct
LENGTHS = {"acc_norm": len, "acc_bytes": lambda option: len(option.encode())}  # what these metrics divide by
SEED = 1234  # lm-evaluation-harness' own
YAML = (".yaml", ".yml")


class LmEvalSample(NamedTuple):
    """One document of a task: its prompt, the accepted answer, the model's, and the score, from 0 to 1.

    ``options`` and their ``log_likelihoods`` in nats are empty, and ``chance`` is 0, where there is no choice; ``text``
    is "" where the model's answer is not known.

    Example:
        >>> iv.integrations.LmEvalSample("1 + 1 =", " 2", "2", 1.0).score
        1.0
    """

    prompt: str
    answer: str
    text: str
    score: float
    options: tuple[str, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    chance: float = 0.0


@dataclass(frozen=True)
class LmEvalResult:
    """What a task of lm-evaluation-harness gave.

    ``metrics`` are the harness' own numbers under its names ("acc,none"); ``metric`` is the one that ``samples`` are
    scored by. ``answers`` are the samples as a record, in the order of the documents: None where no metric scores each
    document from 0 to 1, as for perplexity, or a task made in Python does not tell its answers.

    Example:
        >>> list(iv.integrations.LmEvalResult("words", {"acc,none": 0.5}, "acc,none").to_frame())
        ['prompt', 'answer', 'text', 'score', 'options', 'log_likelihoods', 'chance']
    """

    task: str
    metrics: Mapping[str, float]
    metric: str | None = None
    samples: tuple[LmEvalSample, ...] = field(default=(), repr=False)
    answers: Evaluation | None = field(default=None, repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per document: prompt, answer, text, score, options, log_likelihoods, chance."""
        return pd.DataFrame(self.samples, columns=list(LmEvalSample._fields))


@checked
@torch.no_grad()
def run_lm_eval(
    model: Model,
    tasks: Any,
    *,
    limit: Count | None = None,
    num_fewshot: Natural | None = None,
    metric: str | None = None,
    chat: bool = False,
    system: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    batch_size: Count = 16,
    max_length: Count | None = None,
    seed: Seed = SEED,
) -> dict[str, LmEvalResult]:
    """Run tasks of lm-evaluation-harness on a model, with the edits that are active: ``pip install 'ivlens[lm-eval]'``.

    Prompts, tokens and log-likelihoods are those of the harness' own Hugging Face model; decoding is greedy, whatever
    the model's generation config says. The last token of a context is the prompt's last token for ``steer`` and
    ``ablate``. Runs before and after a change have the same documents in the same order, so that they can be paired.

    Args:
        model: the model.
        tasks: a name of the harness' tasks or groups, the path of a task's YAML file, a task's config as a dict, or
            several of these. A file runs the Python functions that it names.
        limit: documents per task (None: all).
        num_fewshot: demonstrations (None: as the task says).
        metric: the metric that samples are scored by, "acc_norm", or with a filter, "exact_match,flexible-extract"
            (None: the task's first that scores each document from 0 to 1).
        chat: whether prompts are conversations in the tokenizer's chat template.
        system: a system message.
        template_options: options of the chat template, such as ``enable_thinking``.
        batch_size: rows per forward pass.
        max_length: tokens of a context with its continuation (None: the model's context).
        seed: seed of the demonstrations.

    Returns:
        A result per task, by name; a group gives its tasks.

    Raises:
        SourceError: the extra is not installed.
        TaskError: a task that cannot be loaded.
        ArgumentError: a metric that a task does not have.
        PromptError: a context or continuation that cannot be scored, or on which logits are not finite.
        UnsupportedError: a task that does not decode greedily, or whole texts under edits of a prompt.

    Example:
        >>> results = iv.run_lm_eval(model, words_yaml, limit=3)
        >>> results["words"].metric, results["words"].answers.n
        ('acc,none', 3)
    """
    evaluator, managers = _harness()
    from .lm_eval_model import HarnessModel

    asked = _listed(tasks)
    lm = HarnessModel(model, batch_size, max_length, template_options)
    manager = managers.TaskManager(include_defaults=not all(_is_own(task) for task in asked))
    try:
        loaded = manager.load(asked)["tasks"]
    except Exception as error:  # tasks are other people's files and data, which may raise anything
        raise TaskError(
            f"tasks that lm-evaluation-harness can load, of {few(map(brief, asked))}", reason(error),
            "lm-eval ls tasks lists its own; a local one is the path of its YAML file",
        ) from error  # fmt: skip
    settings = {"limit": limit, "num_fewshot": num_fewshot, "apply_chat_template": chat, "system_instruction": system}
    found = evaluator.simple_evaluate(
        lm, tasks=[*loaded.values()], task_manager=manager, fewshot_as_multiturn=chat, bootstrap_iters=0,
        random_seed=None, numpy_random_seed=None, torch_random_seed=None, fewshot_random_seed=seed, **settings,
    )  # fmt: skip
    about = {"batch_size": batch_size, "seed": seed, **settings, "lm_eval": found["lm_eval_version"]}
    return {name: _result(lm, task, found, metric, about) for name, task in loaded.items()}


def _harness() -> tuple[Any, Any]:
    try:
        from lm_eval import evaluator
        from lm_eval import tasks as managers
    except ImportError as error:
        raise SourceError(
            "lm-evaluation-harness, to run its tasks", "no such package", "run: pip install 'ivlens[lm-eval]'"
        ) from error
    return evaluator, managers


def _listed(tasks: Any) -> list[str | dict[str, Any]]:
    several = [tasks] if isinstance(tasks, (str, Path, dict)) else list(tasks)
    if not several or not all(isinstance(task, (str, Path, dict)) for task in several):
        raise ArgumentError("tasks to be names, paths of YAML files, or dicts, at least one", brief(several))
    return [str(task) if isinstance(task, Path) else task for task in several]


def _is_own(task: str | dict[str, Any]) -> bool:
    """Whether a task is a file or a config, so that the harness need not look through its thousands of tasks."""
    return isinstance(task, dict) or (task.endswith(YAML) and Path(task).is_file())


def _result(lm: "HarnessModel", task: Any, found: Any, metric: str | None, about: dict[str, Any]) -> LmEvalResult:
    name = task.task_name
    documents = found["samples"][name]
    numbers = {key: float(value) for key, value in found["results"][name].items() if isinstance(value, (int, float))}
    usable = _metrics(documents)
    if metric is not None and not any(metric in (key, f"{key},{filter}") for key, filter in usable):
        names = few(f"{key},{filter}" for key, filter in usable)
        raise ArgumentError(f"a metric that scores each document of {name!r} from 0 to 1: {names}", repr(metric))
    chosen = [(key, filter) for key, filter in usable if metric in (None, key, f"{key},{filter}")]
    if not chosen or not hasattr(task, "multiple_input"):  # which tasks from YAML files have
        return LmEvalResult(name, numbers)
    key, filter = chosen[0]
    samples = tuple(_sample(task, each, key) for each in documents if each["filter"] == filter)
    label = f"{key},{filter}"
    if not all(sample.answer for sample in samples):
        return LmEvalResult(name, numbers, label, samples)
    about = {**about, "task": name, "metric": label, "metrics": numbers}
    return LmEvalResult(name, numbers, label, samples, _evaluation(lm, samples, about))


def _metrics(documents: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The metrics, each with its filter, that give each document a number from 0 to 1."""
    asked = dict.fromkeys((key, each["filter"]) for each in documents for key in each["metrics"])
    return [
        (key, filter) for key, filter in asked
        if all(_is_score(each.get(key)) for each in documents if each["filter"] == filter)
    ]  # fmt: skip


def _is_score(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _sample(task: Any, document: Mapping[str, Any], metric: str) -> LmEvalSample:
    doc, score = document["doc"], float(document[metric])
    arguments = document["arguments"]
    if task.OUTPUT_TYPE == "multiple_choice":
        return _choice(task, document, metric, score)
    if task.OUTPUT_TYPE == "loglikelihood":
        prompt, answer = arguments[0]
        return LmEvalSample(prompt, answer, answer.strip() if document["resps"][0][0][1] else "", score)
    target = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    first = target[0] if isinstance(target, list) and target else target
    known = isinstance(first, (str, Real)) and str(first)
    answer = f"{task.config.target_delimiter}{first}" if known else ""
    text = document["filtered_resps"][0]
    return LmEvalSample(arguments[0][0], answer, text if isinstance(text, str) else str(text), score)


def _choice(task: Any, document: Mapping[str, Any], metric: str, score: float) -> LmEvalSample:
    """A document of multiple choice; where the options are in the contexts, what follows them is the same for all."""
    doc, choices = document["doc"], task.doc_to_choice(document["doc"])
    arguments = document["arguments"][: len(choices)]  # after which texts without a context may follow
    logs = [answers[0][0] for answers in document["resps"][: len(choices)]]
    length = LENGTHS.get(metric, lambda option: 1)
    best = max(range(len(choices)), key=lambda at: logs[at] / length(choices[at]))
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    accepted = [_number(each, choices) for each in (target if isinstance(target, list) else [target])]
    if not accepted or None in accepted:
        raise TaskError(f"one of {len(choices)} options as the answer of document {document['doc_id']}", brief(target))
    prompt, answer = arguments[accepted[0]]
    chance = len({*accepted}) / len(choices)
    return LmEvalSample(prompt, answer, choices[best], score, tuple(choices), tuple(logs), chance)


def _number(target: Any, choices: Sequence[str]) -> int | None:
    """The number of the option that a target names, by its text or as a number; None for another target."""
    if isinstance(target, str):
        return choices.index(target) if target in choices else None
    return target if isinstance(target, int) and 0 <= target < len(choices) else None


def _evaluation(lm: "HarnessModel", samples: Sequence[LmEvalSample], about: dict[str, Any]) -> Evaluation:
    """The samples as a record; accepted answers that the task did not score are scored here."""
    pairs = [(sample.prompt, sample.answer) for sample in samples]
    scores = _scores(lm, pairs)
    whole, token, begun = torch.tensor([score[:3] for score in scores], dtype=torch.float64).T.exp()
    values = torch.tensor([sample.score for sample in samples], dtype=torch.float64)
    return Evaluation(
        whole, token, begun, values >= CORRECT,
        prompts=tuple(sample.prompt for sample in samples), answers=tuple(sample.answer for sample in samples),
        scores=values, texts=tuple(sample.text for sample in samples),
        chance=torch.tensor([sample.chance for sample in samples], dtype=torch.float64),
        options=tuple(sample.options for sample in samples),
        option_log_likelihoods=tuple(sample.log_likelihoods for sample in samples),
        provenance=provenance(lm.model, **about),
    )  # fmt: skip


def _scores(lm: "HarnessModel", pairs: Sequence[tuple[str, str]]) -> "list[Scored]":
    from lm_eval.api.instance import Instance

    rest = [pair for pair in dict.fromkeys(pairs) if pair not in lm.scored]
    asked = [Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(rest)]
    if asked:
        lm.loglikelihood(asked)
    return [lm.scored[pair] for pair in pairs]
