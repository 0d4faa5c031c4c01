"""The model that a Trainer of transformers has in training, as a ``Bridge`` on its own weights."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import ArgumentError, UnsupportedError
from ..models import Bridge, load_model, stamp_later
from ..models.sources import as_it_is


def check_watchable(trainer: Any, model: Any) -> None:
    """Raise UnsupportedError where no process has all weights of the model, or it is no model of transformers."""
    split = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed's ZeRO 3": is_deepspeed_zero3_enabled(),
        "tensor parallelism": any(type(weight).__name__ == "DTensor" for weight in model.parameters()),
    }
    if found := [name for name, on in split.items() if on]:
        raise UnsupportedError(
            "a model whose weights are whole in every process", f"one that {found[0]} splits",
            "train it with data parallelism, or compare its checkpoints afterwards: ivlens compare BASE RUN/",
        )  # fmt: skip
    if as_it_is(model, "tokenizer") is None:
        raise UnsupportedError("a causal language model of transformers or peft in training", f"a {type(model)}")


@contextmanager
def watched(model: Any, tokenizer: Any, step: int, facts: Mapping[str, Any] | None = None) -> Iterator[Bridge]:
    """Within this context the model in training is a Bridge in evaluation mode; afterwards it is as it was before.

    It computes in the dtype of its weights, without the Trainer's mixed precision, as it would when it is loaded from
    a checkpoint.

    Args:
        model: the model in training, or the PEFT model around it, whose adapters stay on.
        tokenizer: its tokenizer; once ``facts`` are known the Bridge's own.
        step: steps taken so far.
        facts: the Bridge's facts before the first step (None: the model is checked on a short text, and hashed).
    """
    taken = as_it_is(model, tokenizer)
    assert taken is not None  # check_watchable
    inner = taken.model
    with torch.no_grad(), _in_weights_dtype(inner):
        if facts is None:
            bridge = load_model(inner, tokenizer=tokenizer, engine="bridge")
            assert isinstance(bridge, Bridge)
        else:
            bridge = Bridge(inner, tokenizer)
            stamp_later(bridge, facts, f"after {step} steps of training")
        yield bridge


@contextmanager
def randomness_kept(model: Any) -> Iterator[None]:
    """Afterwards random numbers go on as if nothing had drawn any: Python's, NumPy's, and torch's on the CPU and the
    model's GPU."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _in_weights_dtype(model: nn.Module) -> Iterator[None]:
    """Within this context accelerate's mixed precision, a forward function of the model's own, is off."""
    own = vars(model)
    before = {"forward": own["forward"]} if "_original_forward" in own else {}
    with torch.autocast(model.device.type, enabled=False):  # type: ignore[arg-type]
        try:
            if before:
                own["forward"] = own["_original_forward"]
            yield
        finally:
            own.update(before)


def tokenizer_of(given: Any, processing_class: Any) -> Any:
    """The tokenizer that a callback was given, or the Trainer's, which may be inside a processor.

    Raises:
        ArgumentError: there is none.
    """
    found = processing_class if given is None else given
    if found is None:
        raise ArgumentError(
            "a tokenizer", "a Trainer without one", "pass it as the Trainer's processing_class, or as tokenizer="
        )
    return getattr(found, "tokenizer", found)
