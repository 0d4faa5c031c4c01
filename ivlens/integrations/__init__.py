"""Other people's tools: ivlens in them, they on its models, vectors in their formats; extras are imported when used."""

from .lm_eval import LmEvalResult as LmEvalResult
from .lm_eval import LmEvalSample as LmEvalSample
from .lm_eval import run_lm_eval as run_lm_eval
from .trainer_callback import ForgettingCallback as ForgettingCallback
from .vector_export import VectorExport as VectorExport
from .vector_export import export_vector as export_vector
from .vector_import import ImportedVector as ImportedVector
from .vector_import import import_vector as import_vector

__all__ = [
    "ForgettingCallback", "ImportedVector", "LmEvalResult", "LmEvalSample", "VectorExport", "export_vector",
    "import_vector", "run_lm_eval",
]  # fmt: skip
