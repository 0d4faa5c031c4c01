"""How a task file of lm-evaluation-harness says that answers are judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TaskError, brief, few
from .judging import GenerationScoring, OptionScoring, ScoreName, Scoring

REMEDY = "run the task by run_lm_eval, or write its documents as rows of inputs and answers"
SCORES: dict[str, ScoreName] = {"exact_match": "exact-match", "f1": "f1", "rougeL": "rouge-l", "rougeLsum": "rouge-l"}
FILTERS = {"take_first", "remove_whitespace", "lowercase"}  # which change nothing that is judged here
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
LONGEST = 256  # generated tokens where a file does not say


class Judged(NamedTuple):
    """How answers are judged, and a note for the user, or ""."""

    scoring: Scoring | None
    note: str = ""


def judged(config: Mapping[str, Any], path: Path) -> Judged:
    """How the answers of a task file are judged; None where greedy decoding has to give the target.

    Raises:
        TaskError: sampling, a filter, or metrics of generated texts that are not done here.
    """
    listed = config.get("metric_list") or []
    names = [each.get("metric") if isinstance(each, dict) else each for each in listed]
    output = config.get("output_type", "generate_until")
    if output == "loglikelihood":
        return Judged(None)
    if output == "multiple_choice":
        others = names and not {"acc", "acc_norm"} & {*names}
        note = f"options of {path} are compared by their log-likelihoods, not by {few(map(brief, names))}"
        scoring = OptionScoring(normalise="character" if names[:1] == ["acc_norm"] else "sum")
        return Judged(scoring, note if others else "")
    _check_filters(config, path)
    scores = [SCORES[name] for name in names or ["exact_match"] if name in SCORES]
    if not scores:
        raise TaskError(f"a metric of {path} to be one of {few(SCORES)}", few(map(brief, names)), REMEDY)
    settings = dict(config.get("generation_kwargs") or {})
    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise TaskError(f"{path} to decode greedily", f"generation_kwargs {brief(settings)}", REMEDY)
    until = settings.get("until", config.get("fewshot_delimiter", "\n\n"))
    stop = tuple(filter(None, [until] if isinstance(until, str) else until))
    longest = next((int(settings[name]) for name in LIMITS if settings.get(name)), LONGEST)
    return Judged(GenerationScoring(max_tokens=longest, stop=stop, parse="text", score=scores[0]))


def _check_filters(config: Mapping[str, Any], path: Path) -> None:
    used = [step.get("function") for each in config.get("filter_list") or [] for step in each.get("filter", [])]
    others = [name for name in used if name not in FILTERS]
    if others:
        came = f"the filters {few(map(brief, others))}"
        raise TaskError(f"{path} to judge generated texts as they are", came, REMEDY)
