"""Plots of a report, as inline SVG: curves with bands, points, intervals, reliability, signed bars. No JAX."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from mer_jax.report.html import ROW, WIDTH, escaped, figure, shortened, ticks
from mer_jax.report.style import COLOURS

Number = int | float
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 24, 38
MAX_DOTS = 30  # on a line, whose points are then marked
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
    """Axes: `x` and `y` turn values into a plot's units. top, right: room above and beside them."""

    low_x: Number
    high_x: Number
    low_y: Number
    high_y: Number
    height: Number
    top: Number = TOP
    right: Number = RIGHT

    def x(self, value: Number) -> float:
        share = (value - self.low_x) / ((self.high_x - self.low_x) or 1)
        return LEFT + (WIDTH - LEFT - self.right) * (share if self.high_x > self.low_x else 0.5)

    def y(self, value: Number) -> float:
        share = (value - self.low_y) / ((self.high_y - self.low_y) or 1)
        return self.top + (self.height - self.top - BOTTOM) * (1 - (share if self.high_y > self.low_y else 0.5))

    def axes(self, across: str, up: str, places: Sequence[Number], levels: Sequence[Number]) -> list[str]:
        """Grid, numbers and names of the axes. places, levels: the numbers along x and y."""
        bottom, right = self.height - BOTTOM, WIDTH - self.right
        parts = [f'<path class="axis" d="M{LEFT} {self.top}V{bottom:g}H{right}"/>']
        for level in levels:
            parts.append(f'<path class="axis" d="M{LEFT} {self.y(level):.1f}H{right}"/>')
            parts.append(_text(LEFT - 5, self.y(level) + 4, f"{level:g}", "end"))
        parts += [_text(self.x(place), bottom + 15, f"{place:g}", "middle") for place in places]
        parts.append(_text(right, bottom + (32 if places else 15), across, "end"))
        parts.append(_text(0, 12, up))
        return parts


def _text(x: Number, y: Number, words: str, anchor: str = "start", kind: str = "pale") -> str:
    class_ = f' class="{kind}"' if kind else ""
    return f'<text{class_} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(words)}</text>'


def curves(
    title: str, lines: Sequence[Line], across: str, up: str, *, integers: bool = False, marks: Sequence[Number] = ()
) -> str:
    """Lines over a common axis. integers: x are integers. marks: x that are worth a tick of their own below the
    curves."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for row in (line.y, line.low, line.high) for y in row]
    spread = max(ys) - min(ys) or abs(max(ys)) or 1
    low, high = min(ys) - 0.05 * spread, max(ys) + 0.05 * spread
    frame = Frame(min(xs), max(xs), low, high, 220)
    drawn = frame.axes(across, up, ticks(min(xs), max(xs), 6, integers), ticks(low, high, 4))
    drawn += [f'<g class="c{i % COLOURS}">{_line(frame, line, _dash(i))}</g>' for i, line in enumerate(lines)]
    bottom = frame.height - BOTTOM
    drawn += [f'<path class="whisker" d="M{frame.x(mark):.1f} {bottom:g}v-7"/>' for mark in marks]
    heard = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines if line.y)
    swatches = [(f'<path class="line"{_dash(i)} d="M0 6H30"/>', line.name) for i, line in enumerate(lines)]
    return figure(title, drawn, frame.height, key(enumerate(swatches)) if len(lines) > 1 else "", heard)


def _dash(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _line(frame: Frame, line: Line, dash: str) -> str:
    def path(ys: Sequence[Number], order: int = 1) -> str:
        points = list(zip(line.x, ys, strict=True))[::order]
        return "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)

    band = f'<path class="band" d="M{path(line.low)}L{path(line.high, -1)}Z"/>' if line.low else ""
    places = zip(line.x, line.y, strict=True) if len(line.x) <= MAX_DOTS else ()
    dots = "".join(f'<circle class="dot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5"/>' for x, y in places)
    return f'{band}<path class="line"{dash} d="M{path(line.y)}"/>{dots}'


def key(swatches: Iterable[tuple[int, tuple[str, str]]], colours: str = "c") -> str:
    """What the colours stand for. swatches: a colour, an SVG drawing in it, and its name; colours: of which row of the
    style sheet, c of names or v of values."""
    view = 'viewBox="0 0 30 12" aria-hidden="true"'
    parts = [
        f'<span><svg class="swatch {colours}{colour % COLOURS}" {view}>{drawing}</svg>{escaped(name)}</span>'
        for colour, (drawing, name) in swatches
    ]
    return f'<p class="key">{"".join(parts)}</p>'


def intervals(
    title: str,
    rows: Sequence[tuple[str, Number, Number | None, Number | None]],
    levels: Sequence[Number] = (0, 25, 50, 75, 100),
    digits: int = 1,
) -> str:
    """One row each (name, value, low, high): a dot and, where the ends are known, a line between them. levels: what is
    marked, from end to end; digits: of a value behind the point."""
    left, room = 125, WIDTH - 125 - 45

    def place(value: Number) -> float:
        return left + room * (value - levels[0]) / (levels[-1] - levels[0])

    parts = []
    for level in levels:
        x = place(level)
        parts.append(f'<path class="axis" d="M{x:.1f} 0V{ROW * len(rows)}"/>')
        parts.append(_text(x, ROW * len(rows) + 14, f"{level:g}".replace("-", "−"), "middle"))
    for i, (name, value, low, high) in enumerate(rows):
        y = i * ROW + ROW / 2
        parts.append(_text(2, y + 4, shortened(name, left - 5), kind=""))
        if low is not None and high is not None:
            a, b = place(low), place(high)
            parts.append(f'<path class="whisker" d="M{a:.1f} {y - 4:g}v8M{a:.1f} {y:g}H{b:.1f}M{b:.1f} {y - 4:g}v8"/>')
        parts.append(f'<circle class="bar" cx="{place(value):.1f}" cy="{y:g}" r="4"/>')
        parts.append(_text(WIDTH, y + 4, f"{value:.{digits}f}".replace("-", "−"), "end", kind=""))
    heard = "; ".join(f"{name} {value:.{digits}f}" for name, value, *_ in rows)
    return figure(title, parts, ROW * len(rows) + 18, label=heard)


def levels_of(values: Sequence[Number]) -> list[float]:
    """Round numbers about all of the values, for `intervals`."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1
    inner = ticks(low - 0.02 * spread, high + 0.02 * spread, 4)
    step = inner[1] - inner[0] if len(inner) > 1 else spread
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def signed_bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[int, str, Number]]]]) -> str:
    """Bars to the left and right of zero. groups: of each its name and its bars (colour, name, value)."""
    left, room, thick = 125, WIDTH - 125 - 8, 13
    values = [value for _, bars in groups for _, _, value in bars] + [0.0]
    low, high = min(values), max(values)
    span = (high - low) or 1
    room -= 38 * ((low < 0) + 1)  # for the numbers beside the bars
    zero = left + (38 if low < 0 else 0) + room * -low / span
    parts, y = [], 0.0
    for name, bars in groups:
        parts.append(_text(2, y + thick * len(bars) / 2 + 4, shortened(name, left - 5), kind=""))
        for colour, _, value in bars:
            width = room * abs(value) / span
            x = zero - width * (value < 0)
            place = f'x="{x:.1f}" y="{y + 1:g}" width="{width:.1f}" height="{thick - 2}"'
            parts.append(f'<g class="c{colour % COLOURS}"><rect class="filled" {place}/></g>')
            anchor, end = ("end", x - 4) if value < 0 else ("start", x + width + 4)
            parts.append(_text(end, y + thick - 2, signed_number(value), anchor))
            y += thick
        y += 9
    parts.insert(0, f'<path class="axis" d="M{zero:.1f} 0V{y:g}"/>')
    names = {colour: name for _, bars in groups for colour, name, _ in bars}
    drawing = '<rect class="filled" width="30" height="12"/>'
    return figure(title, parts, y, key((colour, (drawing, name)) for colour, name in sorted(names.items())))


def signed_number(value: Number) -> str:
    return f"{value:+.2f}".replace("-", "−")


def reliability(
    title: str,
    bins: Sequence[tuple[Number, Number, int]],
    under: str = "",
    across: str = "top probability",
    up: str = "share right",
) -> str:
    """Bubbles beside the diagonal, whose area is the number of utterances. bins: mean top probability, share right,
    utterances."""
    frame = Frame(0, 1, 0, 1, 300)
    drawn = frame.axes(across, up, ticks(0, 1), ticks(0, 1))
    drawn.append(f'<path class="rule" d="M{frame.x(0):g} {frame.y(0):g}L{frame.x(1):g} {frame.y(1):g}"/>')
    most = max((count for _, _, count in bins), default=1)
    points = [(frame.x(sure), frame.y(right), 1.5 + 10 * math.sqrt(count / most)) for sure, right, count in bins]
    if points:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
        drawn.append(f'<path class="whisker" opacity=".5" d="M{path}"/>')
    drawn += [f'<circle class="bubble" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in points]
    heard = "; ".join(f"{sure:.2f} sure, {right:.2f} right" for sure, right, _ in bins)
    return figure(title, drawn, frame.height, under, heard)


def scatter(
    title: str, labels: Sequence[str], points: Sequence[tuple[Number, Number, int, str]], across: str, up: str
) -> str:
    """Points (x, y, number of the label, what is wrong or ""): right ones are dots, wrong ones crosses that say what
    when pointed at. Each label's name stands in the middle of its points, so that the picture can be read without its
    colours."""
    xs, ys = [x for x, *_ in points], [y for _, y, *_ in points]
    frame = Frame(min(xs), max(xs), min(ys), max(ys), 350)
    drawn = frame.axes(across, up, [], [])
    names = []
    for number, label in enumerate(labels):
        here = [(frame.x(x), frame.y(y), wrong) for x, y, label_of, wrong in points if label_of == number]
        if not here:
            continue
        # A path of length 0 with round ends is a dot: fourteen bytes instead of sixty.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y, wrong in here if not wrong)
        parts = [f'<path class="right" d="{dots}"/>'] if dots else []
        parts += [_cross(x, y, wrong) for x, y, wrong in here if wrong]
        drawn.append(f'<g class="c{number % COLOURS}">{"".join(parts)}</g>')
        names.append((_middle([y for _, y, _ in here]), _middle([x for x, _, _ in here]), label))
    drawn += _names_apart(names, frame)
    drawing = '<path class="right" d="M8 6h0"/><path class="wrong" d="M20 3l6 6m0-6l-6 6"/>'
    legend = key((i, (drawing, label)) for i, label in enumerate(labels))
    right = sum(not wrong for *_, wrong in points)
    return figure(title, drawn, frame.height, legend, f"{right} of {len(points)} utterances are right", "large")


def _cross(x: float, y: float, wrong: str) -> str:
    path = f"M{x - 2.4:.1f} {y - 2.4:.1f}l4.8 4.8m0-4.8l-4.8 4.8"
    return f'<path class="wrong" d="{path}"><title>{escaped(wrong)}</title></path>'


def _middle(values: Sequence[Number]) -> float:
    return sorted(values)[len(values) // 2]


def _names_apart(names: Sequence[tuple[Number, Number, str]], frame: Frame) -> list[str]:
    """Names at (y, x, text), moved down, or all up, until none lies on another."""
    step, floor = 15.0, frame.height - BOTTOM - 4
    places: list[float] = []
    for y, *_ in sorted(names):
        places.append(max(y, places[-1] + step) if places else max(y, TOP + 12))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], floor - step * (len(places) - 1 - i))
    drawn = []
    for place, (_, x, text) in zip(places, sorted(names), strict=True):
        short = shortened(text, 120)
        x = min(max(x, LEFT + 5 * len(short)), WIDTH - RIGHT - 5 * len(short))
        drawn.append(_text(x, place, short, "middle", "on"))
    return drawn
