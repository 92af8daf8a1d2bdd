"""What sections of any task show of single utterances: where they lie on the map, and the worst mistakes. No JAX."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.report.html import escaped, missing
from mer_jax.report.svg import signed_number

MAX_MISTAKES = 20
MAX_STEPS = 3  # time steps that are named, of each modality of a mistake
NO_SENTENCES = "predictions.jsonl does not hold the sentences: an older version wrote it, or the corpus has none."
NO_MAP = "The map of the utterances is"


def map_places(run: FinishedRun) -> list[tuple[float, float, int]]:
    """Where the utterances of map.json lie, and the line of predictions of each. Raises UserError if the file is not
    of the run's replicas and utterances."""
    found = run.extra["map"]
    if found["replica"] not in run.predictions.names:
        raise UserError(
            f"{run.path / 'map.json'} is of replica {found['replica']!r}, which is no finished one at the chosen "
            "point; remove the file"
        )
    predictions, places = run.predictions, []
    lines = np.flatnonzero(predictions.replica == predictions.names.index(found["replica"])).tolist()
    line_of = {predictions.ids[predictions.utterance[line]]: line for line in lines}
    for id, x, y in zip(found["ids"], found["x"], found["y"], strict=True):
        if id not in line_of:
            raise UserError(f"{run.path / 'map.json'}: predictions.jsonl has no utterance {id!r} of {found['replica']}")
        places.append((x, y, line_of[id]))
    return places


def map_axes(found: Mapping[str, Any]) -> tuple[str, str]:
    """What the axes of map.json are."""
    shares = found.get("explained") or [None, None]
    across, up = (f"component {i}" + (f", {100 * s:.0f} %" if s is not None else "") for i, s in enumerate(shares, 1))
    return across, up


def map_method(found: Mapping[str, Any]) -> str:
    return escaped(found["method"][:1].upper() + found["method"][1:])


def worst(
    run: FinishedRun, what: str, told: Callable[[int, np.ndarray], tuple[str, str]], said: Callable[[int, int], str]
) -> str:
    """The worst mistakes by what is predicted in the mean over the replicas, those of explain.json with their
    explanations.

    what: begins what is said where there are none. told: by an utterance's place among the predictions and what is
    predicted of it, the mistake in words, and how bad it is. said: the text above the list, by how many mistakes there
    are and how many are shown."""
    if run.locked:
        return missing(what, "predictions.jsonl", run.why_missing)
    predictions, found = run.predictions, run.extra.get("explain")
    mean = predictions.mean()
    wrong = run.task.mistakes(mean, predictions.targets)
    shown = wrong[:MAX_MISTAKES].tolist()
    explained = {mistake["id"]: mistake for mistake in found["mistakes"]} if found else {}
    items = []
    for i in shown:
        id, dialogue = predictions.ids[i], str(predictions.dialogues[i])
        where = f"{id} of dialogue {dialogue}" if dialogue and not id.startswith(dialogue) else id
        items.append(_item(predictions.sentences[i], told(i, mean[i]), where, explained.pop(id, None)))
    parts = [f"<p>{escaped(said(len(wrong), len(shown)))}</p><ol>{''.join(items)}</ol>"]
    if not any(predictions.sentences):
        parts.append(f'<p class="faint">{NO_SENTENCES}</p>')
    if found and explained:
        rest = "".join(_explained(one) for one in explained.values())
        parts.append(f"<h3>Further mistakes of {escaped(found['replica'])}, explained</h3><ol>{rest}</ol>")
    return "".join(parts)


def by_whom(run: FinishedRun, mean_of: str) -> str:
    """Whose mistakes they are; mean_of: what is taken the mean of, of several replicas."""
    replicas = int(np.bincount(run.predictions.utterance).max())
    return f"the mean {mean_of} of {replicas} replicas" if replicas > 1 else "the model"


def _explained(one: Mapping[str, Any]) -> str:
    number = f"{one['probability']:.3f}" if "probability" in one else ""
    return _item(one.get("sentence") or "", (f"{one['label']} → {one['prediction']}", number), one["id"], one)


def _item(sentence: str, told: tuple[str, str], where: str, explained: Mapping[str, Any] | None) -> str:
    quoted = f"<q>{escaped(sentence)}</q><br/>" if sentence else ""
    words, number = map(escaped, told)
    place = f"<span class='faint'>{escaped(where)}</span>"
    reason = f'<span class="do">{escaped(_explanation(explained))}</span>' if explained else ""
    return f"<li>{quoted}<strong>{words}</strong>{number} {place}{reason}</li>"


def _explanation(explained: Mapping[str, Any]) -> str:
    """What decided, in sentences: modalities, time steps, and frames, counted from 1."""
    shares = ", ".join(f"{name} {signed_number(value)}" for name, value in explained["modalities"].items())
    output = explained.get("explained", explained["prediction"])
    said = output == explained["prediction"] or output in re.split(r"\||; ", explained["prediction"])
    text = f"{'Pull towards' if said else 'What moves'} {output}: {shares}."
    steps = "; ".join(
        f"{name} step " + ", ".join(f"{step + 1} ({100 * share:.0f} %)" for step, share in found[:MAX_STEPS])
        for name, found in (explained.get("top_steps") or {}).items()
        if found
    )
    text += f" Most attention: {steps}." if steps else ""
    if frames := explained.get("frames"):
        parts = [f"frames {', '.join(str(frame + 1) for frame in frames['kept'])} were kept"]
        if frames["merged"]:
            parts.append(", ".join(f"{frame + 1} merged into {into + 1}" for frame, into in frames["merged"]))
        if frames["dropped"]:
            parts.append(f"{', '.join(str(frame + 1) for frame in frames['dropped'])} dropped")
        text += f" Of the picture {'; '.join(parts)}."
    return text
