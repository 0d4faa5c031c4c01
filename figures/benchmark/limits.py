"""The exact sweep in plain forward passes and in units of its arithmetic floor, and how it scales."""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ivlens as iv
from ivlens.models import cache_folder
from ivlens.scoring import ids
from ivlens.vocabulary import EffectPart

from .contenders import STOCK, TRANSPOSED, Head, job_of, plain_loop, stored_contiguous
from .floor import at_once, products_alone, sweep_products
from .measures import interleaved, ratio, shown, threads, warm
from .random_llama import random_llama

SHOTS = (2, 5, 10, 20, 40)
PROMPTS = (1, 2, 4, 8)
SHAPES = ((4, 4), (8, 8), (12, 12), (24, 12))  # layers, heads in each
SMALL = (6, 9)  # such a shape beside the floor: SmolLM2's width
PARTS: tuple[EffectPart, ...] = ("head", "attention", "mlp")
AT_ONCE = "four prompts at once"
LOOPED = 3  # heads that a loop runs where it is scaled to all
ROUNDS = 3  # of scaling, at most: the medians leave out one that warms up
LONGER = " and then went home"  # makes an answer of several tokens

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One model in both memory layouts, and the means of its heads over clean prompts of the task."""

    model: Any
    stock: Any
    task: iv.Task
    means: iv.HeadMeans

    def prompts(self, count: int = 1, shots: int = 5) -> list[iv.Prompt]:
        return self.task.prompts(count, shots=shots, corruption="shuffled-labels", split="test")

    def tokens(self, prompt: iv.Prompt) -> int:
        return len(ids(self.model, prompt)[0])


def smollm2() -> tuple[Path, Subject]:
    """The packaged default, and the Hugging Face folder that it was loaded from."""
    model = iv.load_model("smollm2")
    folder = next(path for path in cache_folder().glob("smollm2-*") if path.is_dir())
    return folder, subject(model)


def subject(model: Any) -> Subject:
    task = iv.load_task("present-past")
    means = iv.mean_head_activations(model, task.prompts(20, split="train"))
    return Subject(model, stored_contiguous(copy.deepcopy(model)), task, means)


def forward(model: Any, prompts: Sequence[iv.Prompt]) -> Callable[[], None]:
    """Plain forward passes of the prompts, one after another, as a researcher calls the model."""
    rows = [torch.tensor([ids(model, prompt)[0]]) for prompt in prompts]

    @torch.inference_mode()
    def run() -> None:
        for tokens in rows:
            model(tokens)

    return run


def sweep(of: Subject, prompts: Sequence[iv.Prompt]) -> Callable[[], object]:
    return lambda: iv.indirect_effects(of.model, prompts, of.means)


def forward_ratios(of: Subject, rounds: int, counts: Sequence[int]) -> list[Row]:
    """The sweep's ratios to plain forward passes, with the weights in both layouts."""
    [one], four, [long] = of.prompts(), of.prompts(4), of.prompts(shots=SHOTS[-1])
    cases = {
        f"{of.tokens(one)} tokens": [one],
        f"{of.tokens(one)} tokens, {AT_ONCE}": four,
        f"{of.tokens(long)} tokens": [long],
    }
    runs: dict[str, Callable[[], object]] = {}
    for what, prompts in cases.items():
        runs |= {f"sweep, {what}": sweep(of, prompts)}
        runs |= {f"{STOCK}, {what}": forward(of.stock, prompts), f"{TRANSPOSED}, {what}": forward(of.model, prompts)}
    first = next(iter(cases))
    runs |= {"everywhere": attribution_everywhere(of, one)}
    pairs = [(f"sweep / forward pass, {what}", layout, f"sweep, {what}", f"{layout}, {what}")
             for what in cases for layout in (STOCK, TRANSPOSED)]  # fmt: skip
    pairs += [(f"attribution of {len(PARTS)} parts at all positions / forward pass, {first}", layout, "everywhere",
               f"{layout}, {first}") for layout in (STOCK, TRANSPOSED)]  # fmt: skip
    return timed_ratios(runs, pairs, rounds, counts)


def floor_ratios(of: Subject, rounds: int, counts: Sequence[int]) -> list[Row]:
    """The sweep's ratios to its floor, also of a small model, and of a longer answer to a shorter."""
    [one], four, [long] = of.prompts(), of.prompts(4), of.prompts(shots=SHOTS[-1])
    wordy = replace(one, answers=(one.answers[0] + LONGER,))
    small = subject(random_model(of.model.tokenizer, *SMALL))
    first, last = f"{of.tokens(one)} tokens", f"answer of {len(ids(of.model, wordy)[1])}"
    cases = {
        first: (of, [one]),
        f"{first}, {AT_ONCE}": (of, four),
        f"{of.tokens(long)} tokens": (of, [long]),
        f"{first}, {last}": (of, [wordy]),
        f"{first}, {SMALL[0]} layers": (small, [one]),
        f"{first}, {SMALL[0]} layers, {AT_ONCE}": (small, four),
    }
    runs: dict[str, Callable[[], object]] = {}
    for what, (model, prompts) in cases.items():
        runs |= {f"sweep, {what}": sweep(model, prompts), f"floor, {what}": floor(model, prompts)}
    pairs = [(f"sweep / arithmetic floor, {what}", "", f"sweep, {what}", f"floor, {what}") for what in cases]
    pairs += [(f"{last} tokens / of one, {first}", "", f"sweep, {first}, {last}", f"sweep, {first}")]
    return timed_ratios(runs, pairs, rounds, counts)


def attribution_everywhere(of: Subject, prompt: iv.Prompt) -> Callable[[], object]:
    """The estimated effects of heads, attention blocks and MLPs at all of the prompt's positions, by role."""
    clean = of.task.prompts(10, shots=5, split="train")
    means = iv.mean_position_activations(of.model, clean, parts=PARTS)
    return partial(iv.position_effects, of.model, [prompt], means, method="attribution")


def floor(of: Subject, prompts: Sequence[iv.Prompt]) -> Callable[[], None]:
    """The matrix products alone of a sweep of the prompts."""
    lengths = [map(len, ids(of.model, prompt)) for prompt in prompts]
    return products_alone(at_once([sweep_products(of.model.cfg, *each) for each in lengths]))


def timed_ratios(
    runs: Mapping[str, Callable[[], object]], pairs: Sequence[tuple[str, str, str, str]], rounds: int,
    counts: Sequence[int],
) -> list[Row]:  # fmt: skip
    """A row per number of threads and pair: the ratio's name, the forward pass's layout, and the two runs' names."""
    rows = []
    for count in counts:
        with threads(count):
            warm(runs)
            times = interleaved(runs, rounds)
        rows += [{"ratio": name, "forward pass": layout, "threads": count, "value": ratio(times, above, below)}
                 for name, layout, above, below in pairs]  # fmt: skip
    return rows


def scaling(of: Subject, rounds: int) -> list[Row]:
    """The sweep's ratios along the prompt's length, the number of prompts, and the number of heads."""
    rows = [{"along": "tokens"} | point(of, of.prompts(shots=shots), rounds) for shots in SHOTS]
    rows += [{"along": "prompts"} | point(of, of.prompts(count), rounds) for count in PROMPTS]
    for shape in SHAPES:
        random = subject(random_model(of.model.tokenizer, *shape))
        rows.append({"along": "heads"} | point(random, random.prompts(), rounds))
    return rows


def point(of: Subject, prompts: list[iv.Prompt], rounds: int) -> Row:
    job = job_of(of.stock, prompts[0], of.means)
    looped = evenly_spaced(job.heads, LOOPED)
    loop = plain_loop(of.stock)
    runs: dict[str, Callable[[], object]] = {
        "sweep": sweep(of, prompts),
        "forward": forward(of.stock, prompts),
        "loop": lambda: loop(job, looped),
    }
    times = interleaved(runs, min(rounds, ROUNDS))
    return {
        "tokens": job.tokens.shape[1],
        "prompts": len(prompts),
        "heads": len(job.heads),
        "sweep, s": shown(statistics.median(times["sweep"])),
        "sweep / forward": ratio(times, "sweep", "forward"),
        "loop / sweep": ratio(times, "loop", "sweep", len(prompts) * len(job.heads) / LOOPED),
    }


def evenly_spaced(heads: list[Head], count: int) -> list[Head]:
    """``count`` of the heads, evenly spaced over the layers."""
    return [heads[(2 * at + 1) * len(heads) // (2 * count)] for at in range(count)]


def random_model(tokenizer: Any, layers: int, heads: int) -> Any:
    """A Llama with random weights: heads of 64 dimensions, an MLP of 8/3 of the width, SmolLM2's vocabulary."""
    width = 64 * heads
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width}
    return random_llama(tokenizer, shape | {"intermediate_size": 8 * width // 3})
