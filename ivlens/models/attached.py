"""What runs in a model's forward pass besides its own modules: edits, hooks of others, modules of others."""

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations
from transformer_lens.hook_points import HookPoint

from .engines import HookedTransformer, Model
from .hooks import AttachedEdit, Watch, remove_left_behind, watch_on
from .points import hook_of

COMPILED = "_torchdynamo_orig_callable"  # an attribute of what torch.compile makes of a function
ACCELERATE = "_hf_hook"  # an attribute of modules whose input accelerate moves to their device
LIBRARIES = ("transformer_lens.model_bridge.", "transformers.")  # whose hooks make or record a model's own outputs
OWN = ("transformer_lens.", "torch.nn.", "ivlens.")  # whose modules a HookedTransformer consists of


def active_edits(model: Model) -> list[dict[str, Any]]:
    """What the model's active contexts, such as ``steer`` and ``ablate``, do, for provenance.

    Of other hooks on the model only the modules are known.
    """
    watch = watch_on(model)
    entered = [] if watch is None else watch.entered
    known = [dict(hooks.facts) for hooks in entered if hooks.active and hooks.facts is not None]
    named = list(model.named_modules())
    others = [path for path, module in named if any(not isinstance(hook, AttachedEdit) for hook in _on(module))]
    others += _replaced(model, named)
    return [*known, {"hooks": others}] if others else known


def has_hooks(model: Model) -> bool:
    """Whether anything besides its own modules runs in the model's forward pass: edits, hooks, other modules.

    What a bridged model had on it when it was loaded is its own: the check at loading ran with it.
    """
    return any(True for _ in _added(model))


def runs_in_parts(model: Model) -> bool:
    """Whether a prompt may run in one pass and what follows it in another: only edits that allow it are active."""
    return all(isinstance(hook, AttachedEdit) and hook.hooks.in_parts for hook in _added(model))


def edits_at_last(model: Model, points: Collection[str]) -> bool:
    """Whether nothing is active but edits of last prompt tokens, at some of these hook points; or nothing at all."""
    return all(isinstance(hook, AttachedEdit) and hook.hooks.at_last and hook.name in points for hook in _added(model))


def _added(model: Model) -> Iterator[Any]:
    """What runs in the model's forward pass and is not its own."""
    remove_left_behind(model)
    found, named = getattr(model, "found_hooks", ()), list(model.named_modules())
    yield from (hook for _, module in named for hook in _on(module) if hook not in found)
    yield from _replaced(model, named)


def replaced_modules(model: Model) -> list[str]:
    """Names of modules that somebody put into a HookedTransformer in place of its own, or "" where it runs otherwise.

    Such are autoencoders at its hook points (``HookedSAETransformer``). A Bridge runs whatever modules it has.
    """
    return _replaced(model, model.named_modules())


def _replaced(model: Model, named: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """``replaced_modules``, of the model's named modules."""
    if not isinstance(model, HookedTransformer):
        return []
    inside = [name for name, module in named if name and not _is_own(name, module)]
    return inside if type(model).forward is HookedTransformer.forward else ["", *inside]


def _is_own(name: str, module: nn.Module) -> bool:
    """Whether a module of this name is TransformerLens', a container of torch or an update by LoRA."""
    if name.rpartition(".")[2].startswith("hook_"):
        return isinstance(module, HookPoint)
    return type_before_parametrizations(module).__module__.startswith(OWN)


def hooks_on(model: nn.Module) -> list[Any]:
    """All that runs before, after or instead of the modules of a model, but for ivlens' edits."""
    return [hook for module in model.modules() for hook in _on(module) if not isinstance(hook, AttachedEdit)]


def _on(module: nn.Module) -> list[Any]:
    """All that runs before, after or instead of a module's own forward function.

    What torch.compile, accelerate, transformers and TransformerBridge make of a module is its own.
    """
    forward = vars(module).get("forward")
    own = forward is None or isinstance(forward, Watch) or hasattr(forward, COMPILED) or hasattr(module, ACCELERATE)
    registered = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *([] if own else [forward])]
    return [hook_of(each) for each in registered if not _is_of_a_library(each)]


def _is_of_a_library(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith(LIBRARIES)
