"""ivlens."""
from .models import load_model as load_model
__version__ = "0.1.0"
