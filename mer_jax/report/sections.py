"""The sections of a run's page, in order: a title, and a function from the run to HTML. No JAX."""

import functools
import importlib
from collections.abc import Callable, Iterator

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.group_scores import main_part
from mer_jax.evaluation.part_of_run import parts_of
from mer_jax.report.html import escaped
from mer_jax.report.sections_conversations import conversations
from mer_jax.report.sections_groups import groups
from mer_jax.report.sections_inputs import encoder_layers, modalities, robustness
from mer_jax.report.sections_run import cost, data_and_protocol, reproduce, settings, versions
from mer_jax.report.sections_scores import chosen_scores, learning_curves, points
from mer_jax.tasks import Several

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
    """The sections that the run has, and in their middle those that only its task has."""
    first = tuple(
        ("Validation scores" if title == SCORES and run.locked else title, content) for title, content in FIRST
    )
    last = tuple(section for section in LAST if section[1] is not encoder_layers or "layer_weights" in run.chosen)
    return (*first, *_of_task(run), *last)


def _of_task(run: FinishedRun) -> Iterator[Section]:
    """The SECTIONS of the module that the run's task names; of several targets those of each, and its groups,
    unless the run's main score is of it."""
    main = main_part(run.task) if isinstance(run.task, Several) else 0
    for i, part in enumerate(parts_of(run)):
        if not part.task.report_sections:
            continue
        of_task = importlib.import_module(part.task.report_sections)
        if part is run:
            yield from of_task.SECTIONS
            continue
        beside = () if i == main else (("Groups", groups),)
        for title, content in (*of_task.SECTIONS, *beside):
            yield escaped(f"{part.task.asked}: {title}"), functools.partial(_of_part, content, part)


def _of_part(content: Callable[[FinishedRun], str], part: FinishedRun, run: FinishedRun) -> str:
    """What a section says of one of a run's targets."""
    return content(part)
