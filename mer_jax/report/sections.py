"""The sections of a run's page, in order: a title, and a function from the run to HTML. No JAX."""

import importlib
from collections.abc import Callable

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.report.sections_conversations import conversations
from mer_jax.report.sections_inputs import modalities, robustness
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
    ("Conversations", conversations),
    ("Modalities", modalities),
    ("Robustness", robustness),
    ("Hardware and cost", cost),
    ("Settings", settings),
    ("Versions", versions),
    ("How to reproduce", reproduce),
)


def sections_of(run: FinishedRun) -> tuple[Section, ...]:
    """The sections that every run has, and in their middle the SECTIONS of the module that the run's task names."""
    first = tuple(
        ("Validation scores" if title == SCORES and run.locked else title, content) for title, content in FIRST
    )
    if not run.task.report_sections:
        return (*first, *LAST)
    of_task = importlib.import_module(run.task.report_sections)
    return (*first, *of_task.SECTIONS, *LAST)
