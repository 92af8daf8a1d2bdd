"""Sections on conversations: scores by where a turn stands in its dialogue, and a few test dialogues with what moved
what."""

from collections.abc import Mapping, Sequence
from typing import Any

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.score_table import title
from mer_jax.report.html import escaped, missing, table
from mer_jax.report.style import COLOURS
from mer_jax.report.svg import key, signed_number

GROUPS = {
    "shifts": "shifts",
    "rest": "the same as before",
    "first": "a speaker’s first",
}
ROW = 44  # height of a turn, in units of the drawing of arrows; 16 of them are 1rem
GUTTER = 58  # where the arrows are
LANES, LANE = 4, 15  # lanes at most, of which the last is of all further speakers, and their width


def conversations(run: FinishedRun) -> str:
    """Scores of turns by shifts and position; of runs that hear other turns also drawn dialogues."""
    return _scores(run) + _dialogues(run)


def _scores(run: FinishedRun) -> str:
    found = run.chosen.get("conversation")
    if found is None:
        why = run.why_missing if run.locked else "does not hold them: no dialogue has several turns, or it is older"
        return missing("Scores by turn are", "predictions.jsonl" if run.locked else "metrics.json", why)
    named = [(text, found[name]) for name, text in GROUPS.items() if name in found]
    named += [(_range_title(name), group) for name, group in found["positions"].items()]
    rows = [
        [
            escaped(text),
            f"{group['utterances']:,}",
            *(run.task.metrics[score].format_mean(group["scores"].get(score)) for score in run.task.headline),
        ]
        for text, group in named
    ]
    titles = [run.task.metrics[score].title for score in run.task.headline]
    over = " Figures are means ± sample standard deviations over the replicas." if run.chosen["replicas"] > 1 else ""
    return (
        "<p>A shift is a turn whose label is another than that of the same speaker’s last turn that has one, in the "
        "same dialogue; a turn whose speaker is not known is in none of the first three rows. Turns are counted from "
        f"1, those that are not tested with them.{over}</p>"
        + table(title("Test scores by turn", run.task), ["", "utterances", *titles], rows)
    )


def _range_title(name: str) -> str:
    first, _, last = name.partition("-")
    return f"turns {first}–{last}" if last else f"turns from {first} on"


def _dialogues(run: FinishedRun) -> str:
    found = run.extra.get("explain", {}).get("conversations")
    if not found:
        return ""
    drawn = "".join(_dialogue(one) for one in found if one["turns"])
    return (
        "<h3>Which turns moved which</h3><p>Test dialogues, those of few turns with the most shifts first, as "
        f"{escaped(run.extra['explain']['replica'])} reads them. An arrow leads from a turn to one that it moved: the "
        "thicker, the more the output that is explained changes when the turn is not heard; broken lines are of turns "
        f"that spoke against the prediction. Of each turn the strongest few are told.</p>{drawn}"
    )


def _dialogue(found: Mapping[str, Any]) -> str:
    """One dialogue: the arrows and lanes at the left, a line of HTML for each turn beside them."""
    turns = found["turns"]
    numbers: dict[str, int] = {}
    for turn in turns:
        numbers.setdefault(turn["speaker"], len(numbers))
    count, shown = found["dialogue_turns"], len(turns)
    what = f"Dialogue {found['dialogue']}" + (f", {shown} of its {count:,} turns" if shown < count else "")
    lanes = [numbers[turn["speaker"]] for turn in turns]
    drawn = [*_arrows(turns, lanes), *(_dot(i, lane) for i, lane in enumerate(lanes))]
    heard = escaped(f"{what}: arrows from turns to those that they moved; the list beside it says the same")
    width = GUTTER + LANE * min(LANES, len(numbers))
    box = f'viewBox="0 0 {width} {ROW * shown}" style="width: {width / 16:g}rem"'
    svg = f'<svg {box} role="img" aria-label="{heard}">{"".join(drawn)}</svg>'
    lines = "".join(f"<li>{_line(turn)}</li>" for turn in turns)
    swatch = '<circle class="filled" cx="15" cy="6" r="6"/>'
    speakers = [(number, (swatch, f"{number + 1} {name or 'not known'}")) for name, number in numbers.items()]
    return (
        f'<figure class="talk"><figcaption>{escaped(what)}</figcaption>{key(speakers)}'
        f'<div class="turns">{svg}<ol>{lines}</ol></div></figure>'
    )


def _place(row: int, lane: int) -> tuple[float, float]:
    """The middle of a turn's dot."""
    return GUTTER + LANE * (min(lane, LANES - 1) + 0.5), ROW * (row + 0.5)


def _dot(row: int, lane: int) -> str:
    x, y = _place(row, lane)
    number = f'<text class="in" x="{x:g}" y="{y + 3.5:g}" text-anchor="middle">{lane + 1}</text>'
    return f'<g class="c{lane % COLOURS}"><circle class="filled" cx="{x:g}" cy="{y:g}" r="6.5"/></g>{number}'


def _arrows(turns: Sequence[Mapping[str, Any]], lanes: Sequence[int]) -> list[str]:
    """An arrow for every influence whose turn is drawn, in the colour of who spoke it."""
    row_of = {turn["id"]: row for row, turn in enumerate(turns)}
    found = [
        (row_of[one["id"]], row, one["influence"])
        for row, turn in enumerate(turns)
        for one in turn["influence"]
        if one["id"] in row_of and row_of[one["id"]] != row
    ]
    most = max((abs(size) for *_, size in found), default=0) or 1
    drawn = []
    for start, end, size in sorted(found, key=lambda one: abs(one[2])):
        (x0, y0), (x1, y1) = _place(start, lanes[start]), _place(end, lanes[end])
        x0, x1 = x0 - 7, x1 - 7
        left = GUTTER - 14 - (GUTTER - 4) * abs(end - start) / max(4, len(turns) - 1)
        dash = ' stroke-dasharray="4 3"' if size < 0 else ""
        curve = f"M{x0:.1f} {y0:g}C{left:.1f} {y0:g} {left:.1f} {y1:g} {x1 - 4:.1f} {y1:g}"
        head = f"M{x1:.1f} {y1:g}l-6 -3.5v7z"
        share = abs(size) / most
        words = f"turn {turns[start]['turn']} moves turn {turns[end]['turn']} by {signed_number(size)}"
        drawn.append(
            f'<g class="arrow c{lanes[start] % COLOURS}" opacity="{0.4 + 0.6 * share:.2f}">'
            f"<title>{escaped(words)}</title>"
            f'<path class="line"{dash} style="stroke-width: {0.7 + 3.3 * share:.1f}" d="{curve}"/>'
            f'<path class="filled" d="{head}"/></g>'
        )
    return drawn


def _line(turn: Mapping[str, Any]) -> str:
    """A turn in words: true and predicted, whether that is wrong or a shift, who spoke, what moved it, what is said."""
    label, predicted = escaped(turn["label"] or "no label"), turn.get("prediction")
    if predicted is None:
        verdict = f'<strong>{label}</strong><span class="faint">heard, not tested</span> '
    elif turn.get("wrong"):
        verdict = f'<strong class="problem">{label} → {escaped(predicted)}</strong>'
    else:
        verdict = f"<strong>{label}</strong>"
    sure = f"{turn['probability']:.2f} " if "probability" in turn else ""
    shift = '<span class="note">shift</span> ' if turn["shift"] else ""
    moved = ", ".join(f"{one['turn']} ({signed_number(one['influence'])})" for one in turn["influence"])
    about = ", ".join(filter(None, (turn["speaker"], f"moved by turn {moved}" if moved else "")))
    said = f"<q>{escaped(turn['sentence'])}</q>" if turn.get("sentence") else ""
    first = (
        f'<span class="faint">{turn["turn"]}</span> {verdict}{sure}{shift}<span class="faint">{escaped(about)}</span>'
    )
    return f"<span>{first}</span><span>{said}</span>"
