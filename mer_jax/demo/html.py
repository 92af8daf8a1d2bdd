"""Predictions, those of `Predictor.predict`, as HTML: what is likely, reasons, how it goes on over time. What comes
from outside is escaped. No JAX."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mer_jax.plain import escaped
from mer_jax.tasks import Task

OTHER_TURNS = "context"  # among the Shapley values of a run that hears conversations; of one utterance there are none
LANES = 5  # colours of speakers; the first is of those who are not known
STYLE = """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important; }
#answer, #talk { --for: #3567b0; --against: #b3541e; --likely: 53 103 176; --unlike: 179 84 30; --faint: #6a7076;
  --line: #dcdfe3; overflow-wrap: anywhere; }
.dark #answer, .dark #talk { --for: #7fa9e8; --against: #e8a06a; --likely: 90 135 215; --unlike: 215 130 70;
  --faint: #9aa1a8; --line: #44484d; }
#talk { --lane-0: #6a7076; --lane-1: #3567b0; --lane-2: #b3541e; --lane-3: #2f7d4f; --lane-4: #8a3fa0;
  --lane-5: #8a6d00; }
.dark #talk { --lane-0: #9aa1a8; --lane-1: #7fa9e8; --lane-2: #e8a06a; --lane-3: #7cc79a; --lane-4: #cf9be0;
  --lane-5: #d6bb55; }
#answer h2 { font-size: 1.6rem; margin: 0 0 .5rem; }
#answer h3 { font-size: 1rem; font-weight: 600; margin: 1.4rem 0 .3rem; }
#answer p, #talk p { margin: .3rem 0; }
#answer .faint, #answer small, #talk .faint { color: var(--faint); font-size: .85rem; }
#answer .note, #talk .note { border-left: 4px solid var(--line); padding-left: .7rem; }
#answer .alarm, #talk .alarm { border-color: var(--against); }
#answer table { border: 0; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
#answer tr { border: 0; }
#answer th, #answer td { padding: .15rem .4rem .15rem 0; border: 0; text-align: right; font-weight: inherit;
  white-space: nowrap; }
#answer th[scope=row] { text-align: left; width: 1%; }
#answer td.share { width: 99%; }
#answer .best { font-weight: 700; }
#answer i { display: block; height: .9rem; border-radius: 2px; min-width: 1px; }
#answer .for { background: var(--for); fill: var(--for); }
#answer .against { background: var(--against); fill: var(--against); }
#answer .words span { padding: .1rem .2rem; border-radius: 3px; line-height: 2;
  background: rgb(var(--likely) / var(--share)); }
#answer .words .less { background: rgb(var(--unlike) / var(--share)); text-decoration: underline dotted; }
#answer svg { width: 100%; height: 3.5rem; stroke: var(--faint); }
#answer rect { stroke: none; }
#answer .wide { overflow-x: auto; }
#answer .wide th[scope=col] { text-align: center; padding: .15rem .3rem; }
#answer .wide td { padding: .15rem .3rem; text-align: center; background: rgb(var(--likely) / var(--share)); }
#talk ol { list-style: none; margin: .6rem 0; padding: 0; }
#talk li { margin: 0 0 .6rem; padding: .1rem 0 .1rem .6rem; border-left: 4px solid var(--lane); }
#talk li b { color: var(--lane); }
#talk li .felt { display: flex; gap: .5rem; align-items: center; font-variant-numeric: tabular-nums; }
#talk li .track { flex: 1; background: var(--line); border-radius: 2px; }
#talk li i { display: block; height: .5rem; border-radius: 2px; min-width: 1px; background: var(--lane); }
#talk .shift { border: 1px solid var(--against); color: var(--against); border-radius: 3px; padding: 0 .3rem;
  font-size: .85rem; font-weight: 600; }
"""


def nothing() -> str:
    """What stands there before anything is asked."""
    return '<p class="faint">What the models make of it will be here.</p>'


def problem(message: str) -> str:
    """What is wrong with the input."""
    return f'<p class="note alarm" role="alert"><strong>That did not work.</strong> {escaped(message)}</p>'


def answer(found: Any, task: Task) -> str:
    """What is likely, the likeliest first, what was noted on the way, and why."""
    ranked = list(task.shares(found.output).items())
    if task.right_or_wrong:  # else they are numbers, in their order
        ranked.sort(key=lambda pair: -pair[1])
    rows = [
        f'<tr{" class=best" if i == 0 else ""}><th scope="row">{escaped(name)}</th>'
        f'<td class="share"><i class="for" style="width:{100 * share:.1f}%"></i></td>'
        f"<td>{task.share_in_words(found.output, name)}</td></tr>"
        for i, (name, share) in enumerate(ranked)
    ]
    notes = (
        f'<p class="note{" alarm" if note.startswith("silence") else ""}">{escaped(note[:1].upper() + note[1:])}.</p>'
        for note in found.notes
    )
    bars = "Probabilities" if task.right_or_wrong else "Numbers, as places in their ranges"
    parts = [
        f"<h2>{escaped(task.output_in_words(found.output))}</h2>",
        f"<p>“{escaped(found.sentence)}”</p>" if found.sentence else "",
        *notes,
        f'<table aria-label="{bars}">{"".join(rows)}</table>',
        reasons(task.explained_in_words(found.output), found.attribution, found.words) if found.attribution else "",
    ]
    return "".join(parts)


def reasons(name: str, why: Any, words: Sequence[str]) -> str:
    """Shapley values as bars, then of each modality what its words or time steps add. name: of what is explained."""
    sizes = {m: abs(value) for m, value in why.shapley.items() if m != OTHER_TURNS}
    largest, total = max(sizes.values()) or 1.0, sum(sizes.values()) or 1.0
    rows, steps = "", ""
    for m in sorted(sizes, key=lambda m: -sizes[m]):
        if m not in why.integrated_gradients:
            rows += f'<tr><th scope="row">{escaped(m)}</th><td class="share"></td><td></td><td>not given</td></tr>'
            continue
        kind, width = "against" if why.shapley[m] < 0 else "for", 50 * sizes[m] / largest
        style = f"margin-left:{50 - width * (kind == 'against'):.1f}%;width:{width:.1f}%"
        rows += (
            f'<tr><th scope="row">{escaped(m)}</th><td class="share"><i class="{kind}" style="{style}"></i></td>'
            f"<td>{why.shapley[m]:+.2f}</td><td>{100 * sizes[m] / total:.0f} %</td></tr>"
        )
        values = why.integrated_gradients[m]
        if m == "text" and len(words) >= len(values):
            steps += f"<h3>Words</h3>{marked_words(words, values)}"
        else:
            steps += f"<h3>{escaped(m.capitalize())}, step by step</h3>{step_bars(values)}"
    return (
        f'<h3>What decided</h3><table>{rows}</table><p class="faint">What each modality adds to the score (logit) of '
        f"“{escaped(name)}”, its Shapley value, and its share of them all; to the left: it speaks against it.</p>"
        f'{steps}<p class="faint">What each word or time step adds to that score, against an average one (integrated '
        "gradients): blue for it, orange (downwards, dotted) against it; the stronger, the more. [mark]: a token of "
        "the encoder’s own.</p>"
    )


def marked_words(pieces: Sequence[str], values: np.ndarray) -> str:
    """The words of a sentence, coloured by what they add."""
    words = whole_words(pieces, values)
    largest = max(abs(value) for _, value in words) or 1.0
    spans = (
        f'<span{"" if value >= 0 else " class=less"} style="--share:{0.6 * abs(value) / largest:.2f}" '
        f'title="{value:+.3f}">{escaped(word) or "<small>[mark]</small>"}</span>'
        for word, value in words
    )
    return f'<p class="words">{" ".join(spans)}</p>'


def whole_words(pieces: Sequence[str], values: np.ndarray) -> list[tuple[str, float]]:
    """Words with the sum of their tokens' values. A piece that begins a word begins with a space, or follows a mark of
    the encoder's own, whose piece is empty."""
    words: list[tuple[str, float]] = []
    last = len(pieces) - 1
    for i, (piece, value) in enumerate(zip(pieces, values.tolist(), strict=False)):
        inside = not piece[0].isspace() if piece else i < last
        if inside and words and words[-1][0]:
            words[-1] = words[-1][0] + piece, words[-1][1] + value
        else:
            words.append((piece.strip(), value))
    return words


def step_bars(values: np.ndarray) -> str:
    """A bar for what every time step adds."""
    largest = float(np.abs(values).max()) or 1.0
    bars = "".join(
        f'<rect class="{"for" if v >= 0 else "against"}" x="{i + 0.1}" y="{-max(v, 0.0):.3f}" width=".8" '
        f'height="{abs(v):.3f}"/>'
        for i, v in enumerate((values / largest).tolist())
    )
    caption = f"{len(values)} time steps; the most is added by number {int(values.argmax()) + 1}"
    return (
        f'<svg viewBox="0 -1 {len(values)} 2" preserveAspectRatio="none" role="img" aria-label="{caption}">'
        f'<line x2="{len(values)}" vector-effect="non-scaling-stroke"/>{bars}</svg><p class="faint">{caption}</p>'
    )


def timeline(found: Sequence[Any], task: Task) -> str:
    """A row for each bar of `Task.shares`, a column for each window, darker where it is longer."""
    head = "".join(f'<th scope="col">{one.start:g}–{one.end:g} s</th>' for one in found)
    rows = ""
    names = next((list(task.shares(one.output)) for one in found if not one.error), [])
    for name in names:
        cells = "".join(_cell(one, name, task) for one in found)
        rows += f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>'
    wrong = "".join(f"<p>{one.start:g}–{one.end:g} s: {escaped(one.error)}</p>" for one in found if one.error)
    return (
        f"<h3>Over time{', in percent' * task.right_or_wrong}</h3>"
        '<div class="wide" role="region" tabindex="0" aria-label="Over time"><table><tr>'
        f"<td></td>{head}</tr>{rows}</table></div>{wrong}"
    )


def _cell(one: Any, name: str, task: Task) -> str:
    if one.error:
        return '<td style="--share:0">–</td>'
    share, best = task.shares(one.output)[name], " class=best" if one.prediction == name else ""
    words = f"{100 * share:.0f}" if task.right_or_wrong else task.share_in_words(one.output, name)
    return f'<td{best} style="--share:{0.65 * share:.2f}">{words}</td>'


def conversation(found: Sequence[Any], task: Task) -> str:
    """A row for each turn: who says what, and the likeliest decision with its share, marked where it is another one
    than at the speaker's turn before."""
    lanes: dict[str, int] = {"": 0}
    last: dict[str, str] = {}
    rows, shifts = "", 0
    for number, one in enumerate(found, 1):
        lane = lanes.setdefault(one.speaker, len(lanes))
        before = last.get(one.speaker) if one.speaker else None
        now = "" if one.error else task.output_in_words(one.output)
        shift = before if task.right_or_wrong and before is not None and now and before != now else None
        shifts += shift is not None
        rows += _turn(number, one, lane, shift, task)
        if not one.error:
            last[one.speaker] = now
    speakers = f"{_count(len(lanes) - 1, 'speaker')}, {_count(shifts, 'shift')}"
    about = speakers if len(lanes) > 1 else "nobody is named, so that shifts are not known"
    told = Counter(note for one in found for note in one.notes)
    notes = "".join(
        f'<p class="note">{escaped(note[:1].upper() + note[1:])} ({_count(turns, "turn")}).</p>'
        for note, turns in told.items()
    )
    return (
        f'<p class="faint">{_count(len(found), "turn")}, {about}. A shift: another emotion than at the same speaker’s '
        f'turn before.</p><ol aria-label="Turns">{rows}</ol>{notes}'
    )


def _turn(number: int, one: Any, lane: int, shift: str | None, task: Task) -> str:
    colour = (lane - 1) % LANES + 1 if lane else 0
    who = f"<b>{escaped(one.speaker)}</b>" if one.speaker else '<span class="faint">not named</span>'
    if one.error:
        felt = f'<p class="note alarm">{escaped(one.error)}</p>'
    else:
        name, shares = task.output_in_words(one.output), task.shares(one.output)
        share = shares[task.explained_in_words(one.output)]
        sure = f"{100 * share:.0f} %" if task.right_or_wrong else ""
        mark = "" if shift is None else f'<span class="shift">shift, was {escaped(shift)}</span>'
        felt = (
            f'<div class="felt"><strong>{escaped(name)}</strong><span>{sure}</span>'
            f'<span class="track"><i style="width:{100 * share:.1f}%"></i></span>{mark}</div>'
        )
    said = f'<div class="said">{escaped(one.sentence)}</div>' if one.sentence else ""
    return f'<li style="--lane:var(--lane-{colour})"><span class="faint">{number}</span> {who}{said}{felt}</li>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
