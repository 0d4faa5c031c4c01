"""The field's words, each with one meaning: heads, tokenised prompts, closed sets of names, and what a model has."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, get_args

from .checks import Natural
from .errors import ArgumentError, brief

Ids = tuple[int, ...]


class Head(NamedTuple):
    """An attention head by its layer and its number in the layer, both from 0; equal to the plain tuple."""

    layer: Natural
    head: Natural

    def __repr__(self) -> str:
        return f"({self.layer}, {self.head})"


class TokenizedPrompt(NamedTuple):
    """The token ids of a prompt and of its answer; () where no answer is needed."""

    prompt_ids: Ids
    answer_ids: Ids = ()


# What an indirect effect is measured in: the answer's probability, its logarithm in nats, or its logits minus those of
# the strongest wrong tokens.
Metric = Literal["probability", "log-probability", "logit-difference"]
METRICS: tuple[Metric, ...] = get_args(Metric)

# How effects are computed: last-token streams, one forward pass per head, or first-order estimates from gradients.
Method = Literal["exact", "loop", "attribution"]

# How the task is hidden from a prompt.
Corruption = Literal["no-instruction", "other-instruction", "shuffled-labels"]

# How a query is put into words, by name; any callable is a format too.
FormatName = Literal["labelled", "plain", "qa", "chat"]

# What an ability is to a sequence of learned tasks: learned in it, to be kept (asked with its instruction, or its
# knowledge without), or general (without or with demonstrations).
ContinualRole = Literal["new", "keep", "zero-shot", "in-context", "knowledge"]

# The disjoint parts of a task's examples, or all of them.
Split = Literal["train", "validation", "test", "all"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Engine = Literal["auto", "hooked", "bridge"]

# Where a vector is added in a layer: to the stream that enters the block, to the stream that leaves it, or to what its
# attention writes.
StreamSite = Literal["resid_pre", "resid_post"]
Site = Literal["resid_pre", "resid_post", "attn_out"]

# Which tokens are edited: the prompt's last one, that and all later ones, or every token.
Position = Literal["last", "generated", "all"]
POSITIONS: tuple[Position, ...] = get_args(Position)

# What is replaced at the last prompt token: what a head writes, which is z under the W_O that belongs to it; z alone,
# under the running model's W_O; what a block's attention or MLP adds to the stream; the stream that enters a block.
Part = Literal["head", "z", "attention", "mlp", "residual"]
PARTS: tuple[Part, ...] = get_args(Part)

# What is patched to its mean: a head's output before W_O, and the last three of these.
EffectPart = Literal["head", "attention", "mlp", "residual"]


class ModelPart(NamedTuple):
    """A part of one layer; ``head`` is None but for "head" and "z"."""

    part: Part
    layer: Natural
    head: Natural | None = None

    def __str__(self) -> str:
        return f"{self.part} {self.layer}" + ("" if self.head is None else f".{self.head}")


# How positions are aligned: by the parts of prompts, one mean for each role; token by token within them, one mean for
# each aligned position, patched by token class as in 2310.15213; or counted from the end.
PositionsBy = Literal["role", "token-class", "position"]
POSITIONS_BY: tuple[PositionsBy, ...] = get_args(PositionsBy)


# Patching between a base and a checkpoint: the base's activations put into the checkpoint, or the checkpoint's into the
# base; and the prompts that it is done on: forgotten ones, still kept ones, those of the new task, or forgotten ones
# with the activations of another forgotten prompt.
Direction = Literal["restores", "breaks"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
PatchRole = Literal["forgotten", "kept", "learned", "other prompt"]
PATCH_ROLES: tuple[PatchRole, ...] = get_args(PatchRole)


class Verdict(StrEnum):
    """What became of a base model's ability in a checkpoint."""

    BASE = "base"
    KEPT = "kept"
    DROWNED = "activation drowned, recoverable"
    CHANGED = "function changed"
    LOST = "knowledge lost"
    UNSHOWN = "not shown to have fallen"
    OPEN = "fallen, recovery undecided"
    UNKNOWN = "not an ability of the base"


class Condition(StrEnum):
    """Conditions under which prompts are answered: bare (no instruction, no demonstrations) or clean, perhaps steered.

    The names of conditions of several seeds or tasks continue with a seed or a task, see ``of``.
    """

    BARE = "bare"
    CLEAN = "clean"
    VECTOR = "bare + vector"
    BASE_VECTOR = "bare + base's vector"
    OWN_VECTOR = "bare + own vector"
    OTHER_VECTOR = "bare + vector of another task"
    TASK_VECTOR = "bare + vector of"
    RANDOM_VECTOR = "bare + random vector"
    RANDOM_HEADS = "bare + random heads"
    MEAN_DIFFERENCE = "bare + mean difference"
    CLEAN_VECTOR = "clean + vector"
    ZERO_HEADS = "zero: heads of"
    MEAN_HEADS = "mean: heads of"
    MINUS_VECTOR = "minus vector of"
    MINUS_RANDOM = "minus random vector"
    ZERO_RANDOM_HEADS = "zero: random heads"

    def of(self, which: int | str) -> str:
        """The condition's name for one seed or task."""
        return f"{self} {which}"

    def among(self, names: Iterable[str]) -> list[str]:
        """Those of the names that are this condition's: its own or, where that is missing, its seeds' or tasks'."""
        names = list(names)
        return [name for name in names if name == self] or [name for name in names if name.startswith(f"{self} ")]


# Under what a checkpoint is asked again, to see whether a vector brings a task back.
RECOVERY_CONDITIONS = (
    Condition.BARE, Condition.CLEAN, Condition.BASE_VECTOR, Condition.OWN_VECTOR, Condition.OTHER_VECTOR,
    Condition.RANDOM_VECTOR,
)  # fmt: skip


class Opinion(StrEnum):
    """What one kind of evidence says about an ability that a checkpoint lost."""

    THERE = "still there"
    GONE = "not there"
    UNDECIDED = "undecided"
    UNMEASURED = "not measured"


class Finding(StrEnum):
    """The outcome of testing a claim."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


def all_heads(n_layers: int, n_heads: int) -> list[Head]:
    """Every head of a model, layer by layer."""
    return [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def all_parts(parts: Iterable[Part], n_layers: int, n_heads: int) -> list[ModelPart]:
    """The parts of every layer: part by part, each layer by layer, heads within."""
    return [
        ModelPart(part, layer, head)
        for part in parts
        for layer in range(n_layers)
        for head in (range(n_heads) if part in ("head", "z") else [None])
    ]


def check_different_parts(parts: Sequence[str]) -> None:
    """Raise ArgumentError unless ``parts`` are one or more, each of them once."""
    if not parts or len({*parts}) < len(parts):
        raise ArgumentError("different parts, one or more", repr(tuple(parts)))


def check_heads(shape: tuple[int, int], heads: Iterable[tuple[int, int]]) -> None:
    """Raise ArgumentError unless ``heads`` are one or more heads of a model of ``shape`` (layers, heads)."""
    heads = list(heads)
    if not heads:
        raise ArgumentError("heads as (layer, head), one or more", "none")
    for layer, head in heads:
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            raise ArgumentError(f"layers below {shape[0]} and heads below {shape[1]}", repr((layer, head)))


def at_layer(layer: int, site: Site) -> str:
    """Where a vector is added, in words; the input of a layer goes without saying."""
    return f"layer {layer}" if site == "resid_pre" else f"layer {layer}, {site}"


def check_layer(n_layers: int, layer: int, name: str = "layer") -> None:
    """Raise ArgumentError unless a model with ``n_layers`` has the ``layer``, an argument called ``name``."""
    if not 0 <= layer < n_layers:
        raise ArgumentError(f"{name} to be from 0 to {n_layers - 1}", repr(layer))


def check_layers(n_layers: int, layers: Sequence[int]) -> None:
    """Raise ArgumentError unless ``layers`` are one or more layers of a model with ``n_layers``."""
    if not layers or not all(0 <= layer < n_layers for layer in layers):
        raise ArgumentError(f"layers from 0 to {n_layers - 1}, one or more", brief(layers))


def check_count(k: int, count: int, of: str = "heads", name: str = "k") -> None:
    """Raise ArgumentError unless ``k``, an argument called ``name``, is at most ``count``, the number of ``of``."""
    if k > count:
        raise ArgumentError(f"{name} to be at most {count}, the number of {of}", repr(k))
