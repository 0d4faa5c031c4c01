"""What scoring four options costs beside scoring one answer, on prompts that are otherwise the same.

    python -m figures.benchmark.options [--into FILE] [--rounds N]

Options of one token, and of several. ``figures.benchmark.sweep`` measures this, too; ``--into`` puts it alone into a
record that ``sweep`` wrote on the same machine.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ivlens as iv
from ivlens.records import write_text
from ivlens.scoring import ids

from .limits import LONGER, Row, smollm2
from .measures import interleaved, ratio, threads, warm
from .study import load_benchmark

PROMPTS = 8
LETTERS = (" A", " B", " C", " D")


def option_ratios(model: Any, prompts: Sequence[iv.Prompt], rounds: int, counts: Sequence[int]) -> list[Row]:
    """Seconds of four options to those of one answer, for each number of threads."""
    longest = max(len(ids(model, prompt)[0]) for prompt in prompts)
    wordy = tuple(prompt.answers[0] + LONGER for prompt in prompts[: len(LETTERS)])
    kinds = {"one token": LETTERS, f"{len(ids(model, prompts[0], wordy[0])[1])} tokens": wordy}
    runs = {}
    for kind, options in kinds.items():
        one = [replace(prompt, answers=options[:1]) for prompt in prompts]
        four = [replace(prompt, options=options) for prompt in one]
        runs |= {f"one, {kind}": partial(iv.evaluate, model, one), f"four, {kind}": partial(iv.evaluate, model, four)}
    rows: list[Row] = []
    for count in counts:
        with threads(count):
            warm(runs)
            times = interleaved(runs, rounds)
        rows += [
            {"ratio": f"four options of {kind} / one, {len(prompts)} prompts of up to {longest} tokens",
             "forward pass": "", "threads": count, "value": ratio(times, f"four, {kind}", f"one, {kind}")}
            for kind in kinds
        ]  # fmt: skip
    return rows


def put_into(record: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """The record with these rows among its ratios, in place of earlier ones of the same name."""
    named = {row["ratio"] for row in rows}
    return record | {"ratios": [row for row in record["ratios"] if row["ratio"] not in named] + rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="a record of figures.benchmark.sweep")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    record = None if options.into is None else load_benchmark(options.into)
    _, of = smollm2()
    rows = option_ratios(of.model, of.prompts(PROMPTS), options.rounds, sorted({1, torch.get_num_threads()}))
    if record is not None:
        write_text(options.into, json.dumps(put_into(record, rows), indent=1) + "\n")
    print("\n".join(f"{row['ratio']}, {row['threads']} threads: {row['value']}" for row in rows))


if __name__ == "__main__":
    main()
