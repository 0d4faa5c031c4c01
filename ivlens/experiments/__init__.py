"""The studies behind the demo and the figures: configuration -> saved records, resumable."""

from .demo import Demo as Demo
from .demo import DemoConfig as DemoConfig
from .demo import run_demo as run_demo
