"""What a model card says of numbers and of several emotions at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mer_jax.data.targets import Target
from mer_jax.metrics.multilabel import IN_WORDS
from mer_jax.tasks.classification_card import FITTED_ON, calibration_lines
from mer_jax.tasks.task import Card

TARGETS = """\
Its targets are what raters **perceived** in recordings, not what anybody felt: a face, a voice and words do not show
reliably what is felt inside, and raters disagree."""
LIMITS = {
    "regression": """\
- It gives a number whatever it is given: silence, another language or noise.
- Numbers near the ends of a range are rare in training, and what is predicted there is drawn towards the middle.""",
    "multilabel": """\
- It decides on every emotion whatever it is given: silence, another language or noise.
- Rare emotions are learnt badly: look at the F1 of each, not only at the mean.""",
}


def of_regression(target: Target, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
    """The arguments are those of `Task.card`, and the target."""
    each = zip(target.names, target.ranges, strict=True)
    spans = ", ".join(f"{name} ({low:g} to {high:g})" for name, (low, high) in each)
    return Card(
        purpose=f"Predicts {spans} of an utterance by {' and '.join(modalities)}.",
        targets=TARGETS,
        output="numbers in their own units, which may lie beyond their ranges, in this order: \n"
        f"{_code(target.names)}.",
        scores=list(_coverage(target, result, selects_on)),
        limits=LIMITS["regression"],
    )


def of_multilabel(target: Target, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
    """The arguments are those of `Task.card`, and the target."""
    start = IN_WORDS[target.present_from]
    return Card(
        purpose=f"Tells which of {len(target.names)} emotions are in an utterance, by {' and '.join(modalities)}: "
        f"{', '.join(target.names)}. In training an emotion was there where raters gave it a strength {start}.",
        targets=TARGETS,
        output=f"the probability of each emotion, which do not sum to 1, in this order: \n{_code(target.names)}.",
        scores=list(calibration_lines(result["calibration"], selects_on, "of presence and absence ")),
        limits=LIMITS["multilabel"],
    )


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _coverage(target: Target, result: Mapping[str, Any], selects_on: str) -> Iterator[str]:
    """The intervals about the numbers."""
    calibration = result["calibration"]
    yield f"An interval of this half width about a number should hold {100 * calibration['covered']:.0f} % of the true"
    yield f"ones; it is of the {FITTED_ON[selects_on]}."
    yield ""
    yield "| number | half width | held of the test part, percent |"
    yield "|---|---|---|"
    for name in target.names:
        width, held = calibration["half_width"][name], calibration.get("test", {}).get(name)
        shown = ["-" if width is None else f"{width:.3f}", "-" if held is None else f"{100 * held:.1f}"]
        yield f"| {name} | {' | '.join(shown)} |"
