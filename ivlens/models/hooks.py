"""Edits of activations that end with their ``with`` block, whatever interrupts it."""

import inspect
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from types import FrameType, MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from transformer_lens.hook_points import HookPoint, LensHandle
from transformers import GenerationMixin

from ..errors import HookError
from .engines import HookedTransformer, Model
from .passes import Call, last_prompt_tokens
from .points import Point, check_present, hook_of

Edit = Callable[[Tensor], Tensor | None]
STANDS_IN = ("forward", "generate", "generate_stream")
COMPILED = "_torchdynamo_orig_callable"  # an attribute of what torch.compile makes of a function
ACCELERATE = "_hf_hook"  # an attribute of modules whose input accelerate moves to their device
LIBRARIES = ("transformer_lens.model_bridge.", "transformers.")  # whose hooks make or record a model's own outputs
OWN = ("transformer_lens.", "torch.nn.", "ivlens.")  # whose modules a HookedTransformer consists of
GENERATORS = {
    inspect.unwrap(getattr(kind, name)).__code__
    for kind in (HookedTransformer, GenerationMixin) for name in STANDS_IN[1:] if hasattr(kind, name)
}  # fmt: skip

# The thread that a pass belongs to, for parts that autograd recomputes in its own threads.
thread_of_pass: ContextVar[int | None] = ContextVar("thread_of_pass", default=None)
_suspended: ContextVar[tuple["Hooks", ...]] = ContextVar("suspended", default=())


class _HeldByTheBlock:
    """``__exit__`` of ``Hooks``, as the ``with`` statement looks it up before its block begins.

    Only the ``with`` statement holds a reference to it, which it drops when the block ends, even if an interrupt
    arrives before the first line of ``leave``. So hooks are active as long as this object lives.
    """

    def __get__(self, hooks: "Hooks | None", kind: "type[Hooks]") -> Callable[..., None]:
        if hooks is None:
            return kind.leave
        taken = MethodType(kind.leave, hooks)
        if not hooks.active:
            hooks.taken = weakref.ref(taken)
        return taken


class Hooks(ContextDecorator):
    """Within this context ``edits`` run at the named hook points, in passes of the thread that entered it.

    It can be entered again after it was left. Contexts add up and may end in any order. ``in_parts`` says that the
    edits do the same when a prompt runs in one pass and what follows it in another, out of the key-value cache;
    ``at_last``, that they change prompts at their last token alone, and so do that, too.

    Raises:
        UnsupportedError: a layer of a Bridge has no such point.
        HookError: an edit at an unknown hook point; on entering, when another thread's edits or its own are active; on
            leaving without an exception, when no forward pass reached an edit, or it was removed inside.
    """

    def __init__(
        self,
        model: Model,
        edits: Mapping[str, Edit],
        facts: Mapping[str, Any] | None = None,
        *,
        in_parts: bool = False,
        at_last: bool = False,
    ) -> None:
        unknown = [name for name in edits if name not in model.hook_dict]
        check_present(unknown, model)
        if unknown:
            raise HookError("names of hook points of the model", ", ".join(unknown), "model.hook_dict lists them")
        self.model, self.edits, self.facts = model, dict(edits), facts
        self.in_parts, self.at_last = in_parts or at_last, at_last
        self.owner: int | None = None
        self.taken: weakref.ref[MethodType] | None = None
        self.ran: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether the context was entered and its block has not ended."""
        return self.owner is not None and (self.taken is None or self.taken() is not None)

    def __enter__(self) -> Model:
        if self.active:
            raise HookError("a context that is not active", "one entered inside itself", "make a second one")
        self.owner = None
        if self.taken is not None and self.taken() is None:  # entered by a direct call of ``__enter__``
            self.taken = None
        watch = _watched(self.model)
        watch.check_thread()
        self.ran = set()
        for name, edit in self.edits.items():
            _attach(self.model.hook_dict[name], _Hook(self, name, edit))
        watch.entered.append(self)
        self.owner = get_ident()
        return self.model

    def leave(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        """End the context."""
        self.owner = None
        removed = [name for name in self.edits if not any(hook.hooks is self for hook in _ours(self.model, name))]
        remove_left_behind(self.model)
        if kind is not None:
            return
        if removed:
            raise HookError(
                f"edits of {', '.join(removed)} until their block ends", "one that removes them",
                "call model.reset_hooks() without including_permanent, or outside",
            )  # fmt: skip
        never = [name for name in self.edits if name not in self.ran]
        if never:
            raise HookError(
                f"a forward pass through {', '.join(never)}", "none inside the with block", "run the model inside it"
            )

    __exit__ = _HeldByTheBlock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hooks":
        if self.active:
            raise HookError("a model without active edits to copy", "one with some", "leave their context first")
        return Hooks(self.model, {})


def hooked(model: Model, edits: Mapping[str, Edit]) -> Hooks:
    """Run with ``edits`` at the named hook points; always removed, and an error if one of them never ran.

    Raises:
        HookError: see ``Hooks``.
    """
    return Hooks(model, edits)


def active_edits(model: Model) -> list[dict[str, Any]]:
    """What the model's active contexts, such as ``steer`` and ``ablate``, do, for provenance.

    Of other hooks on the model only the modules are known.
    """
    watch = _watch_on(model)
    entered = watch.entered if isinstance(watch, _Watch) else []
    known = [dict(hooks.facts) for hooks in entered if hooks.active and hooks.facts is not None]
    named = list(model.named_modules())
    others = [path for path, module in named if any(not isinstance(hook, _Hook) for hook in _on(module))]
    others += _replaced(model, named)
    return [*known, {"hooks": others}] if others else known


def has_hooks(model: Model) -> bool:
    """Whether anything besides its own modules runs in the model's forward pass: edits, hooks, other modules.

    What a bridged model had on it when it was loaded is its own: the check at loading ran with it.
    """
    return any(True for _ in _added(model))


def runs_in_parts(model: Model) -> bool:
    """Whether a prompt may run in one pass and what follows it in another: only edits that allow it are active."""
    return all(isinstance(hook, _Hook) and hook.hooks.in_parts for hook in _added(model))


def edits_at_last(model: Model, points: Collection[str]) -> bool:
    """Whether nothing is active but edits of last prompt tokens, at some of these hook points; or nothing at all."""
    return all(isinstance(hook, _Hook) and hook.hooks.at_last and hook.name in points for hook in _added(model))


def edit_at_last(model: Model, point: str, activation: Float[Tensor, "row ..."], last: Int[Tensor, " prompt"]) -> None:
    """Run the active edits at a hook point on the rows of last prompt tokens of its activation, in place."""
    for hook in _ours(model, point):
        with last_prompt_tokens(torch.zeros(len(last), dtype=torch.long)):
            changed = hook(None, None, activation[last][:, None])
        if changed is not None:
            activation[last] = changed[:, 0]


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
    return [hook for module in model.modules() for hook in _on(module) if not isinstance(hook, _Hook)]


@contextmanager
def without_edits(model: Model) -> Iterator[None]:
    """Within this context the edits that are active on the model do not run in this thread's passes."""
    watch = _watch_on(model)
    token = _suspended.set(() if watch is None else tuple(watch.entered))
    try:
        yield
    finally:
        _suspended.reset(token)


def remove_left_behind(model: Model) -> None:
    """Remove hooks whose context is no longer active."""
    for point in model.hook_dict.values():
        attached = point.hooks if isinstance(point, Point) else point._forward_hooks.values()
        dead = [hook for hook in attached if isinstance(hook, _Hook) and not hook.hooks.active]
        if dead:
            _detach(point, dead)
    watch = _watch_on(model)
    if watch is not None:
        watch.entered = [hooks for hooks in watch.entered if hooks.active]
        if not watch.entered:
            watch.remove()


@dataclass(frozen=True, eq=False)
class _Hook:
    """One edit at its hook point, as torch calls it."""

    hooks: Hooks
    name: str
    edit: Edit

    def __call__(self, point: nn.Module | None, inputs: Any, activation: Tensor) -> Tensor | None:
        if not self.hooks.active:  # left behind by an interrupt; the next context or check removes it
            return None
        if self.hooks in _suspended.get():
            return None
        _check_thread(self.hooks)
        self.hooks.ran.add(self.name)
        return self.edit(activation)


class _Watch:
    """Replaces ``model.forward`` while contexts are active, so that their edits know each pass's rows.

    Generation calls it too and must use the key-value cache: without one, every step would look like a prompt.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.entered = _computing(model), list[Hooks]()
        self.forward = self.model.forward
        self.__signature__ = inspect.signature(self.forward)  # transformers asks it which arguments the model takes
        self.names = STANDS_IN if isinstance(model, HookedTransformer) else STANDS_IN[:1]
        self.before = {name: vars(self.model)[name] for name in self.names if name in vars(self.model)}

    def install(self) -> None:
        """Replace the functions, ``forward`` first, so that ``remove_left_behind`` finds what an interrupt leaves."""
        for name in self.names:
            stand_in = self if name == "forward" else partial(_cached, getattr(self.model, name))
            vars(self.model)[name] = stand_in
        _watches.add(self)
        _run_compiled_models_as_written()

    def remove(self) -> None:
        """Restore the functions, ``forward`` last."""
        _watches.discard(self)
        _run_compiled_models_as_written()
        for name in reversed(self.names):
            if name in self.before:
                vars(self.model)[name] = self.before[name]
            else:
                vars(self.model).pop(name, None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.check_thread()
        if not any(hooks.active for hooks in self.entered):
            return self.forward(*args, **options)
        call = Call.of(self.model, args, options)
        if call.cache is None and _generating():
            raise HookError(
                "generation through the key-value cache, so that each step is known to continue a prompt",
                "a generate function taken from the model before the edits, or one without the cache",
                "call model.generate(...) inside the with block",
            )
        with call.running():
            return self.forward(*args, **options)

    def check_thread(self) -> None:
        for hooks in self.entered:
            if hooks.active:
                _check_thread(hooks)


_watches: "weakref.WeakSet[_Watch]" = weakref.WeakSet()
_stance: Any = None


def _run_compiled_models_as_written() -> None:
    """While any model is watched, run models uncompiled, since code from ``torch.compile`` skips hooks."""
    global _stance
    if _watches and _stance is None:
        _stance = torch.compiler.set_stance("force_eager")
    elif not _watches and _stance is not None:
        _stance.__exit__(None, None, None)
        _stance = None


def _generating() -> bool:
    """Whether the caller is one of TransformerLens' generating functions."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in GENERATORS:
        frame = frame.f_back
    return frame is not None


def _watched(model: Model) -> _Watch:
    """The replacement of the model's forward function, after removing what earlier contexts left behind."""
    remove_left_behind(model)
    watch = _watch_on(model)
    if watch is None:
        watch = _Watch(model)
        watch.install()
    return watch


def _computing(model: Model) -> Any:
    """The module whose forward function every pass of the model goes through."""
    return getattr(model, "hugging_face", model)


def _watch_on(model: Model) -> _Watch | None:
    watch = vars(_computing(model)).get("forward")
    return watch if isinstance(watch, _Watch) else None


def _cached(generate: Callable[..., Any], *args: Any, **options: Any) -> Any:
    given = inspect.signature(generate).bind(*args, **options)
    given.arguments["use_past_kv_cache"] = True
    return generate(*given.args, **given.kwargs)


def _attach(point: Any, hook: _Hook) -> None:
    if isinstance(point, Point):
        point.attach(hook)
    else:
        handle = LensHandle(point.register_forward_hook(hook), is_permanent=True, user_hook=hook)
        point.fwd_hooks.append(handle)


def _detach(point: Any, dead: list[_Hook]) -> None:
    if isinstance(point, Point):
        for hook in dead:
            point.detach(hook)
        return
    point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.user_hook not in dead]
    for key in [key for key, hook in point._forward_hooks.items() if hook in dead]:
        point._forward_hooks.pop(key, None)


def _ours(model: Model, name: str) -> list[_Hook]:
    point: Any = model.hook_dict[name]
    hooks = point.hooks if isinstance(point, Point) else point._forward_hooks.values()
    return [hook for hook in hooks if isinstance(hook, _Hook)]


def _on(module: nn.Module) -> list[Any]:
    """All that runs before, after or instead of a module's own forward function.

    What torch.compile, accelerate, transformers and TransformerBridge make of a module is its own.
    """
    forward = vars(module).get("forward")
    own = forward is None or isinstance(forward, _Watch) or hasattr(forward, COMPILED) or hasattr(module, ACCELERATE)
    registered = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *([] if own else [forward])]
    return [hook_of(each) for each in registered if not _is_of_a_library(each)]


def _is_of_a_library(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).startswith(LIBRARIES)


def _check_thread(hooks: Hooks) -> None:
    if hooks.owner not in (thread_of_pass.get(), get_ident()):
        raise HookError(
            "one thread at a time on a model with active edits", "a second thread", "load one model per thread"
        )
