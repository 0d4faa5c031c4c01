"""A model on several workers: weights are saved once, memory-mapped by each process, and kept between pieces."""

import copy
import hashlib
import math
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import HookError, UnsupportedError, WorkerError, reason
from ..files import in_use, remove_abandoned
from ..parallel import ending_on_sigterm, left_behind, map_pieces, workers
from ..progress import ProgressBar
from ..vocabulary import TokenizedPrompt
from .attached import has_hooks
from .engines import HookedTransformer, Model
from .facts import model_facts
from .loading import check_logits, check_tokens, logits_on_cpu, without_weights
from .lora import weight_names
from .runs import batches

P = TypeVar("P")
ALIGNMENT = 64  # bytes, as torch allocates
_shared: ContextVar["Shared | None"] = ContextVar("shared", default=None)
_kept: dict[str, Model] = {}  # in a worker: the one model that it holds


@dataclass(frozen=True)
class Span:
    """A weight's location in the array of all weights: its first byte, its axes in memory order, and its shape."""

    start: int
    dtype: torch.dtype
    order: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Blueprint:
    """What a worker needs to rebuild a model around its weights.

    ``key`` identifies the model, ``empty`` is the model without its weights (a Bridge, or a HookedTransformer's config
    and tokenizer), ``device`` is where it computes here, ``spans`` locate the weights, and ``logits`` on a short text
    verify it.
    """

    key: str
    empty: Any
    device: str
    spans: Mapping[str, Span]
    logits: Float[Tensor, "batch pos vocab"]


@dataclass(frozen=True)
class Shared:
    """A blueprint, and the model's weights in a file mapped into memory."""

    blueprint: Blueprint
    weights: np.memmap


def map_with_model(
    model: Model,
    work: Callable[..., Any],
    pieces: Sequence[P],
    n_jobs: int | None,
    names: Sequence[str],
    *,
    finished: Callable[[P, Any], object] = lambda piece, result: None,
) -> list[Any]:
    """Results of ``work(model, piece)`` in the order of the pieces; with one worker or one piece, in this process.

    See ``map_pieces``, and ``shared_weights`` for how a worker gets the model. Results are bit-identical where workers
    have this process's kind of device and number of threads; otherwise they differ by rounding.

    Raises:
        HookError, UnsupportedError: hooks are active, or the rebuilt model differs.
        WorkerError, IvlensError: see ``map_pieces``.
    """
    if workers(n_jobs) == 1 or len(pieces) < 2:
        results = []
        for piece in pieces:
            results.append(work(model, piece))
            finished(piece, results[-1])
        return results
    with shared_weights(model, n_jobs):
        shared = _shared.get()
        assert shared is not None
        return map_pieces(_with_model, pieces, n_jobs, names, work, shared.blueprint, shared.weights, finished=finished)


def map_batches(
    model: Model,
    work: Callable[..., Any],
    pairs: Sequence[TokenizedPrompt],
    batch_size: int,
    n_jobs: int | None,
    *,
    alike: bool = False,
    kind: str,
    doing: str,
) -> list[tuple[list[int], Any]]:
    """Results of ``work(model, (numbers, batch))`` for batches of prompts, see ``batches``, with the prompts' numbers.

    ``kind`` names the prompts in errors, ``doing`` is the progress bar's text. See ``map_with_model``.
    """
    pieces = [*batches(pairs, batch_size, alike=alike)]
    names = [f"{kind} prompts {', '.join(str(number + 1) for number in numbers)}" for numbers, _ in pieces]
    with ProgressBar(total=len(pairs), desc=doing, unit="prompt", leave=False) as bar:
        found = map_with_model(model, work, pieces, n_jobs, names, finished=lambda piece, _: bar.update(len(piece[0])))
    return [(numbers, of_batch) for (numbers, _), of_batch in zip(pieces, found, strict=True)]


@contextmanager
def shared_weights(model: Model, n_jobs: int | None) -> Iterator[None]:
    """Within this context the model's weights are in a temporary file for the workers.

    With one worker there is no file. LoRA's updates are added to the weights.

    Raises:
        HookError: hooks are active, which workers would not run.
        UnsupportedError: a Bridge whose weights are quantised or on several devices, or whose modules cannot be copied.
        WorkerError: the folder of temporary files has no room.
    """
    if workers(n_jobs) == 1:
        yield
        return
    if has_hooks(model):
        raise HookError("no active hooks: workers would not run them", "some", "leave their context first, or n_jobs=1")
    logits = logits_on_cpu(model, check_tokens(model))
    facts = (model_facts(model)["weights_sha256"], model.cfg.to_dict(), logits.numpy().tobytes())
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    open_now = _shared.get()
    if open_now is not None and open_now.blueprint.key == key:
        yield
        return
    empty = _emptied(model)
    with _temporary_folder() as folder:
        path = folder / "weights"
        spans = _saved(model, path)
        weights = np.memmap(path, np.uint8, "c")  # copy on write, so that workers cannot change the file
        token = _shared.set(Shared(Blueprint(key, empty, str(model.cfg.device), spans, logits), weights))
        try:
            yield
        finally:
            _shared.reset(token)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is removed afterwards, also on SIGTERM; folders of killed processes are removed first."""
    left = [path for path in Path(tempfile.gettempdir()).glob("ivlens-weights-*") if _is_copy(path)]
    remove_abandoned(left)
    with (
        ending_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="ivlens-weights-", ignore_cleanup_errors=True) as folder,
        in_use(Path(folder)),
    ):
        yield Path(folder)


def _is_copy(folder: Path) -> bool:
    try:
        return [path.name for path in folder.iterdir()] == ["weights"]
    except OSError:  # another user's
        return False


def worker_device(device: str | torch.device | None) -> str | torch.device | None:
    """The worker's device: of several GPUs the one by its number, unless one was named; otherwise the given device."""
    identity = multiprocessing.current_process()._identity
    wanted = "cuda" if device is None else str(device)
    count = torch.cuda.device_count()
    return f"cuda:{(identity[-1] - 1) % count}" if wanted == "cuda" and identity and count > 1 else device


def _with_model(piece: Any, work: Callable[..., Any], blueprint: Blueprint, weights: np.ndarray) -> Any:
    """In the worker: run the piece's work on the model, which is rebuilt unless it was kept from an earlier piece."""
    if isinstance(weights, np.memmap):
        left_behind.add(Path(str(weights.filename)).parent)
    if blueprint.key not in _kept:
        _kept.clear()
        _kept[blueprint.key] = _rebuilt(blueprint, weights)
    return work(_kept[blueprint.key], piece)


def _saved(model: Model, path: Path) -> dict[str, Span]:
    spans = {}
    try:
        with path.open("wb") as file:
            for name in weight_names(model, once=False):
                spans[name] = _append(file, attrgetter(name)(model).detach())
    except OSError as error:
        raise WorkerError(
            f"room for the model's weights in {path.parent.parent}",
            reason(error),
            "set TMPDIR to a folder with room",
        ) from error
    return spans


def _append(file: BinaryIO, weight: Tensor) -> Span:
    """Write a weight's bytes in memory order."""
    strides = torch.empty_like(weight, device="meta").stride()
    order = tuple(sorted(range(weight.ndim), key=lambda axis: -strides[axis]))
    stored = weight.permute(order).contiguous()
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    start = file.tell()
    file.write(stored.flatten().view(torch.uint8).cpu().numpy().data)
    return Span(start, weight.dtype, order, tuple(stored.shape))


def _read(weights: np.ndarray, span: Span) -> Tensor:
    """A weight as a view of the array, with its original axes; aligned, so that sums have the same order."""
    stop = span.start + math.prod(span.sizes) * span.dtype.itemsize
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
        raw = torch.from_numpy(weights[span.start : stop])
    stored = (raw.clone() if raw.data_ptr() % ALIGNMENT else raw).view(span.dtype).view(span.sizes)
    return stored.permute(sorted(range(stored.ndim), key=span.order.__getitem__))


def _emptied(model: Model) -> Any:
    """The model without its weights, for another process: its config and tokenizer, or a Bridge's own modules.

    Raises:
        UnsupportedError: a Bridge whose weights are more than tensors on one device, or whose modules cannot be copied.
    """
    if isinstance(model, HookedTransformer):
        return model.cfg, model.tokenizer
    theirs, one = model.hugging_face, "leave n_jobs out: a Bridge's rows run together anyway"
    if getattr(theirs, "is_quantized", False) or len({weight.device for weight in theirs.parameters()}) > 1:
        raise UnsupportedError("plain weights on one device for workers", "quantised ones, or several devices", one)
    weights = {id(weight): nn.Parameter(weight.to("meta"), requires_grad=False) for weight in theirs.parameters()}
    try:
        return copy.deepcopy(model, weights)
    except Exception as error:  # from any library that put something on the modules
        raise UnsupportedError("modules that another process can have", reason(error), one) from error


def _rebuilt(blueprint: Blueprint, weights: np.ndarray) -> Model:
    values = {name: _read(weights, span) for name, span in blueprint.spans.items()}
    device = str(worker_device(blueprint.device))
    if isinstance(blueprint.empty, nn.Module):
        model: Any = copy.deepcopy(blueprint.empty)
        model.load_state_dict(values, strict=False, assign=True)
        model.to(device)
    else:
        cfg, tokenizer = blueprint.empty
        model = _hooked(cfg, tokenizer, device, values)
    strange = set(weight_names(model, once=False)) ^ set(blueprint.spans)
    if strange:
        raise UnsupportedError("a model that its config describes", f"other weights: {', '.join(sorted(strange))}")
    check_logits(model, blueprint.logits, "the model that the workers were given")
    return model


def _hooked(cfg: Any, tokenizer: Any, device: str, values: Mapping[str, Tensor]) -> HookedTransformer:
    cfg = copy.deepcopy(cfg)
    cfg.device = device
    cfg.init_weights = False
    model = without_weights(cfg)
    model.load_state_dict(values, strict=False, assign=True)
    model.tokenizer = tokenizer
    return model.to(device, print_details=False).eval()
