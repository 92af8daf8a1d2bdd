"""Colours and style sheet of a page: light or dark as the reader's system is. No JAX."""

from collections.abc import Sequence

# Twelve each, the earlier the further apart: on their paper all stand out 3:1, and to people with any of the three
# kinds of colour blindness no two are closer than 17 in CIELAB (19 among the first eight): see tests/test_report.py.
LIGHT = (
    "#1166dd", "#dd7711", "#661122", "#aa88bb", "#330077", "#990000",
    "#bb8855", "#889988", "#003355", "#884499", "#006666", "#3399ee",
)  # fmt: skip
DARK = (
    "#0066dd", "#cc8800", "#00eeff", "#885566", "#aa9966", "#aaeebb",
    "#aa3399", "#ffdd44", "#00aaff", "#aa4411", "#ccdd77", "#ff77bb",
)  # fmt: skip
COLOURS = len(LIGHT)
# From low values to high ones: from blue through grey to orange, which all kinds of colour blindness leave apart.
RAMP = ("#0b4fa8", "#5f8fc9", "#8d8d8d", "#d08a3e", "#a84300")
DARK_RAMP = ("#4f9dff", "#6f93c2", "#909090", "#d29a52", "#ff9a3d")

RULES = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6a7076; --line: #dcdfe3; --bar: #3567b0;
  --other: #a9b1ba; --problem: #b3261e; --note: #8a5a00; --ok: #1b7340; --shade: 53 103 176; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --paper: #16181b; --faint: #9aa1a8; --line: #34383d; --bar: #7fa9e8; --other: #5c646d;
    --problem: #ff8a80; --note: #f0b950; --ok: #71cf97; --shade: 70 120 205; }
}
body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
h1, h2, h3 { line-height: 1.25; break-after: avoid; }
p { max-width: 48rem; }
a { color: inherit; }
nav a { margin-right: .9rem; }
ul, ol { list-style: none; padding: 0; margin: 0; }
li { border-top: 1px solid var(--line); padding: .5rem 0; break-inside: avoid; }
li strong { margin-right: .5rem; }
.do, .faint { color: var(--faint); }
.do { display: block; }
.problem { color: var(--problem); }
.note { color: var(--note); }
.ok { color: var(--ok); }
.alarm { border: 2px solid var(--problem); border-radius: .4rem; padding: .5rem .8rem; color: var(--problem); }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; flex: 1 1 18rem; min-width: 0; max-width: 30rem; break-inside: avoid; }
figcaption { font-weight: 600; }
figure.large { max-width: 46rem; }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0; }
svg { width: 100%; height: auto; }
svg text { font-size: 12px; fill: currentColor; }
.bar { fill: var(--bar); }
.other { fill: var(--other); }
svg.swatch { width: 1.8rem; height: .8rem; margin-right: .35rem; }
svg .pale { fill: var(--faint); }
svg .on { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; font-weight: 600; }
.axis { stroke: var(--line); fill: none; }
.rule { stroke: var(--faint); fill: none; stroke-dasharray: 2 3; }
.line { stroke: var(--c); stroke-width: 2; fill: none; }
.band { fill: var(--c); opacity: .18; }
.dot { fill: var(--c); }
.bubble { fill: var(--bar); fill-opacity: .5; stroke: var(--bar); }
.whisker { stroke: var(--bar); stroke-width: 2; fill: none; }
.right { stroke: var(--c); stroke-width: 4.5; stroke-linecap: round; fill: none; opacity: .65; }
.wrong { stroke: var(--c); stroke-width: 1.7; fill: none; }
@media (min-width: 50rem) {
  .large svg:not(.swatch) text { font-size: 7px; }
  .large .axis, .large .on { stroke-width: .5; }
  .large .on { stroke-width: 1.5px; }
  .large g .right { stroke-width: 3; }
  .large g .wrong { stroke-width: 1; }
}
.filled { fill: var(--c); }
.spot { stroke: var(--bar); stroke-width: 3; stroke-linecap: round; fill: none; opacity: .3; }
figure.talk { max-width: 56rem; margin: 1rem 0; }
.turns { display: flex; }
.turns svg { flex: none; }
.turns ol { flex: 1; min-width: 0; }
.turns li { height: 2.75rem; padding: 0; border: 0; font-size: .9rem; line-height: 1.3; }
.turns li > span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
svg .in { font-size: 10px; fill: var(--paper); font-weight: 600; }
.wide { overflow-x: auto; margin: .5rem 0; background: linear-gradient(var(--paper), var(--paper)) right / 1.2rem 100%
  no-repeat local, linear-gradient(to left, var(--line), transparent) right / 1.2rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  overflow-wrap: break-word; }
th:first-child, .words th, .words td { text-align: left; }
tbody th { font-weight: inherit; }
tbody th, thead th:first-child { white-space: normal; min-width: 5rem; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 4rem; }
.words th, .words td { vertical-align: top; }
.chosen { font-weight: 600; }
.cell { background: rgb(var(--shade) / var(--share)); text-align: center; padding: .2rem .4rem; }
.cell small { display: block; color: inherit; }
.stats { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0; }
.stats dt { color: var(--faint); }
.stats dd { margin: 0; }
.stats .value { font-size: 1.6rem; line-height: 1.2; }
pre { white-space: pre-wrap; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; font-size: .85rem; }
pre span { display: inline-block; max-width: 100%; vertical-align: top; }
@media (max-width: 30rem) {
  th, td { padding: .2rem .35rem; font-size: .9rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .wide { overflow: visible; }
  .plots { gap: .8rem; }
  th, td { padding: .1rem .2rem; font-size: 7.5pt; }
  figure.large { max-width: 30rem; }
  td.cell { padding: .1rem; font-size: 7pt; }
  .cell, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def _variables(colours: Sequence[str], name: str = "c") -> str:
    return " ".join(f"--{name}{i}: {colour};" for i, colour in enumerate(colours))


PALETTE = f"""\
:root {{ {_variables(LIGHT)} {_variables(RAMP, "v")} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} {_variables(DARK_RAMP, "v")} }} }}
{" ".join(f".{c}{i} {{ --c: var(--{c}{i}); }}" for c, all in (("c", LIGHT), ("v", RAMP)) for i in range(len(all)))}
"""
STYLE = RULES + PALETTE
