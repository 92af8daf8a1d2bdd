"""The sections of a run's page, in order: a title, and a function from the run to HTML. No JAX."""

import importlib
from collections.abc import Callable

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.report.sections_conversations import conversations
from mer_jax.report.sections_groups import groups
from mer_jax.report.sections_inputs import encoder_layers, modalities, robustness
from mer_jax.report.sections_run import cost, data_and_protocol, reproduce, settings, versions
from mer_jax.report.sections_scores import chosen_scores, learning_curves, points

Section = tuple[str, Callable[[FinishedRun], str]]

SCORES = "Test scores"
FIRST: tuple[Section, ...] = (
    ("Data and protocol", data_and_protocol),
    (SCORES, chosen_scores),
    ("Points and ensembles", points),
    ("Learning curves", learning_curves),
)
LAST: tuple[Section, ...] = (
    ("Groups", groups),
    ("Conversations", conversations),
    ("Modalities", modalities),
    ("Encoder layers", encoder_layers),
    ("Robustness", robustness),
    ("Hardware and cost", cost),
    ("Settings", settings),
    ("Versions", versions),
    ("How to reproduce", reproduce),
)


def sections_of(run: FinishedRun) -> tuple[Section, ...]:
    """The sections that the run has, and in their middle the SECTIONS of the module that its task names."""
    first = tuple(
        ("Validation scores" if title == SCORES and run.locked else title, content) for title, content in FIRST
    )
    last = tuple(section for section in LAST if section[1] is not encoder_layers or "layer_weights" in run.chosen)
    if not run.task.report_sections:
        return (*first, *last)
    of_task = importlib.import_module(run.task.report_sections)
    return (*first, *of_task.SECTIONS, *last)
