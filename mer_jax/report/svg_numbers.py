"""Plots of predicted numbers and probabilities: against the target, on the map, precision over recall. No JAX."""

import itertools
import math
from collections.abc import Sequence

from mer_jax.report.html import WIDTH, figure, ticks
from mer_jax.report.style import RAMP
from mer_jax.report.svg import BOTTOM, LEFT, Frame, Number, key

MARGIN = 40  # of the histograms above and beside a plot
BINS = 24
LAYERS = 30  # paths that the dots of a plot are spread over: where dots of several lie, they are darker
MOST_DOTS = 3000
NEAR = 0.4  # units of the drawing: a vertex that is nearer to the last one is left out


def against(
    title: str, points: Sequence[tuple[Number, Number]], ends: tuple[Number, Number], across: str, up: str
) -> str:
    """Points (x, y) about the line where both are the same, with histograms of all x above and all y beside. ends: of
    both axes, further where points lie further. Of many points evenly drawn ones are shown."""
    xs, ys = ([float(point[i]) for point in points] for i in (0, 1))
    low, high = min(ends[0], *xs, *ys), max(ends[1], *xs, *ys)
    top, right = 24 + MARGIN, 12 + MARGIN
    side = WIDTH - LEFT - right
    frame = Frame(low, high, low, high, top + side + BOTTOM, top, right)
    levels = ticks(low, high)
    drawn = frame.axes(across, up, levels, levels)
    drawn.append(f'<path class="rule" d="M{frame.x(low):g} {frame.y(low):g}L{frame.x(high):g} {frame.y(high):g}"/>')
    step = max(1, math.ceil(len(points) / MOST_DOTS))
    shown = [f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in zip(xs[::step], ys[::step], strict=True)]
    layers = (shown[i::LAYERS] for i in range(min(LAYERS, len(shown))))
    drawn += [f'<path class="spot" d="{"".join(layer)}"/>' for layer in layers]
    drawn += [_above(frame, _histogram(xs, low, high)), _beside(frame, _histogram(ys, low, high))]
    heard = f"{len(points)} utterances; {across} from {min(xs):.2f} to {max(xs):.2f}, {up} from {min(ys):.2f} to "
    return figure(title, drawn, frame.height, label=f"{heard}{max(ys):.2f}")


def _histogram(values: Sequence[Number], low: Number, high: Number) -> list[float]:
    """The heights of BINS bars, as shares of the highest."""
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / ((high - low) or 1) * BINS))] += 1
    return [count / max(counts) for count in counts]


def _above(frame: Frame, heights: Sequence[float]) -> str:
    """Bars that stand on the top of the plot."""
    width, path = (WIDTH - LEFT - frame.right) / BINS, []
    for i, height in enumerate(heights):
        if height:
            size = (MARGIN - 6) * height
            path.append(f"M{LEFT + i * width + 0.5:.1f} {frame.top - 2:g}v{-size:.1f}h{width - 1:.1f}v{size:.1f}z")
    return f'<path class="bar" d="{"".join(path)}"/>'


def _beside(frame: Frame, heights: Sequence[float]) -> str:
    """Bars that lie at the right of the plot."""
    bottom, left, path = frame.height - BOTTOM, WIDTH - frame.right + 2, []
    width = (bottom - frame.top) / BINS
    for i, height in enumerate(heights):
        if height:
            size = (MARGIN - 6) * height
            path.append(f"M{left:g} {bottom - i * width - 0.5:.1f}h{size:.1f}v{1 - width:.1f}h{-size:.1f}z")
    return f'<path class="bar" d="{"".join(path)}"/>'


def coloured(
    title: str,
    points: Sequence[tuple[Number, Number, Number]],
    ends: tuple[Number, Number],
    axes: tuple[str, str],
) -> str:
    """Points (x, y, value), coloured by where the value lies between the ends. axes: their names, across and up."""
    xs, ys = [x for x, *_ in points], [y for _, y, _ in points]
    frame = Frame(min(xs), max(xs), min(ys), max(ys), 350)
    drawn, steps = frame.axes(*axes, [], []), len(RAMP)
    step_of = [min(steps - 1, max(0, int((v - ends[0]) / (ends[1] - ends[0]) * steps))) for *_, v in points]
    for step in range(steps):
        here = [(x, y) for (x, y, _), of in zip(points, step_of, strict=True) if of == step]
        dots = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in here)
        drawn.append(f'<g class="v{step}"><path class="right" d="{dots}"/></g>' if here else "")
    bounds = [ends[0] + (ends[1] - ends[0]) * i / steps for i in range(steps + 1)]
    names = [f"{low:.3g} to {high:.3g}".replace("-", "−") for low, high in itertools.pairwise(bounds)]
    legend = key(((i, ('<circle class="filled" cx="15" cy="6" r="5"/>', name)) for i, name in enumerate(names)), "v")
    return figure(title, drawn, frame.height, legend, f"{len(points)} utterances", "large")


def precision_recall(
    title: str, recall: Sequence[Number], precision: Sequence[Number], prevalence: Number, under: str = ""
) -> str:
    """Precision over recall as a step function, from the highest threshold on, and the line of what guessing has."""
    frame = Frame(0, 1, 0, 1, 220)
    drawn = frame.axes("recall", "precision", ticks(0, 1), ticks(0, 1))
    level = frame.y(prevalence)
    drawn.append(f'<path class="rule" d="M{frame.x(0):g} {level:.1f}H{frame.x(1):g}"/>')
    if len(recall):
        x, y = frame.x(0), frame.y(precision[0])
        path = [f"M{x:.1f} {y:.1f}"]
        for i, (across, up) in enumerate(zip(map(frame.x, recall), map(frame.y, precision), strict=True)):
            if abs(across - x) + abs(up - y) >= NEAR or i == len(recall) - 1:
                path.append(f"V{up:.1f}H{across:.1f}")
                x, y = across, up
        drawn.append(f'<g class="c0"><path class="line" d="{"".join(path)}"/></g>')
    heard = f"guessing has a precision of {prevalence:.2f}"
    return figure(title, drawn, frame.height, under, heard)
