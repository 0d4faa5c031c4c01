"""ivlens: find the heads that carry an instruction, sum them into its vector, and see what fine-tuning forgot."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._laboratory import LabConfig as LabConfig
    from ._laboratory import laboratory as laboratory
    from ._relearning import relearning_probe as relearning_probe
    from .activations import attention_patterns as attention_patterns
    from .activations import capture as capture
    from .activations import mean_head_activations as mean_head_activations
    from .activations import mean_position_activations as mean_position_activations
    from .checkpoints import CheckpointConfig as CheckpointConfig
    from .checkpoints import RepairConfig as RepairConfig
    from .checkpoints import RevertConfig as RevertConfig
    from .checkpoints import compare_checkpoints as compare_checkpoints
    from .checkpoints import export_repaired_adapter as export_repaired_adapter
    from .checkpoints import mergekit_config as mergekit_config
    from .checkpoints import patch_checkpoints as patch_checkpoints
    from .checkpoints import repair as repair
    from .checkpoints import repaired_model as repaired_model
    from .checkpoints import revert_weights as revert_weights
    from .demo import DemoConfig as DemoConfig
    from .effects import compare_methods as compare_methods
    from .effects import indirect_effects as indirect_effects
    from .effects import locate_heads as locate_heads
    from .effects import position_effects as position_effects
    from .errors import ArgumentError as ArgumentError
    from .errors import DivergedError as DivergedError
    from .errors import DownloadError as DownloadError
    from .errors import FallbackWarning as FallbackWarning
    from .errors import HookError as HookError
    from .errors import IvlensError as IvlensError
    from .errors import MismatchError as MismatchError
    from .errors import PrecisionWarning as PrecisionWarning
    from .errors import PromptError as PromptError
    from .errors import RecordError as RecordError
    from .errors import SourceError as SourceError
    from .errors import SourceWarning as SourceWarning
    from .errors import TaskError as TaskError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import WorkerError as WorkerError
    from .explorer import explore as explore
    from .heads import head_overlap as head_overlap
    from .heads import random_heads as random_heads
    from .heads import rank_aggregate as rank_aggregate
    from .heads import universal_effects as universal_effects
    from .integrations import ForgettingCallback as ForgettingCallback
    from .integrations import ImportedVector as ImportedVector
    from .integrations import VectorExport as VectorExport
    from .integrations import export_vector as export_vector
    from .integrations import import_vector as import_vector
    from .integrations import run_lm_eval as run_lm_eval
    from .models import Bridge as Bridge
    from .models import export_adapter as export_adapter
    from .models import export_hf as export_hf
    from .models import load_model as load_model
    from .models import merge_lora as merge_lora
    from .part_activations import mean_part_activations as mean_part_activations
    from .records import CheckpointComparison as CheckpointComparison
    from .records import CheckpointPatching as CheckpointPatching
    from .records import ConditionComparison as ConditionComparison
    from .records import ContinualRun as ContinualRun
    from .records import Evaluation as Evaluation
    from .records import HeadEffects as HeadEffects
    from .records import HeadMeans as HeadMeans
    from .records import Laboratory as Laboratory
    from .records import MethodAgreement as MethodAgreement
    from .records import PartEffects as PartEffects
    from .records import PartMeans as PartMeans
    from .records import PositionEffects as PositionEffects
    from .records import PositionMeans as PositionMeans
    from .records import PositionPartEffects as PositionPartEffects
    from .records import PositionPartMeans as PositionPartMeans
    from .records import RacedEffects as RacedEffects
    from .records import Relearning as Relearning
    from .records import Repair as Repair
    from .records import Stability as Stability
    from .records import SteeredAnswers as SteeredAnswers
    from .records import SteeringSweep as SteeringSweep
    from .records import TrainingRun as TrainingRun
    from .records import TransferMatrix as TransferMatrix
    from .records import UniversalEffects as UniversalEffects
    from .records import WeightReverts as WeightReverts
    from .records import compare_sequences as compare_sequences
    from .records import compare_variants as compare_variants
    from .records import prompts_needed as prompts_needed
    from .records import top_k_stability as top_k_stability
    from .scoring import evaluate as evaluate
    from .scoring import generate_answers as generate_answers
    from .steering import ablate as ablate
    from .steering import compare_conditions as compare_conditions
    from .steering import generate as generate
    from .steering import mean_difference as mean_difference
    from .steering import random_heads_vector as random_heads_vector
    from .steering import random_vector as random_vector
    from .steering import steer as steer
    from .steering import steering_sweep as steering_sweep
    from .tasks import Chat as Chat
    from .tasks import Example as Example
    from .tasks import GenerationScoring as GenerationScoring
    from .tasks import OptionScoring as OptionScoring
    from .tasks import Prompt as Prompt
    from .tasks import Task as Task
    from .tasks import list_tasks as list_tasks
    from .tasks import load_sequence as load_sequence
    from .tasks import load_task as load_task
    from .training import Ability as Ability
    from .training import ContinualConfig as ContinualConfig
    from .training import Guidance as Guidance
    from .training import LoRA as LoRA
    from .training import TrainingConfig as TrainingConfig
    from .training import ablations as ablations
    from .training import continual as continual
    from .training import fine_tune as fine_tune
    from .training import rehearsal_prompts as rehearsal_prompts
    from .vectors import InstructionVector as InstructionVector
    from .vectors import instruction_vector as instruction_vector
    from .vectors import list_vectors as list_vectors
    from .vectors import load_vector as load_vector
    from .vectors import logit_lens as logit_lens

__all__ = [  # noqa: RUF022  (by job)
    # models
    "load_model",
    "Bridge",
    "export_hf",
    "export_adapter",
    "merge_lora",
    # tasks, and how a model answers their prompts
    "Task",
    "Example",
    "Chat",
    "GenerationScoring",
    "OptionScoring",
    "Prompt",
    "load_task",
    "list_tasks",
    "evaluate",
    "generate_answers",
    "run_lm_eval",
    # finding the heads that carry an instruction
    "locate_heads",
    "indirect_effects",
    "position_effects",
    "compare_methods",
    "capture",
    "mean_head_activations",
    "mean_position_activations",
    "mean_part_activations",
    "attention_patterns",
    # sets of heads
    "universal_effects",
    "rank_aggregate",
    "top_k_stability",
    "prompts_needed",
    "head_overlap",
    "random_heads",
    # instruction vectors
    "InstructionVector",
    "instruction_vector",
    "load_vector",
    "list_vectors",
    "logit_lens",
    # vectors of other tools
    "export_vector",
    "VectorExport",
    "import_vector",
    "ImportedVector",
    # steering, and its controls
    "steer",
    "generate",
    "ablate",
    "steering_sweep",
    "compare_conditions",
    "random_vector",
    "random_heads_vector",
    "mean_difference",
    # the controls that a reviewer asks for
    "laboratory",
    "LabConfig",
    "Laboratory",
    "DemoConfig",
    # comparing checkpoints
    "CheckpointConfig",
    "compare_checkpoints",
    "patch_checkpoints",
    # where it was lost: weights put back
    "revert_weights",
    "RevertConfig",
    # repairing them
    "repair",
    "repaired_model",
    "export_repaired_adapter",
    "mergekit_config",
    "RepairConfig",
    "relearning_probe",
    # training
    "fine_tune",
    "TrainingConfig",
    "Guidance",
    "LoRA",
    "Ability",
    "rehearsal_prompts",
    "ForgettingCallback",
    # learning tasks one after the other
    "continual",
    "ContinualConfig",
    "ablations",
    "compare_sequences",
    "compare_variants",
    "load_sequence",
    # looking at it in a notebook
    "explore",
    # records
    "HeadMeans",
    "HeadEffects",
    "RacedEffects",
    "UniversalEffects",
    "Stability",
    "PositionMeans",
    "Repair",
    "PositionEffects",
    "PartMeans",
    "PartEffects",
    "PositionPartMeans",
    "PositionPartEffects",
    "MethodAgreement",
    "Evaluation",
    "SteeredAnswers",
    "SteeringSweep",
    "ConditionComparison",
    "TransferMatrix",
    "CheckpointComparison",
    "CheckpointPatching",
    "Relearning",
    "TrainingRun",
    "ContinualRun",
    "WeightReverts",
    # errors and warnings
    "IvlensError",
    "ArgumentError",
    "DownloadError",
    "HookError",
    "MismatchError",
    "PromptError",
    "RecordError",
    "SourceError",
    "TaskError",
    "UnsupportedError",
    "WorkerError",
    "DivergedError",
    "FallbackWarning",
    "PrecisionWarning",
    "SourceWarning",
]

# where each public name is defined
_ROOMS = {
    "_laboratory": "LabConfig laboratory",
    "_relearning": "relearning_probe",
    "activations": "attention_patterns capture mean_head_activations mean_position_activations",
    "checkpoints": (
        "CheckpointConfig RepairConfig RevertConfig compare_checkpoints export_repaired_adapter mergekit_config "
        "patch_checkpoints repair repaired_model revert_weights"
    ),
    "demo": "DemoConfig",
    "effects": "compare_methods indirect_effects locate_heads position_effects",
    "errors": (
        "ArgumentError DivergedError DownloadError FallbackWarning HookError IvlensError MismatchError "
        "PrecisionWarning PromptError RecordError SourceError SourceWarning TaskError UnsupportedError WorkerError"
    ),
    "explorer": "explore",
    "heads": "head_overlap random_heads rank_aggregate universal_effects",
    "integrations": "ForgettingCallback ImportedVector VectorExport export_vector import_vector run_lm_eval",
    "models": "Bridge export_adapter export_hf load_model merge_lora",
    "part_activations": "mean_part_activations",
    "records": (
        "CheckpointComparison CheckpointPatching ConditionComparison ContinualRun Evaluation HeadEffects HeadMeans "
        "Laboratory MethodAgreement PartEffects PartMeans PositionEffects PositionMeans PositionPartEffects "
        "PositionPartMeans RacedEffects Relearning Repair Stability SteeredAnswers SteeringSweep TrainingRun "
        "TransferMatrix UniversalEffects WeightReverts compare_sequences compare_variants prompts_needed "
        "top_k_stability"
    ),
    "scoring": "evaluate generate_answers",
    "steering": (
        "ablate compare_conditions generate mean_difference random_heads_vector random_vector steer steering_sweep"
    ),
    "tasks": "Chat Example GenerationScoring OptionScoring Prompt Task list_tasks load_sequence load_task",
    "training": "Ability ContinualConfig Guidance LoRA TrainingConfig ablations continual fine_tune rehearsal_prompts",
    "vectors": "InstructionVector instruction_vector list_vectors load_vector logit_lens",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name, or a room of the package, at its first use: ``import ivlens`` itself loads nothing."""
    if name == "__version__":
        return version(__name__)
    if name in _ROOM_OF:
        found = globals()[name] = getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
        return found
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    from .text import did_you_mean

    question = did_you_mean(name, __all__)
    message = f"module {__name__!r} has no attribute {name!r}{question and f'; {question}'}"
    raise AttributeError(message, name=name)


def __dir__() -> list[str]:
    return sorted([*__all__, "views", "__version__"])
