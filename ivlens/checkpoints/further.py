"""Measures of further evidence: replies, the new task's vector subtracted, outputs and weights beside the base's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models import Model, mlp_weights, provenance
from ..records import ConditionComparison, OutputDivergence, Replies, SteeringSweep, WeightSpectrum
from ..scoring import evaluate
from ..scoring.candidates import is_choice
from ..steering import Setting, compare_conditions, random_vector, steer, steering_sweep
from ..tasks import Prompt
from ..tensor_files import load_tensors
from ..vectors import InstructionVector
from ..vocabulary import Condition
from .divergence import TEXT, kl_divergence, log_probabilities, text_log_probabilities
from .kept_tensors import keep_tensors
from .measure import AgainstNewTask, KeptMeasures, SteeringPoint, hash_of_vector, identity_of, key_hash
from .prompts import TaskPrompts
from .replies import LONGEST, greedy_replies, texts_to_show
from .sources import CheckpointUnderTest
from .spectrum import SHARE, weight_spectrum


@dataclass(frozen=True)
class FurtherMeasures(KeptMeasures):
    """The measures of a comparison, with those that further evidence is made of."""

    def replies(self, checkpoint: CheckpointUnderTest, task: str, prompts: list[Prompt], name: str) -> Replies:
        """What the checkpoint replies to prompts, greedily."""
        compute = partial(greedy_replies, prompts=prompts)
        return self._kept(name, Replies, checkpoint, task, compute, prompts, longest=LONGEST)

    def steered_replies(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts, vector: InstructionVector, steered: SteeringPoint
    ) -> Replies:
        """What the checkpoint answers bare test prompts with the vector added: the option it takes, or its reply."""
        bare = prompts.bare_test
        compute = partial(_steered_replies, prompts=bare, vector=vector, steered=steered)
        return self._kept(
            "replies-steered", Replies, checkpoint, prompts.task, compute, bare, longest=LONGEST,
            layer=steered.layer, scale=steered.scale, vector=hash_of_vector(vector),
        )  # fmt: skip

    def against_new(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts, vector: InstructionVector, new: str
    ) -> AgainstNewTask:
        """The measures of an old task that need the ``new`` one; ``vector`` is the checkpoint's of the new task.

        What the new task would answer are its examples' answers, or where these lack the input, the checkpoint's own
        reply under the new task's instruction.
        """
        under = prompts.under[new]
        unknown = [prompt for prompt, known in zip(under.prompts, under.known, strict=True) if not known]
        asked = self.replies(checkpoint, prompts.task, unknown, "replies-as-new").texts if unknown else ()
        replied = iter(asked)
        answers = [known or (next(replied),) for known in under.known]
        point = SteeringPoint(*self.subtraction_sweep(checkpoint, prompts, vector).best()[:2])
        return AgainstNewTask(answers, self.subtraction(checkpoint, prompts, vector, new, point), point)

    def subtraction_sweep(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts, vector: InstructionVector
    ) -> SteeringSweep:
        """Answers to clean validation prompts with the vector subtracted, for each layer and scale."""
        config, clean = self.config, prompts.validation
        scales = [-scale for scale in config.scales]

        def compute(model: Model) -> SteeringSweep:
            return steering_sweep(model, vector, clean, config.tried_layers(model.cfg.n_layers), scales)

        return self._kept(
            "subtraction-sweep", SteeringSweep, checkpoint, prompts.task, compute, clean,
            layers=config.layers, scales=scales, vector=hash_of_vector(vector),
        )  # fmt: skip

    def subtraction(
        self,
        checkpoint: CheckpointUnderTest,
        prompts: TaskPrompts,
        vector: InstructionVector,
        new: str,
        point: SteeringPoint,
    ) -> ConditionComparison:
        """Clean test prompts as they are, with the new task's vector subtracted, and with random ones subtracted."""
        seeds = self.config.random_seeds
        compute = partial(_subtract, prompts=prompts, vector=vector, new=new, point=point, seeds=seeds)
        return self._kept(
            "subtraction", ConditionComparison, checkpoint, prompts.task, compute, prompts.test, random_seeds=seeds,
            layer=point.layer, scale=point.scale, new=new, vector=hash_of_vector(vector),
        )  # fmt: skip

    def divergence(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts, base_facts: Mapping[str, Any]
    ) -> OutputDivergence:
        """KL to the base where the answers to the new task's clean test prompts are predicted."""
        path, ask = self.outputs_file(base_facts, prompts.test), partial(log_probabilities, prompts=prompts.test)
        compute, base = partial(_divergence, path=path, ask=ask), identity_of(base_facts)
        return self._kept("kl", OutputDivergence, checkpoint, prompts.task, compute, prompts.test, base=base)

    def text_divergence(self, checkpoint: CheckpointUnderTest, base_facts: Mapping[str, Any]) -> OutputDivergence:
        """KL to the base on the bundled text."""
        compute = partial(_divergence, path=self.outputs_file(base_facts, ()), ask=text_log_probabilities)
        base = identity_of(base_facts)
        return self._kept("kl-text", OutputDivergence, checkpoint, None, compute, (), text=TEXT, base=base)

    def spectrum(self, checkpoint: CheckpointUnderTest, base_facts: Mapping[str, Any]) -> WeightSpectrum:
        """The change of each matrix of the blocks from the base's, which are in files."""
        paths = [self.attention_file(base_facts), self.mlp_file(base_facts)]
        compute, base = partial(weight_spectrum, base_files=paths), identity_of(base_facts)
        return self._kept("spectrum", WeightSpectrum, checkpoint, None, compute, (), base=base, share=SHARE)

    def keep_mlps(self, base: CheckpointUnderTest) -> None:
        """Write the base's matrices beside those of attention to a file."""

        def tensors() -> dict[str, Tensor]:
            model = base.model()
            return {
                f"{layer}.{name}": weight.cpu().contiguous()
                for layer in range(model.cfg.n_layers) for name, weight in mlp_weights(model, layer).items()
            }  # fmt: skip

        _keep(self.mlp_file(base.facts), tensors, base)

    def keep_outputs(self, base: CheckpointUnderTest, prompts: Sequence[Prompt]) -> None:
        """Write the base's log-probabilities at the prompts' answers, or without prompts on the bundled text."""

        def tensors() -> dict[str, Tensor]:
            model = base.model()
            return {"base": log_probabilities(model, prompts) if prompts else text_log_probabilities(model)}

        _keep(self.outputs_file(base.facts, prompts), tensors, base)

    def mlp_file(self, base_facts: Mapping[str, Any]) -> Path:
        """The file that ``keep_mlps`` writes."""
        return self.folder / f"mlp-{key_hash(identity_of(base_facts))}.safetensors"

    def outputs_file(self, base_facts: Mapping[str, Any], prompts: Sequence[Prompt]) -> Path:
        """The file that ``keep_outputs`` writes."""
        asked = [repr(prompt) for prompt in prompts] or TEXT
        return self.folder / f"outputs-{key_hash([identity_of(base_facts), asked])}.safetensors"


def _keep(path: Path, tensors: Callable[[], dict[str, Tensor]], base: CheckpointUnderTest) -> None:
    """Write tensors of the base to a file whose name says what they are of."""
    keep_tensors(path, {"of": path.stem}, tensors, base.facts_folder)


def _steered_replies(model: Model, prompts: list[Prompt], vector: InstructionVector, steered: SteeringPoint) -> Replies:
    with steer(model, vector, steered.layer, steered.scale):
        replies = greedy_replies(model, prompts)
        chosen = evaluate(model, prompts).texts if any(map(is_choice, prompts)) else ()
    return replace(replies, texts=texts_to_show(chosen, replies.texts))


def _subtract(
    model: Model,
    prompts: TaskPrompts,
    vector: InstructionVector,
    new: str,
    point: SteeringPoint,
    seeds: tuple[int, ...],
) -> ConditionComparison:
    """The point's scale is negative."""
    subtracted = {Condition.MINUS_VECTOR.of(new): vector}
    subtracted |= {Condition.MINUS_RANDOM.of(seed): random_vector(vector, seed=seed) for seed in seeds}
    conditions: dict[str, Setting] = {Condition.CLEAN: (prompts.test, None)}
    for name, each in subtracted.items():
        conditions[name] = (prompts.test, steer(model, each, point.layer, point.scale))
    return compare_conditions(model, conditions, task=prompts.task, **point._asdict())


def _divergence(model: Model, path: Path, ask: Callable[[Model], Tensor]) -> OutputDivergence:
    base = load_tensors(path)[0]["base"]
    return OutputDivergence(kl_divergence(base, ask(model)), provenance=provenance(model))
