"""Cost of a guided step against a plain one, and of a plain one and a LoRA one against the same of other libraries.

    python -m figures.training_cost.measure [--threads N] [--out FILE]

SmolLM2, batch 8, two-shot prompts, float32, AdamW; the kinds of step are interleaved, and medians of the ratios within
a round are told; then the resident memory of LoRA training.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import ivlens as iv
from ivlens.models import cache_folder
from ivlens.records import write_text
from ivlens.scoring import all_ids
from ivlens.training.step import TrainingStep
from ivlens.training.trainable import Trainable
from ivlens.vocabulary import Head

MEMORY = """
from pathlib import Path
import ivlens as iv
model = iv.load_model("smollm2")
task = iv.load_task("lowercase-first-letter")
iv.fine_tune(model, task.prompts(split="train"), iv.TrainingConfig(iv.Guidance(), steps=5, lora=iv.LoRA(8, 16.0)))
status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with that of the parent
print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)
"""
Teacher = Literal["cached", "live"]
LORA = {"LoRA": iv.LoRA(8, 16.0), "LoRA with dropout": iv.LoRA(8, 16.0, dropout=0.1)}
KINDS: dict[str, tuple[str, Teacher]] = {
    "plain": ("plain", "cached"),
    "iv, cached teacher": ("iv", "cached"),
    "iv, live teacher": ("iv", "live"),
    "guided, cached teacher": ("guided", "cached"),
    "guided, live teacher": ("guided", "live"),
    "l2-strong": ("l2-strong", "cached"),
}


def ours(
    stack: ExitStack,
    model: Any,
    prompts: list[Any],
    vector: Any,
    rehearse: list[Any],
    preset: str,
    teacher: Teacher = "cached",
    lora: iv.LoRA | None = None,
) -> Callable[[int], None]:
    """A function that takes step s on a model of its own."""
    config = iv.TrainingConfig(iv.Guidance.preset(preset), steps=1000, teacher=teacher, lora=lora)
    training_step = TrainingStep.of(model, config, prompts, vector, rehearse)
    trainable = stack.enter_context(Trainable.of(model, config))
    training_step.prepare(trainable.anchors)

    def step(number: int) -> None:
        training_step.backward(number)
        trainable.clipped_norm()
        trainable.step(1e-6)

    return step


def theirs(pairs: list[Any], lora: iv.LoRA | None = None) -> Callable[[int], None]:
    """The same step with the Hugging Face model that the default was loaded from, or with PEFT's LoRA on it."""
    folder = next(path for path in cache_folder().glob("smollm2-*") if path.is_dir())
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if lora is not None:
        targets = ["q_proj", "v_proj"]  # LoRA's default
        settings = LoraConfig(
            r=lora.rank, lora_alpha=int(lora.alpha), target_modules=targets, lora_dropout=lora.dropout
        )
        model = get_peft_model(model, settings).train()
    model.get_input_embeddings().weight.requires_grad_(False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    rest = [width - len(prompt) - len(answer) for prompt, answer in pairs]
    tokens = torch.tensor([[*p, *a, *[0] * n] for (p, a), n in zip(pairs, rest, strict=True)])
    mask = torch.tensor([[1] * (width - n) + [0] * n for n in rest])
    labels = torch.tensor([[-100] * len(p) + [*a] + [-100] * n for (p, a), n in zip(pairs, rest, strict=True)])

    def step(number: int) -> None:
        model(tokens, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file for the numbers, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = iv.load_model("smollm2")
    task = iv.load_task("lowercase-first-letter")
    prompts = task.prompts(8, split="train")  # the same eight at each step
    means = iv.mean_head_activations(model, prompts)
    vector = iv.instruction_vector(model, means, [Head(20, 5), Head(12, 8), Head(5, 6), Head(8, 2), Head(11, 5)])
    rehearse = iv.rehearsal_prompts(task, [iv.load_task("antonym"), iv.load_task("hypernym")])[:2]
    with ExitStack() as stack:
        steps = {
            name: ours(stack, copy.deepcopy(model), prompts, vector, rehearse, *kind) for name, kind in KINDS.items()
        }
        steps["Hugging Face"] = theirs(all_ids(model, prompts))
        for name, lora in LORA.items():
            steps[name] = ours(stack, copy.deepcopy(model), prompts, vector, rehearse, "plain", lora=lora)
            steps[f"PEFT's {name}"] = theirs(all_ids(model, prompts), lora)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(options.rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step(number)
                times[name].append(time.perf_counter() - started)

    def ratio(one: str, other: str) -> float:  # the first round warms up
        return round(statistics.median(a / b for a, b in zip(times[one][1:], times[other][1:], strict=True)), 3)

    peak = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()[-1]
    found = {"threads": options.threads, "rounds": options.rounds, "torch": torch.__version__}
    found |= {"plain step, s": round(statistics.median(times["plain"][1:]), 3)}
    found |= {"plain / Hugging Face": ratio("plain", "Hugging Face")}
    found |= {f"{name} / plain": ratio(name, "plain") for name in KINDS if name != "plain"}
    found |= {f"{name} / PEFT's {name} on Hugging Face": ratio(name, f"PEFT's {name}") for name in LORA}
    found |= {"LoRA training, GiB resident at most": round(float(peak), 2)}
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
    if options.out is not None:
        write_text(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
