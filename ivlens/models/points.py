"""Hook points: their names, and those of a Hugging Face model, where torch hooks read or edit an activation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import HookError, UnsupportedError

# what a layer lacks that has no such point, and what to do
ABSENT = {
    "attn.hook_z": ("attention heads", "choose another layer"),
    "attn.hook_pattern": ("attention heads", "choose another layer"),
    "hook_attn_out": (
        "attention whose output is seen to be added to the residual stream",
        "steer at site='resid_pre', or leave out part 'attention'",
    ),
    "hook_mlp_out": ("an MLP whose output is seen to be added to the residual stream", "leave out part 'mlp'"),
}  # fmt: skip
Hook = Callable[[nn.Module, Any, Tensor], Tensor | None]  # as torch calls a forward hook


def z_name(layer: int) -> str:
    """Hook point of the heads' outputs before W_O: [batch, pos, head, d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def resid_pre_name(layer: int) -> str:
    """Hook point of the residual stream entering a block: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post_name(layer: int) -> str:
    """Hook point of the residual stream leaving a block, which enters the next one: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_resid_post"


def stream_name(n_layers: int, layer: int) -> str:
    """Hook point of the residual stream entering a layer, or, at the number of layers, leaving the last one."""
    return resid_pre_name(layer) if layer < n_layers else resid_post_name(n_layers - 1)


def attn_out_name(layer: int) -> str:
    """Hook point of what a block's attention adds to the residual stream: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_attn_out"


def mlp_out_name(layer: int) -> str:
    """Hook point of what a block's MLP adds to the residual stream: [batch, pos, d_model]."""
    return f"blocks.{layer}.hook_mlp_out"


def pattern_name(layer: int) -> str:
    """Hook point of the attention patterns: [batch, head, query, key]."""
    return f"blocks.{layer}.attn.hook_pattern"


@dataclass(eq=False)
class Point:
    """One hook point: what a module is given, or gives, in the layout that TransformerLens has there.

    ``heads`` splits the last axis into heads; ``scale`` is the factor by which the model multiplies the activation
    before it adds it to the residual stream; ``item`` counts in outputs that are tuples.
    """

    module: nn.Module
    given: bool
    heads: int | None = None
    scale: float = 1.0
    item: int = 0
    taps: "dict[Tap, RemovableHandle]" = field(default_factory=dict)

    def attach(self, hook: Hook) -> None:
        """Have ``hook`` read or edit the activation, until ``detach``."""
        tap = Tap(self, hook)
        if self.given:
            handle = self.module.register_forward_pre_hook(tap.before, with_kwargs=True)
        else:
            handle = self.module.register_forward_hook(tap.after)
        self.taps[tap] = handle

    def detach(self, hook: Hook) -> None:
        """Remove ``hook``."""
        for tap in [tap for tap in self.taps if tap.hook is hook]:
            self.taps.pop(tap).remove()

    @property
    def hooks(self) -> Iterator[Hook]:
        """The hooks that are attached."""
        return (tap.hook for tap in self.taps)

    def run(self, hook: Hook, raw: Any) -> Tensor:
        """The module's activation, after ``hook`` has seen and perhaps edited it in TransformerLens' layout."""
        if not isinstance(raw, Tensor):
            raise HookError(
                "an activation of this hook point", f"{type(raw).__name__} from a {type(self.module).__name__}",
                "run the model by model(...), not by a part of it",
            )  # fmt: skip
        shown = raw.unflatten(-1, (self.heads, -1)) if self.heads else raw
        shown = shown * self.scale if self.scale != 1 else shown
        edited = hook(self.module, None, shown)
        if edited is None and self.scale == 1:
            return raw
        back = (shown if edited is None else edited) / self.scale
        return (back.flatten(-2) if self.heads else back).to(raw)


@dataclass(frozen=True, eq=False)
class Tap:
    """One hook at its point, as torch calls it."""

    point: Point
    hook: Hook

    def before(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """Before the module runs: its input."""
        if is_handed_through(module):
            return args, options
        raw, put = taken(args, options)
        return put(self.point.run(self.hook, raw))

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """After the module ran: its output."""
        if is_handed_through(module):
            return output
        if isinstance(output, tuple):
            at = self.point.item
            return (*output[:at], self.point.run(self.hook, output[at]), *output[at + 1 :])
        return self.point.run(self.hook, output)


@dataclass(frozen=True)
class HandThrough:
    """Stands in for the forward function of a layer that gives ``instead``, or what it is given; no hooks run there."""

    instead: Tensor | None
    in_tuple: int  # elements of what it gives where that is a tuple, else 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        value = taken(args, options)[0] if self.instead is None else self.instead
        return (value, *(None,) * (self.in_tuple - 1)) if self.in_tuple else value


def is_handed_through(module: nn.Module) -> bool:
    """Whether a layer does not compute in this pass."""
    return isinstance(vars(module).get("forward"), HandThrough)


def taken(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Callable[[Tensor], tuple[Any, Any]]]:
    """A module's input, which is its first argument whether named or not, and the call with another one."""
    if args:
        return args[0], lambda value: ((value, *args[1:]), options)
    name = "hidden_states" if "hidden_states" in options else next(iter(options), "")
    return options.get(name), lambda value: (args, options | {name: value})


def hook_of(registered: Any) -> Any:
    """The hook that a function registered with torch runs, where it is one of ours; else the function."""
    tap = getattr(registered, "__self__", None)
    return tap.hook if isinstance(tap, Tap) else registered


def first(output: Any) -> Tensor:
    """A layer's activation, which some models give in a tuple."""
    activation = output[0] if isinstance(output, (tuple, list)) else output
    assert isinstance(activation, torch.Tensor)
    return activation


def check_present(unknown: Iterable[str], model: Any) -> None:
    """Raise UnsupportedError for a hook point that other models' layers have, and the layer of this one has not."""
    for name in unknown:
        block, _, kind = name.partition(".")[2].partition(".")
        if kind in ABSENT and block.isdecimal() and int(block) < model.cfg.n_layers:
            lacks, do = ABSENT[kind]
            raise UnsupportedError(lacks, f"none in layer {block} of {model!r:.80}", do)
