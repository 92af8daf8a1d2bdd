"""A run, put together on the devices."""

import dataclasses
from collections.abc import Sequence

import jax
from etils import epath

from mer_jax.config import Experiment
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.protocols import Split
from mer_jax.runtime import sharding
from mer_jax.tasks import Task, task_of
from mer_jax.training.compiled import CompiledSteps, build, replicas_per_step
from mer_jax.training.prepare import TrainingData, prepare_data
from mer_jax.training.replica_groups import ReplicaGroups
from mer_jax.training.replicas import ReplicaProgress, replicas_of


@dataclasses.dataclass
class Run:
    """What a run is made of."""

    config: Experiment
    task: Task
    corpus: Corpus
    split: Split
    data: TrainingData
    steps: CompiledSteps
    groups: ReplicaGroups
    progress: list[ReplicaProgress]
    workdir: epath.Path

    def live(self) -> list[int]:
        """The replicas that still train."""
        return [r for r, progress in enumerate(self.progress) if progress.status == "training"]


def assemble(
    config: Experiment, corpus: Corpus, workdir: epath.PathLike, devices: Sequence[jax.Device] | None = None
) -> Run:
    """Everything of the run on the devices (all there are), at no step yet."""
    task, split = task_of(corpus).led_by(config.train.select), split_of(config, corpus)
    replicas = replicas_of(config, split)
    mesh = sharding.make_mesh(replicas_per_step(config, len(replicas)), config.mesh.model, devices)
    data = prepare_data(config, task, corpus, split, mesh)
    steps = build(config, corpus, task, data, len(replicas), mesh)
    groups = ReplicaGroups(steps, data, replicas)
    progress = [ReplicaProgress() for _ in replicas]
    return Run(config, task, corpus, split, data, steps, groups, progress, epath.Path(workdir))


def split_of(config: Experiment, corpus: Corpus) -> Split:
    """Who trains, validates and tests whom."""
    split = protocols.split(corpus, config.data.protocol, config.data.seed)
    return protocols.told_retest(corpus, split, config.data.modalities)
