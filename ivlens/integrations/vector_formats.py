"""The formats of other tools that a vector leaves in and comes from: one row each.

To add one, write its file beside this one and give it a row in ``FORMATS``, in ``READERS``, or in both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import RecordError
from ..files import check_there
from .torch_archive import CONVERT
from .vector_archives import check_lm_eval, read_archive, write_lm_eval
from .vector_baked import check_baked, write_folder
from .vector_files import Direction, Steered
from .vector_gguf import check_easysteer, check_llama_cpp, read_gguf, write_easysteer, write_llama_cpp
from .vector_json import check_neuronpedia, read_json, write_neuronpedia

VectorFormatName = Literal["gguf", "easysteer", "lm-eval", "neuronpedia", "hf"]


@dataclass(frozen=True)
class VectorFormat:
    """A format to write: which ``tools`` read it, what they do, and how it is checked and written.

    ``everywhere``: they add the vector at all positions; else whoever reads the file says at which. ``exact``: values
    keep their dtype, else they are rounded to float32. ``folder``: what is written is one, not a file.
    """

    tools: str
    check: Callable[[Steered], None]
    write: Callable[[Steered, Path], None]
    everywhere: bool = True
    exact: bool = True
    folder: bool = False


FORMATS: dict[VectorFormatName, VectorFormat] = {
    "gguf": VectorFormat("llama.cpp and repeng", check_llama_cpp, write_llama_cpp, exact=False),
    "easysteer": VectorFormat("EasySteer", check_easysteer, write_easysteer, everywhere=False, exact=False),
    "lm-eval": VectorFormat("lm-eval's model 'steered'", check_lm_eval, write_lm_eval),
    "neuronpedia": VectorFormat("Neuronpedia", check_neuronpedia, write_neuronpedia),
    "hf": VectorFormat("any tool that loads the folder", check_baked, write_folder, folder=True),
}
# how a file begins -> how it is read
READERS: dict[bytes, Callable[[Path], list[Direction]]] = {
    b"GGUF": read_gguf,
    b"PK\x03\x04": read_archive,
    b"{": read_json,
}
PICKLE = b"\x80"


def read_directions(path: Path) -> list[Direction]:
    """The directions in a file of a known format, by layer.

    Raises:
        RecordError: no such file, a damaged one, or one of another format.
        UnsupportedError: what it holds is not added to the residual stream.
    """
    if path.is_dir():
        raise RecordError(f"a file at {path}", "a folder", "load_model loads a model with a vector in its weights")
    check_there(path)
    with path.open("rb") as file:
        start = file.read(16)
    for magic, read in READERS.items():
        if start.lstrip().startswith(magic):
            return read(path)
    if start[8:9] == b"{":
        raise RecordError(f"a vector of another tool at {path}", "a safetensors file", "load_vector loads ivlens' own")
    if start.startswith(PICKLE):
        raise RecordError(f"a vector at {path}", "a pickle, which can run code and is never opened", CONVERT)
    raise RecordError(
        f"a GGUF control vector, a file of torch.save, or Neuronpedia's JSON at {path}",
        f"a file that begins with {start[:8]!r}",
    )
