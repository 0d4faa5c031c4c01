"""Edits of activations that end with their ``with`` block, whatever interrupts it."""

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
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
from transformer_lens.hook_points import LensHandle
from transformers import GenerationMixin

from ..errors import HookError
from .engines import HookedTransformer, Model
from .passes import Call, last_prompt_tokens
from .points import Point, check_present

Edit = Callable[[Tensor], Tensor | None]
STANDS_IN = ("forward", "generate", "generate_stream")
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
            _attach(self.model.hook_dict[name], AttachedEdit(self, name, edit))
        watch.entered.append(self)
        self.owner = get_ident()
        return self.model

    def leave(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        """End the context."""
        self.owner = None
        removed = [name for name in self.edits if not any(hook.hooks is self for hook in edits_at(self.model, name))]
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


def edit_at_last(model: Model, point: str, activation: Float[Tensor, "row ..."], last: Int[Tensor, " prompt"]) -> None:
    """Run the active edits at a hook point on the rows of last prompt tokens of its activation, in place."""
    for hook in edits_at(model, point):
        with last_prompt_tokens(torch.zeros(len(last), dtype=torch.long)):
            changed = hook(None, None, activation[last][:, None])
        if changed is not None:
            activation[last] = changed[:, 0]


@contextmanager
def without_edits(model: Model) -> Iterator[None]:
    """Within this context the edits that are active on the model do not run in this thread's passes."""
    watch = watch_on(model)
    token = _suspended.set(() if watch is None else tuple(watch.entered))
    try:
        yield
    finally:
        _suspended.reset(token)


def remove_left_behind(model: Model) -> None:
    """Remove hooks whose context is no longer active."""
    for point in model.hook_dict.values():
        attached = point.hooks if isinstance(point, Point) else point._forward_hooks.values()
        dead = [hook for hook in attached if isinstance(hook, AttachedEdit) and not hook.hooks.active]
        if dead:
            _detach(point, dead)
    watch = watch_on(model)
    if watch is not None:
        watch.entered = [hooks for hooks in watch.entered if hooks.active]
        if not watch.entered:
            watch.remove()


@dataclass(frozen=True, eq=False)
class AttachedEdit:
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


class Watch:
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


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()
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


def _watched(model: Model) -> Watch:
    """The replacement of the model's forward function, after removing what earlier contexts left behind."""
    remove_left_behind(model)
    watch = watch_on(model)
    if watch is None:
        watch = Watch(model)
        watch.install()
    return watch


def _computing(model: Model) -> Any:
    """The module whose forward function every pass of the model goes through."""
    return getattr(model, "hugging_face", model)


def watch_on(model: Model) -> Watch | None:
    """The replacement of the model's forward function, where contexts are active."""
    watch = vars(_computing(model)).get("forward")
    return watch if isinstance(watch, Watch) else None


def _cached(generate: Callable[..., Any], *args: Any, **options: Any) -> Any:
    given = inspect.signature(generate).bind(*args, **options)
    given.arguments["use_past_kv_cache"] = True
    return generate(*given.args, **given.kwargs)


def _attach(point: Any, hook: AttachedEdit) -> None:
    if isinstance(point, Point):
        point.attach(hook)
    else:
        handle = LensHandle(point.register_forward_hook(hook), is_permanent=True, user_hook=hook)
        point.fwd_hooks.append(handle)


def _detach(point: Any, dead: list[AttachedEdit]) -> None:
    if isinstance(point, Point):
        for hook in dead:
            point.detach(hook)
        return
    point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.user_hook not in dead]
    for key in [key for key, hook in point._forward_hooks.items() if hook in dead]:
        point._forward_hooks.pop(key, None)


def edits_at(model: Model, name: str) -> list[AttachedEdit]:
    """The edits that are attached to a hook point."""
    point: Any = model.hook_dict[name]
    hooks = point.hooks if isinstance(point, Point) else point._forward_hooks.values()
    return [hook for hook in hooks if isinstance(hook, AttachedEdit)]


def _check_thread(hooks: Hooks) -> None:
    if hooks.owner not in (thread_of_pass.get(), get_ident()):
        raise HookError(
            "one thread at a time on a model with active edits", "a second thread", "load one model per thread"
        )
