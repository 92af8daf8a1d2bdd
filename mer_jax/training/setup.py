"""TODO: say what lives here."""

import dataclasses
from collections.abc import Sequence

import jax
from etils import epath

from mer_jax import config as config_lib
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.protocols import Split
from mer_jax.runtime import sharding
from mer_jax.training.compiled import CompiledSteps, build, replicas_per_step
from mer_jax.training.prepare import TrainingData, prepare_data
from mer_jax.training.replica_groups import ReplicaGroups
from mer_jax.training.replicas import ReplicaProgress, replicas_of


@dataclasses.dataclass
class Run:
    """What a run is made of."""

    config: config_lib.Experiment
    corpus: Corpus
    split: Split
    inputs: TrainingData
    program: CompiledSteps
    fleet: ReplicaGroups
    standings: list[ReplicaProgress]
    workdir: epath.Path

    def live(self) -> list[int]:
        return [r for r, standing in enumerate(self.standings) if standing.status == "training"]


def assemble(
    config: config_lib.Experiment, corpus: Corpus, workdir: epath.PathLike, devices: Sequence[jax.Device] | None = None
) -> Run:
    """Everything of the run on the devices (all there are), at no step yet."""
    split = split_of(config, corpus)
    replicas = replicas_of(config, split)
    mesh = sharding.make_mesh(replicas_per_step(config, len(replicas)), config.mesh.model, devices)
    inputs = prepare_data(config, corpus, split, mesh)
    program = build(config, corpus, inputs, len(replicas), mesh)
    fleet = ReplicaGroups(program, inputs, replicas)
    return Run(
        config, corpus, split, inputs, program, fleet, [ReplicaProgress() for _ in replicas], epath.Path(workdir)
    )


def split_of(config: config_lib.Experiment, corpus: Corpus) -> Split:
    return protocols.split(corpus, config.data.protocol, config.data.seed)
