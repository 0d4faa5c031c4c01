"""The ways to get every head's indirect effect that the benchmark compares, as functions of one form.

Each is given the same job and gives P(answer) with each of the heads patched, one after another where that is how the
method works. Hugging Face's model with its key-value cache is what a good engineer would write instead of the sweep
(``cached``). What researchers mostly run is a whole forward pass a head: TransformerLens' hooks and its ``patching``
helpers, Todd et al.'s published algorithm on Hugging Face's model, and nnsight.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.utilities import get_act_name
from transformers import AutoModelForCausalLM

import ivlens as iv
from ivlens.scoring import ids
from ivlens.vocabulary import Head, Method, all_heads

from .cached import RowPerHead, RowsFromTheirLayer

STOCK, TRANSPOSED, HUGGING_FACE = "TransformerLens' layout", "load_model's layout", "Hugging Face's layout"


@dataclass(frozen=True)
class Job:
    """A corrupted prompt whose answer is one token, and the means that heads are replaced by."""

    prompt: iv.Prompt
    tokens: Tensor  # batch of one, pos
    answer: int
    means: iv.HeadMeans

    @property
    def heads(self) -> list[Head]:
        """All heads of the model."""
        layers, heads, _ = self.means.values.shape
        return all_heads(layers, heads)


Run = Callable[[Job, list[Head]], Tensor]


@dataclass(frozen=True)
class Contender:
    """A method by its name and its weights' memory layout.

    ``whole``: it does all heads together, so its time is never scaled from some. ``exact``: it claims the plain loop's
    numbers.
    """

    name: str
    layout: str
    run: Run
    whole: bool = False
    exact: bool = True

    def ran(self, job: Job, some: list[Head]) -> list[Head]:
        """The heads that it is run for: all of the job's, or else only ``some``."""
        return job.heads if self.whole else some


def job_of(model: Any, prompt: iv.Prompt, means: iv.HeadMeans) -> Job:
    prompt_ids, answer = ids(model, prompt)
    assert len(answer) == 1, f"{prompt.answers[0]!r} has {len(answer)} tokens, and the published code scores one"
    return Job(prompt, torch.tensor([prompt_ids]), answer[0], means)


def stored_contiguous(model: Any) -> Any:
    """The model with its weights laid out in memory as TransformerLens makes them, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def all_contenders(folder: Path, model: Any, stock: Any) -> list[Contender]:
    """Every contender that is installed here; ``model`` and ``stock`` are HookedTransformers of ``folder``'s model."""
    methods: tuple[Method, ...] = ("exact", "attribution")
    bridge = iv.load_model(folder, engine="bridge")
    contenders = [
        *(
            Contender(f"ivlens, {method}", TRANSPOSED, ours(model, method), True, method == "exact")
            for method in methods
        ),
        Contender("ivlens, exact, on a Bridge", HUGGING_FACE, ours(bridge, "exact"), True),
        Contender("KV cache, rows from their layer on", HUGGING_FACE, RowsFromTheirLayer(folder), True),
        Contender("KV cache, a row a head", HUGGING_FACE, RowPerHead(folder), True),
        Contender("plain loop, run_with_hooks", STOCK, plain_loop(stock)),
        Contender("plain loop, run_with_hooks", TRANSPOSED, plain_loop(model)),
        Contender("transformer_lens.patching", STOCK, patching_helper(stock)),
        Contender("Todd et al.'s loop, forward hooks", HUGGING_FACE, published(folder)),
    ]
    if importlib.util.find_spec("nnsight"):
        contenders.append(Contender("nnsight, batched invokes", HUGGING_FACE, nnsight_traces(folder)))
    return contenders


def ours(model: Any, method: Method) -> Run:
    def run(job: Job, heads: list[Head]) -> Tensor:
        effects = iv.indirect_effects(model, [job.prompt], job.means, method=method, metric="probability")
        patched = effects.values[0] + effects.baseline[0]
        return torch.stack([patched[head] for head in heads])

    return run


def plain_loop(model: Any) -> Run:
    @torch.inference_mode()
    def run(job: Job, heads: list[Head]) -> Tensor:
        found = []
        for layer, head in heads:

            def patch(z: Tensor, hook: Any, layer: int = layer, head: int = head) -> Tensor:
                z[0, -1, head] = job.means.values[layer, head]
                return z

            logits = model.run_with_hooks(job.tokens, fwd_hooks=[(get_act_name("z", layer), patch)])
            found.append(_probability(logits, job))
        return torch.stack(found)

    return run


def patching_helper(model: Any) -> Run:
    """``generic_activation_patch`` over an index of heads; the means stand where the clean run's cache would."""

    def set_mean(z: Tensor, index: Sequence[int], mean: Any) -> Tensor:
        z[:, -1, index[1]] = mean[index[1]]
        return z

    @torch.inference_mode()
    def run(job: Job, heads: list[Head]) -> Tensor:
        index = pd.DataFrame(heads, columns=["layer", "head"])
        cache: Any = {get_act_name("z", layer): mean for layer, mean in enumerate(job.means.values)}
        found = patching.generic_activation_patch(
            model, job.tokens, cache, lambda logits: _probability(logits, job), set_mean, "z", index_df=index
        )
        assert isinstance(found, Tensor)
        return found

    return run


def published(folder: Path) -> Run:
    """One whole forward pass a head, as 2310.15213's code runs it: its slice of W_O's input set at the last token.

    That code multiplies by W_O a second time in a hook on its output; a hook on its input, as here, is spared that.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(job: Job, heads: list[Head]) -> Tensor:
        found = []
        for layer, head in heads:

            def patch(module: Any, inputs: tuple[Tensor], layer: int = layer, head: int = head) -> None:
                z = inputs[0].unflatten(-1, job.means.values.shape[1:])
                z[0, -1, head] = job.means.values[layer, head]

            hook = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(patch)
            try:
                found.append(_probability(model(job.tokens).logits, job))
            finally:
                hook.remove()
        return torch.stack(found)

    return run


def nnsight_traces(folder: Path) -> Run:
    """An invoke a head, as nnsight's guide batches interventions: as many heads as a layer has share a forward pass."""
    import nnsight

    model = nnsight.TransformersModel(str(folder), task="text-generation", dispatch=True)

    @torch.inference_mode()
    def run(job: Job, heads: list[Head]) -> Tensor:
        means, together = job.means.values, job.means.values.shape[1]
        found: list[Tensor] = []
        for start in range(0, len(heads), together):
            with model.trace() as tracer:
                logits = nnsight.save([])
                for layer, head in heads[start : start + together]:
                    with tracer.invoke(job.tokens):
                        z = model.model.layers[layer].self_attn.o_proj.input
                        z.unflatten(-1, means.shape[1:])[0, -1, head] = means[layer, head]
                        logits.append(model.lm_head.output[:, -1:])
            found += [_probability(each, job) for each in logits]
        return torch.stack(found)

    return run


def _probability(logits: Tensor, job: Job) -> Tensor:
    return logits[0, -1].softmax(-1)[job.answer]
