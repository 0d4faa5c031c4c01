"""Instruction vectors: from heads and means; arithmetic, files, and the logit lens."""

from .instruction import InstructionVector as InstructionVector
from .instruction import instruction_vector as instruction_vector
from .instruction import outputs_of_heads as outputs_of_heads
from .instruction import vector_values as vector_values
from .library import list_vectors as list_vectors
from .library import load_vector as load_vector
from .reading import logit_lens as logit_lens
