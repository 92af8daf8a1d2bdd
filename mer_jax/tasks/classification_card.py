"""What a model card says of classification."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mer_jax.metrics.calibration import CALIBRATION
from mer_jax.tasks.task import Card

TARGETS = """\
Its classes are what raters **perceived** in recordings, not what anybody felt: a face, a voice and words do not show
reliably what is felt inside, and raters disagree."""
LIMITS = """\
- It chooses among its classes whatever it is given: silence, another language, noise or an emotion that is none of
  them.
- Rare classes are learnt badly: look at the F1 of each class, not only at the mean."""
FITTED_ON = {"validation": "validation part", "test": "test part itself, so that `after` is too good"}


def card(labels: Sequence[str], modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
    """The arguments are those of `Task.card`, and the classes' names."""
    names, emotions = ", ".join(f"`{name}`" for name in labels), f"{len(labels)} emotions: {', '.join(labels)}"
    return Card(
        purpose=f"Classifies an utterance by {' and '.join(modalities)} into {emotions}.",
        targets=TARGETS,
        output=f"rows sum to 1; classes in this order: \n{names}.",
        scores=list(_scores(result, selects_on)),
        limits=LIMITS,
    )


def _scores(result: Mapping[str, Any], selects_on: str) -> Iterator[str]:
    locked = "test" not in result
    yield "| class | precision | recall | F1 | utterances |"
    yield "|---|---|---|---|---|"
    for name, row in result["valid" if locked else "test"]["per_class"].items():
        shares = (f"{100 * row[score]:.1f}" for score in ("precision", "recall", "f1"))
        yield f"| {name} | {' | '.join(shares)} | {row['support']} |"
    yield ""
    yield from calibration_lines(result["calibration"], selects_on)


def calibration_lines(calibration: Mapping[str, Any], selects_on: str, of: str = "") -> Iterator[str]:
    """How exported probabilities are scaled, and unless the test part is locked how far they can be believed. of: of
    what, if not of classes."""
    temperature = f"{calibration['temperature']:.4f}"
    scaling = calibration.get("scaling", {"used": True})
    if scaling["used"]:
        yield f"The exported probabilities are temperature-scaled: logits are divided by {temperature}, fitted on the "
        yield f"{FITTED_ON[selects_on]}."
    else:
        yield "The exported probabilities are as the model gives them. Temperature scaling is left out, since "
        yield f"{scaling['reason']}."
    if "test" not in calibration:
        return
    yield f"Calibration {of}on the test part, before and after, NLL in nats:"
    yield ""
    yield "| | before | after |"
    yield "|---|---|---|"
    for name, title in CALIBRATION.items():
        yield f"| {title} | {calibration['test'][name]:.4f} | {calibration['test_scaled'][name]:.4f} |"
