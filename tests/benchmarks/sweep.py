"""Cost of the exact sweep on SmolLM2, in plain forward passes and against the plain loop.

    python tests/benchmarks/sweep.py [--threads N] [--rounds N]

Forward, sweep and loop are interleaved on the same prompts in one process, and medians of the rounds' ratios are
printed: machines are noisy, ratios within a round less so. The forward pass is TransformerLens' own, whole, with
``load_model``'s transposed weights; the loop runs a part of the heads and is scaled up to all of them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import ivlens as iv

LOOPED_LAYERS = (0, 10, 20, 29)


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.inference_mode()
def plain_forward(model: Any, prompts: list[iv.Prompt]) -> None:
    for prompt in prompts:
        model(torch.tensor([prompt.token_ids(model.tokenizer)]))


@torch.inference_mode()
def plain_loop(model: Any, prompt: iv.Prompt, means: iv.HeadMeans) -> None:
    """The published algorithm over the heads of a few layers: a whole forward pass each, one hook."""
    tokens = torch.tensor([prompt.token_ids(model.tokenizer)])
    for layer in LOOPED_LAYERS:
        for head in range(model.cfg.n_heads):

            def patch(z: torch.Tensor, hook: Any, layer: int = layer, head: int = head) -> torch.Tensor:
                z[0, -1, head] = means.values[layer, head]
                return z

            model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, task = iv.load_model("smollm2"), iv.load_task("present-past")
    means = iv.mean_head_activations(model, task.prompts(20, split="train"))
    prompts = task.prompts(4, shots=5, corruption="shuffled-labels", split="test")
    one = prompts[:1]
    iv.indirect_effects(model, one, means)
    ratios: dict[str, list[float]] = {"sweep / forward": [], "sweep of 4 / 4 forwards": [], "loop / sweep": []}
    scale = model.cfg.n_layers / len(LOOPED_LAYERS)
    for _ in range(options.rounds):
        forward = statistics.median(seconds(lambda: plain_forward(model, one)) for _ in range(3))
        sweep = statistics.median(seconds(lambda: iv.indirect_effects(model, one, means)) for _ in range(3))
        ratios["sweep / forward"].append(sweep / forward)
        ratios["loop / sweep"].append(scale * seconds(lambda: plain_loop(model, one[0], means)) / sweep)
        four = seconds(lambda: iv.indirect_effects(model, prompts, means))
        ratios["sweep of 4 / 4 forwards"].append(four / seconds(lambda: plain_forward(model, prompts)))
    tokens = len(one[0].token_ids(model.tokenizer))
    medians = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    print(json.dumps({"threads": options.threads, "tokens": tokens, "rounds": options.rounds, **medians}, indent=2))


if __name__ == "__main__":
    main()
