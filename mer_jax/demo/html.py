"""Predictions, those of `trained.Trained.predict`, as HTML: classes, reasons, how it goes on over time. What comes from outside is
escaped. No JAX."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

STYLE = """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important; }
#told { --for: #3567b0; --against: #b3541e; --likely: 53 103 176; --unlike: 179 84 30; --faint: #6a7076; --line: #dcdfe3; overflow-wrap: anywhere; }
.dark #told { --for: #7fa9e8; --against: #e8a06a; --likely: 90 135 215; --unlike: 215 130 70; --faint: #9aa1a8; --line: #44484d; }
#told h2 { font-size: 1.6rem; margin: 0 0 .5rem; } #told h3 { font-size: 1rem; font-weight: 600; margin: 1.4rem 0 .3rem; }
#told p { margin: .3rem 0; } #told .faint, #told small { color: var(--faint); font-size: .85rem; }
#told .note { border-left: 4px solid var(--line); padding-left: .7rem; } #told .alarm { border-color: var(--against); }
#told table { border: 0; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } #told tr { border: 0; }
#told th, #told td { padding: .15rem .4rem .15rem 0; border: 0; text-align: right; font-weight: inherit; white-space: nowrap; }
#told th[scope=row] { text-align: left; width: 1%; } #told td.share { width: 99%; } #told .best { font-weight: 700; }
#told i { display: block; height: .9rem; border-radius: 2px; min-width: 1px; }
#told .for { background: var(--for); fill: var(--for); } #told .against { background: var(--against); fill: var(--against); }
#told .words span { padding: .1rem .2rem; border-radius: 3px; line-height: 2; background: rgb(var(--likely) / var(--share)); }
#told .words .less { background: rgb(var(--unlike) / var(--share)); text-decoration: underline dotted; }
#told svg { width: 100%; height: 3.5rem; stroke: var(--faint); } #told rect { stroke: none; }
#told .wide { overflow-x: auto; } #told .wide th[scope=col] { text-align: center; padding: .15rem .3rem; }
#told .wide td { padding: .15rem .3rem; text-align: center; background: rgb(var(--likely) / var(--share)); }
"""  # fmt: skip


def nothing() -> str:
    return '<p class="faint">What the models make of it will be here.</p>'


def problem(message: str) -> str:
    return f'<p class="note alarm" role="alert"><strong>That did not work.</strong> {escape(message)}</p>'


def whole(found: Any) -> str:
    """Classes by probability, what was noted on the way, and why."""
    ranked = sorted(found.probabilities.items(), key=lambda pair: -pair[1])
    rows = [
        f'<tr{" class=best" if i == 0 else ""}><th scope="row">{escape(name)}</th><td class="share"><i class="for" style="width:{100 * p:.1f}%"></i></td>'
        f"<td>{100 * p:.1f} %</td></tr>"
        for i, (name, p) in enumerate(ranked)
    ]
    notes = (
        f'<p class="note{" alarm" if note.startswith("silence") else ""}">{escape(note[:1].upper() + note[1:])}.</p>'
        for note in found.notes
    )
    parts = [
        f"<h2>{escape(found.prediction)}</h2>",
        f"<p>“{escape(found.sentence)}”</p>" if found.sentence else "",
        *notes,
        f'<table aria-label="Probabilities">{"".join(rows)}</table>',
        reasons(found.prediction, found.attribution, found.words) if found.attribution else "",
    ]
    return "".join(parts)


def reasons(label: str, why: Any, words: Sequence[str]) -> str:
    """Shapley values as bars, then of each modality the evidence of its words or time steps."""
    sizes = {m: abs(value) for m, value in why.shapley.items()}
    most, total = max(sizes.values()) or 1.0, sum(sizes.values()) or 1.0
    rows, evidence = "", ""
    for m in sorted(sizes, key=lambda m: -sizes[m]):
        if m not in why.evidence:
            rows += f'<tr><th scope="row">{escape(m)}</th><td class="share"></td><td></td><td>not given</td></tr>'
            continue
        kind, width = "against" if why.shapley[m] < 0 else "for", 50 * sizes[m] / most
        style = f"margin-left:{50 - width * (kind == 'against'):.1f}%;width:{width:.1f}%"
        rows += (
            f'<tr><th scope="row">{escape(m)}</th><td class="share"><i class="{kind}" style="{style}"></i></td>'
            f"<td>{why.shapley[m]:+.2f}</td><td>{100 * sizes[m] / total:.0f} %</td></tr>"
        )
        if m == "text" and len(words) >= len(why.evidence[m]):
            evidence += f"<h3>Words</h3>{spoken(words, why.evidence[m])}"
        else:
            evidence += f"<h3>{escape(m.capitalize())}, step by step</h3>{steps(why.evidence[m])}"
    return (
        f'<h3>What decided</h3><table>{rows}</table><p class="faint">What each modality adds to the score (logit) of “{escape(label)}”, '
        "its Shapley value, and its share of them all; to the left: it speaks against it.</p>"
        f'{evidence}<p class="faint">What each word or time step adds to that score, against an average one (integrated gradients): blue '
        "for it, orange (downwards, dotted) against it; the stronger, the more. [mark]: a token of the encoder’s own.</p>"
    )


def spoken(pieces: Sequence[str], evidence: np.ndarray) -> str:
    words = joined(pieces, evidence)
    most = max(abs(value) for _, value in words) or 1.0
    spans = (
        f'<span{"" if value >= 0 else " class=less"} style="--share:{0.6 * abs(value) / most:.2f}" title="{value:+.3f}">'
        f"{escape(word) or '<small>[mark]</small>'}</span>"
        for word, value in words
    )
    return f'<p class="words">{" ".join(spans)}</p>'


def joined(pieces: Sequence[str], evidence: np.ndarray) -> list[tuple[str, float]]:
    """Words with what their tokens add up to. A piece that begins a word begins with a space, or follows a mark of the encoder's own,
    whose piece is empty."""
    words: list[tuple[str, float]] = []
    last = len(pieces) - 1
    for i, (piece, value) in enumerate(zip(pieces, evidence.tolist(), strict=False)):
        inside = not piece[0].isspace() if piece else i < last
        if inside and words and words[-1][0]:
            words[-1] = words[-1][0] + piece, words[-1][1] + value
        else:
            words.append((piece.strip(), value))
    return words


def steps(evidence: np.ndarray) -> str:
    most = float(np.abs(evidence).max()) or 1.0
    bars = "".join(
        f'<rect class="{"for" if v >= 0 else "against"}" x="{i + 0.1}" y="{-max(v, 0.0):.3f}" width=".8" height="{abs(v):.3f}"/>'
        for i, v in enumerate((evidence / most).tolist())
    )
    heard = f"{len(evidence)} time steps; the most is added by number {int(evidence.argmax()) + 1}"
    return f'<svg viewBox="0 -1 {len(evidence)} 2" preserveAspectRatio="none" role="img" aria-label="{heard}"><line x2="{len(evidence)}" vector-effect="non-scaling-stroke"/>{bars}</svg><p class="faint">{heard}</p>'


def timeline(found: Sequence[Any], labels: Sequence[str]) -> str:
    """A row a class, a column a window, darker where it is likelier."""
    head = "".join(f'<th scope="col">{one.start:g}–{one.end:g} s</th>' for one in found)
    rows = ""
    for name in labels:
        cells = "".join(
            f'<td{" class=best" if one.prediction == name else ""} style="--share:{0.65 * one.probabilities[name]:.2f}">{100 * one.probabilities[name]:.0f}</td>'
            if one.probabilities else '<td style="--share:0">–</td>'
            for one in found
        )  # fmt: skip
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    wrong = "".join(f"<p>{one.start:g}–{one.end:g} s: {escape(one.error)}</p>" for one in found if one.error)
    return (
        f'<h3>Over time, in percent</h3><div class="wide" role="region" tabindex="0" aria-label="Over time"><table><tr><td></td>{head}</tr>{rows}'
        f"</table></div>{wrong}"
    )
