"""What scoring four options costs beside scoring one answer, on prompts that are otherwise the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ivlens as iv
from ivlens.scoring import ids

from .limits import LONGER, Row, timed_ratios

PROMPTS = 8
LETTERS = (" A", " B", " C", " D")


def option_ratios(model: Any, prompts: Sequence[iv.Prompt], rounds: int, counts: Sequence[int]) -> list[Row]:
    """Seconds of four options to those of one answer, for each number of threads."""
    longest = max(len(ids(model, prompt)[0]) for prompt in prompts)
    wordy = tuple(prompt.answers[0] + LONGER for prompt in prompts[: len(LETTERS)])
    kinds = {"one token": LETTERS, f"{len(ids(model, prompts[0], wordy[0])[1])} tokens": wordy}
    runs: dict[str, Callable[[], object]] = {}
    for kind, options in kinds.items():
        one = [replace(prompt, answers=options[:1]) for prompt in prompts]
        four = [replace(prompt, options=options) for prompt in one]
        runs |= {f"one, {kind}": partial(iv.evaluate, model, one), f"four, {kind}": partial(iv.evaluate, model, four)}
    about = f"{len(prompts)} prompts of up to {longest} tokens"
    pairs = [(f"four options of {kind} / one, {about}", "", f"four, {kind}", f"one, {kind}") for kind in kinds]
    return timed_ratios(runs, pairs, rounds, counts)
