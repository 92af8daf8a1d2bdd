"""Plots of a report, as inline SVG: curves with bands, points, intervals, reliability, signed bars. No JAX."""

import dataclasses
import math
from collections.abc import Sequence

from mer_jax.report.html import COLOURS, ROW, WIDTH, escaped, figure, shortened, ticks

Number = int | float
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 24, 38
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")  # beside the colours, for print in grey


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve through (x, y); low and high, where given, are the edges of its band."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()


@dataclasses.dataclass(frozen=True)
class Frame:
    """Axes: `x` and `y` turn values into a plot's units."""

    low_x: Number
    high_x: Number
    low_y: Number
    high_y: Number
    height: Number

    def x(self, value: Number) -> float:
        share = (value - self.low_x) / ((self.high_x - self.low_x) or 1)
        return LEFT + (WIDTH - LEFT - RIGHT) * (share if self.high_x > self.low_x else 0.5)

    def y(self, value: Number) -> float:
        share = (value - self.low_y) / ((self.high_y - self.low_y) or 1)
        return TOP + (self.height - TOP - BOTTOM) * (1 - (share if self.high_y > self.low_y else 0.5))

    def drawn(self, across: str, up: str, at: Sequence[Number], levels: Sequence[Number]) -> list[str]:
        """Grid, numbers and names of the axes."""
        bottom = self.height - BOTTOM
        parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom:g}H{WIDTH - RIGHT}"/>']
        for level in levels:
            y = self.y(level)
            parts.append(
                f'<path class="axis" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/><text class="pale" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>'
            )
        for value in at:
            x = self.x(value)
            parts.append(f'<text class="pale" x="{x:.1f}" y="{bottom + 15:g}" text-anchor="middle">{value:g}</text>')
        parts.append(
            f'<text class="pale" x="{WIDTH - RIGHT}" y="{bottom + (32 if at else 15):g}" text-anchor="end">{escaped(across)}</text>'
        )
        parts.append(f'<text class="pale" x="0" y="12">{escaped(up)}</text>')
        return parts


def curves(
    title: str, lines: Sequence[Line], across: str, up: str, whole: bool = False, marks: Sequence[Number] = (), under: str = ""
) -> str:  # fmt: skip
    """Lines over a common axis. whole: x are integers. marks: where x is worth a tick of its own below the curves."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for row in (line.y, line.low, line.high) for y in row]
    spread = max(ys) - min(ys) or abs(max(ys)) or 1
    levels = ticks(min(ys) - 0.05 * spread, max(ys) + 0.05 * spread, 4)
    frame = Frame(min(xs), max(xs), min(ys) - 0.05 * spread, max(ys) + 0.05 * spread, 220)
    drawn = frame.drawn(across, up, ticks(min(xs), max(xs), 6, whole), levels)
    for number, line in enumerate(lines):
        drawn.append(f'<g class="c{number % COLOURS}">{_line(frame, line, DASHES[number % len(DASHES)])}</g>')
    for mark in marks:
        drawn.append(f'<path class="whisker" d="M{frame.x(mark):.1f} {frame.height - BOTTOM:g}v-7"/>')
    heard = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines if line.y)
    key = _key([_swatch_line(i, line.name) for i, line in enumerate(lines)]) if len(lines) > 1 else ""
    return figure(title, drawn, frame.height, key + under, heard)


def _line(frame: Frame, line: Line, dash: str) -> str:
    def path(ys: Sequence[Number], order: int = 1) -> str:
        points = list(zip(line.x, ys, strict=True))[::order]
        return "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)

    band = f'<path class="band" d="M{path(line.low)}L{path(line.high, -1)}Z"/>' if line.low else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    dots = "".join(f'<circle class="dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5"/>'
                   for x, y in zip(line.x, line.y, strict=True)) if len(line.x) <= 30 else ""  # fmt: skip
    return f'{band}<path class="line"{dashed} d="M{path(line.y)}"/>{dots}'


def _swatch_line(number: int, name: str) -> str:
    dash = DASHES[number % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = f'<path class="line"{dashed} d="M0 6H30"/>'
    return _swatch(number, drawn, name)


def _swatch(number: int, drawn: str, name: str) -> str:
    return f'<span><svg class="swatch c{number % COLOURS}" viewBox="0 0 30 12" aria-hidden="true">{drawn}</svg>{escaped(name)}</span>'


def _key(swatches: Sequence[str]) -> str:
    return f'<p class="key">{"".join(swatches)}</p>'


def intervals(title: str, rows: Sequence[tuple[str, Number, Number | None, Number | None]]) -> str:
    """One row each (name, value, low, high): a dot from 0 to 100 and, where the ends are known, a line between them."""
    left, room = 125, WIDTH - 125 - 45
    parts = []
    for level in (0, 25, 50, 75, 100):
        x = left + room * level / 100
        parts.append(f'<path class="axis" d="M{x:.1f} 0V{ROW * len(rows)}"/>')
        parts.append(f'<text class="pale" x="{x:.1f}" y="{ROW * len(rows) + 14}" text-anchor="middle">{level}</text>')
    for i, (name, value, low, high) in enumerate(rows):
        y = i * ROW + ROW / 2
        parts.append(f'<text x="0" y="{y + 4:g}">{escaped(shortened(name, left - 5))}</text>')
        if low is not None and high is not None:
            a, b = left + room * low / 100, left + room * high / 100
            parts.append(f'<path class="whisker" d="M{a:.1f} {y - 4:g}v8M{a:.1f} {y:g}H{b:.1f}M{b:.1f} {y - 4:g}v8"/>')
        parts.append(f'<circle class="bar" cx="{left + room * value / 100:.1f}" cy="{y:g}" r="4"/>')
        parts.append(f'<text x="{WIDTH}" y="{y + 4:g}" text-anchor="end">{value:.1f}</text>')
    return figure(
        title, parts, ROW * len(rows) + 18, label="; ".join(f"{name} {value:.1f}" for name, value, *_ in rows)
    )


def signed(title: str, groups: Sequence[tuple[str, Sequence[tuple[int, str, Number]]]]) -> str:
    """Bars to the left and right of zero. groups: of each its name and its bars (colour, name, value)."""
    left, room, thick = 125, WIDTH - 125 - 8, 13
    values = [value for _, bars in groups for _, _, value in bars] + [0.0]
    low, high = min(values), max(values)
    span = (high - low) or 1
    room -= 38 * ((low < 0) + 1)  # for the numbers beside the bars
    zero = left + (38 if low < 0 else 0) + room * -low / span
    parts, y = [], 0.0
    for name, bars in groups:
        parts.append(f'<text x="0" y="{y + thick * len(bars) / 2 + 4:g}">{escaped(shortened(name, left - 5))}</text>')
        for colour, _, value in bars:
            width = room * abs(value) / span
            x = zero - width * (value < 0)
            parts.append(
                f'<g class="c{colour % COLOURS}"><rect class="filled" x="{x:.1f}" y="{y + 1:g}" width="{width:.1f}" height="{thick - 2}"/></g>'
            )
            anchor, at = ("end", x - 4) if value < 0 else ("start", x + width + 4)
            parts.append(
                f'<text class="pale" x="{at:.1f}" y="{y + thick - 2:g}" text-anchor="{anchor}">{signed_number(value)}</text>'
            )
            y += thick
        y += 9
    parts.insert(0, f'<path class="axis" d="M{zero:.1f} 0V{y:g}"/>')
    names = dict((colour, name) for _, bars in groups for colour, name, _ in bars)
    key = _key([_swatch(c, '<rect class="filled" width="30" height="12"/>', name) for c, name in sorted(names.items())])
    return figure(title, parts, y, key)


def signed_number(value: Number) -> str:
    return f"{value:+.2f}".replace("-", "−")


def reliability(title: str, bins: Sequence[tuple[Number, Number, int]], under: str = "") -> str:
    """Bubbles (mean top probability, share right, utterances), whose area is the number of utterances, beside the diagonal."""
    frame = Frame(0, 1, 0, 1, 300)
    drawn = frame.drawn("top probability", "share right", ticks(0, 1), ticks(0, 1))
    drawn.append(f'<path class="rule" d="M{frame.x(0):g} {frame.y(0):g}L{frame.x(1):g} {frame.y(1):g}"/>')
    most = max((count for _, _, count in bins), default=1)
    points = [(frame.x(sure), frame.y(right), 1.5 + 10 * math.sqrt(count / most)) for sure, right, count in bins]
    if points:
        drawn.append(
            '<path class="whisker" opacity=".5" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points) + '"/>'
        )
    drawn += [f'<circle class="bubble" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in points]
    heard = "; ".join(f"{sure:.2f} sure, {right:.2f} right" for sure, right, _ in bins)
    return figure(title, drawn, frame.height, under, heard)


def scatter(
    title: str, labels: Sequence[str], points: Sequence[tuple[Number, Number, int, str]], across: str, up: str
) -> str:
    """Points (x, y, label, what is wrong or ""): right ones are dots, wrong ones crosses that say what when pointed at; each
    class's name stands in the middle of its dots, so that the picture can be read without its colours."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    frame = Frame(min(xs), max(xs), min(ys), max(ys), 350)
    drawn = frame.drawn(across, up, [], [])
    names = []
    for number, label in enumerate(labels):
        here = [(frame.x(x), frame.y(y), wrong) for x, y, of, wrong in points if of == number]
        if not here:
            continue
        # a path of length 0 with round ends is a dot: fourteen bytes instead of sixty
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y, wrong in here if not wrong)
        parts = [f'<path class="right" d="{dots}"/>'] if dots else []
        parts += [f'<path class="wrong" d="M{x - 2.4:.1f} {y - 2.4:.1f}l4.8 4.8m0-4.8l-4.8 4.8"><title>{escaped(wrong)}</title></path>'
                  for x, y, wrong in here if wrong]  # fmt: skip
        drawn.append(f'<g class="c{number % COLOURS}">{"".join(parts)}</g>')
        names.append((_middle([y for _, y, _ in here]), _middle([x for x, _, _ in here]), label))
    drawn += _apart(names, frame)
    right = sum(not wrong for *_, wrong in points)
    key = _key([_swatch(i, '<path class="right" d="M8 6h0"/><path class="wrong" d="M20 3l6 6m0-6l-6 6"/>', label)
                for i, label in enumerate(labels)])  # fmt: skip
    return figure(title, drawn, frame.height, key, f"{right} of {len(points)} utterances are right", "large")


def _middle(values: Sequence[Number]) -> float:
    return sorted(values)[len(values) // 2]


def _apart(names: Sequence[tuple[Number, Number, str]], frame: Frame) -> list[str]:
    """Names at (y, x, text), moved down, or all up, until none lies on another."""
    step, floor = 15.0, frame.height - BOTTOM - 4
    places: list[float] = []
    for y, *_ in sorted(names):
        places.append(max(y, places[-1] + step) if places else max(y, TOP + 12))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], floor - step * (len(places) - 1 - i))
    drawn = []
    for at, (_, x, text) in zip(places, sorted(names), strict=True):
        short = shortened(text, 120)
        x = min(max(x, LEFT + 5 * len(short)), WIDTH - RIGHT - 5 * len(short))
        drawn.append(f'<text class="on" x="{x:.1f}" y="{at:.1f}" text-anchor="middle">{escaped(short)}</text>')
    return drawn
