"""Results as frozen dataclasses that save, load and become frames; they know no model and no plot.

A record is one safetensors file: its tensors as tensors, everything else as JSON in the file's header, so that
neither can be separated from the other. Files are written beside their target and moved over it in one step.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import RecordError, at_least, one_of

Head = tuple[int, int]
METRICS = ("probability", "log-probability", "logit-difference")


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it over ``path`` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True, eq=False)
class Record:
    """Base of all records: saves to one safetensors file and loads from it.

    ``provenance`` says where the numbers come from: model (source, revision or hash, dtype, weight processing),
    prompts (task, template, BOS, seed), settings and library versions.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def save(self, path: str | Path) -> Path:
        """Write the record to ``path`` atomically and return the path."""
        tensors, facts = self._pack("")
        header = {"ivlens": json.dumps({"record": type(self).__name__, **facts})}
        return write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of this class from ``path``.

        Raises:
            RecordError: the file is missing, truncated, or holds another kind of record.
        """
        path = Path(path)
        again = f"save one with {cls.__name__}.save(path)"
        if not path.is_file():
            raise RecordError(f"a saved {cls.__name__} at {path}", "no such file", again)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads((file.metadata() or {})["ivlens"])
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise RecordError(f"{path} to be an ivlens record", f"an unreadable file ({error})", again) from error
        if facts.get("record") != cls.__name__:
            raise RecordError(f"a {cls.__name__} in {path}", f"a {facts.get('record')}", "load it with its own class")
        try:
            return cls._unpack("", tensors, facts)
        except (KeyError, TypeError) as error:
            raise RecordError(
                f"the fields of a {cls.__name__} in {path}", f"{error!r} is missing or odd", again
            ) from error

    def _pack(self, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                tensors[prefix + name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            elif isinstance(value, Record):
                inner, facts[name] = value._pack(f"{prefix}{name}.")
                tensors |= inner
            else:
                facts[name] = value
        return tensors, facts

    @classmethod
    def _unpack(cls, prefix: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Self:
        values: dict[str, Any] = {}
        for each in fields(cls):
            inner = each.metadata.get("record")
            if prefix + each.name in tensors:
                values[each.name] = tensors[prefix + each.name]
            elif inner and facts[each.name] is not None:
                values[each.name] = inner._unpack(f"{prefix}{each.name}.", tensors, facts[each.name])
            else:
                values[each.name] = _tuples(facts[each.name])
        return cls(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists back to the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def heads_by_effect(values: Float[Tensor, "layer head"]) -> list[Head]:
    """All heads as (layer, head), strongest first; ties in the order of layer and head."""
    order = torch.sort(values.flatten(), descending=True, stable=True).indices.tolist()
    return [divmod(index, values.shape[1]) for index in order]


@dataclass(frozen=True, eq=False)
class HeadMeans(Record):
    """Mean output of each head before W_O at the last token of clean prompts (2310.15213, eq. 3).

    ``values`` is [layer, head, d_head] in the model's activation units; ``n`` counts the prompts.
    """

    values: Float[Tensor, "layer head d_head"]
    n: int
    task: str = ""


@dataclass(frozen=True, eq=False)
class HeadMap(Record):
    """One number a head with its standard error: ``aie`` and ``stderr``, both [layer, head]."""

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        raise NotImplementedError

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        raise NotImplementedError

    def top(self, k: int) -> list[Head]:
        """The ``k`` heads of highest average indirect effect as (layer, head), highest first."""
        at_least("k", k, 1)
        return heads_by_effect(self.aie)[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row a head, strongest first: layer, head, aie, stderr, rank (from 1)."""
        heads = heads_by_effect(self.aie)
        at = tuple(np.array(heads).T)
        columns = {"layer": at[0], "head": at[1], "aie": self.aie.numpy()[at], "stderr": self.stderr.numpy()[at]}
        return pd.DataFrame(columns | {"rank": range(1, len(heads) + 1)})


@dataclass(frozen=True, eq=False)
class HeadEffects(HeadMap):
    """Indirect effects of all heads on corrupted prompts (2310.15213, eq. 4; ``method.md`` section 2).

    ``values`` is [prompt, layer, head]: the metric with the head's output replaced by its clean mean, minus the
    metric without, in the metric's own unit (probability, nats, or logits); ``baseline`` [prompt] is the latter.
    """

    values: Float[Tensor, "prompt layer head"]
    baseline: Float[Tensor, " prompt"]
    metric: str
    method: str
    task: str = ""
    means: HeadMeans | None = field(default=None, metadata={"record": HeadMeans})

    def __post_init__(self) -> None:
        one_of("metric", self.metric, METRICS)

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return self.values.shape[0]

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        """Average indirect effect of each head: the mean over prompts."""
        return self.values.mean(0)

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        """Standard error of the mean over prompts (not a number for a single prompt)."""
        return (self.values.var(0, correction=0) / (self.n - 1)).sqrt()

    def interval(
        self, level: float = 0.95, *, resamples: int = 2000, seed: int = 0
    ) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """Lower and upper percentile-bootstrap bounds of the AIE, prompts being resampled."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.n, (resamples, self.n), generator=generator)
        counts = torch.zeros(resamples, self.n, dtype=self.values.dtype)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        means = torch.einsum("rp,plh->rlh", counts / self.n, self.values)
        tail = (1 - level) / 2
        low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
        return low, high


@dataclass(frozen=True, eq=False)
class UniversalEffects(HeadMap):
    """Mean over tasks of the tasks' AIEs, with the standard error that the prompts within each task give it."""

    mean: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]
    metric: str
    tasks: tuple[str, ...]
    n: int

    @property
    def aie(self) -> Float[Tensor, "layer head"]:
        """Mean over tasks of the tasks' AIEs."""
        return self.mean

    @property
    def stderr(self) -> Float[Tensor, "layer head"]:
        """Standard error over prompts, tasks held fixed."""
        return self.error


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """How a model answers prompts: per prompt, with means and standard errors over prompts.

    ``probabilities``: P(answer | prompt), the product over the answer's tokens, teacher forced;
    ``token_probabilities``: its geometric mean a token; ``first_token_probabilities``: the first token's;
    ``hits``: whether greedy decoding gives any accepted answer. Probabilities are those of the first accepted answer.
    """

    probabilities: Float[Tensor, " prompt"]
    token_probabilities: Float[Tensor, " prompt"]
    first_token_probabilities: Float[Tensor, " prompt"]
    hits: Bool[Tensor, " prompt"]
    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.hits)

    @property
    def accuracy(self) -> float:
        """Fraction of prompts whose greedy answer is an accepted one."""
        return self.hits.double().mean().item()

    @property
    def probability(self) -> float:
        """Mean probability of the whole answer."""
        return self.probabilities.double().mean().item()

    @property
    def token_probability(self) -> float:
        """Mean over prompts of the per-token geometric mean."""
        return self.token_probabilities.double().mean().item()

    @property
    def first_token_probability(self) -> float:
        """Mean probability of the answer's first token."""
        return self.first_token_probabilities.double().mean().item()

    @property
    def accuracy_stderr(self) -> float:
        """Standard error of the accuracy, prompts being the unit."""
        return standard_error(self.hits)

    @property
    def probability_stderr(self) -> float:
        """Standard error of the mean probability, prompts being the unit."""
        return standard_error(self.probabilities)

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt: prompt, answer, probability, token_probability, first_token_probability, correct."""
        return pd.DataFrame({
            "prompt": self.prompts, "answer": self.answers, "probability": self.probabilities.numpy(),
            "token_probability": self.token_probabilities.numpy(),
            "first_token_probability": self.first_token_probabilities.numpy(), "correct": self.hits.numpy(),
        })  # fmt: skip

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.2f} ± {self.accuracy_stderr:.2f}, "
            f"P(answer) {self.probability:.3f} ± {self.probability_stderr:.3f}, n = {self.n}"
        )


@dataclass(frozen=True, eq=False)
class SteeringSweep(Record):
    """Accuracy and mean P(answer) of steered prompts, both [layer, scale], with the ``layers`` and ``scales`` tried."""

    accuracy: Float[Tensor, "layer scale"]
    probability: Float[Tensor, "layer scale"]
    layers: tuple[int, ...]
    scales: tuple[float, ...]
    n: int
    task: str = ""

    def best(self) -> tuple[int, float]:
        """The (layer, scale) of highest accuracy, ties broken by the mean probability."""
        ranked = [
            (self.accuracy[i, j].item(), self.probability[i, j].item(), layer, scale)
            for i, layer in enumerate(self.layers)
            for j, scale in enumerate(self.scales)
        ]
        return max(ranked, key=lambda cell: cell[:2])[2:]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: layer, scale, accuracy, probability, n."""
        cells = [(layer, scale) for layer in self.layers for scale in self.scales]
        frame = pd.DataFrame(cells, columns=["layer", "scale"])
        return frame.assign(
            accuracy=self.accuracy.flatten().numpy(), probability=self.probability.flatten().numpy(), n=self.n
        )


def standard_error(values: Tensor | Sequence[float]) -> float:
    """Standard error of the mean of independent values (not a number for fewer than two)."""
    numbers = torch.as_tensor(values).double()
    return (numbers.std(correction=1) / len(numbers) ** 0.5).item() if len(numbers) > 1 else float("nan")
