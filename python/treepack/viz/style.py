"""The look of the pages: light, dark, narrow and on paper."""

from __future__ import annotations

from treepack.viz.colours import DARK, HUES, LIGHT

SHADES = ("strong", "middle", "soft", "faint", "word")

BASE = f"""
:root {{ color-scheme: light dark; {LIGHT.variables()} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK.variables()} }} }}
""" + "".join(
    f".h{n} {{ {' '.join(f'--{shade}: var(--h{n}-{shade});' for shade in SHADES)} }}\n"
    for n in range(len(HUES))
)
BASE += "".join(
    f".{shade} {{ fill: var(--{shade}); background: var(--{shade}); }}\n" for shade in SHADES[:4]
)
BASE += """
.padding { fill: var(--line); background: var(--line); }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 40px 32px 64px; max-width: 1240px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; }
h2 { margin: 40px 0 12px; font-size: 13px; font-weight: 600; letter-spacing: 0.06em;
  text-transform: uppercase; color: var(--quiet); }
h3 { margin: 0; font-size: 15px; font-weight: 600; }
.facts { margin: 6px 0 0; color: var(--quiet); font-variant-numeric: tabular-nums; }
.facts span:not(:last-child)::after { content: "\\00a0\\00a0·\\00a0"; }
.facts b { color: var(--ink); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 12px 0 0; padding: 0;
  list-style: none; color: var(--quiet); font-size: 13px; }
.legend li { display: flex; align-items: center; min-width: 0; }
.key { display: flex; flex: none; margin-right: 8px; border-radius: 3px; overflow: hidden; }
.key i { width: 9px; height: 12px; }
.key i:only-child { width: 14px; }
details { margin-top: 10px; }
summary { width: fit-content; padding: 2px 10px; border: 1px solid var(--line);
  border-radius: 999px; font-size: 13px; color: var(--quiet); cursor: pointer; }
summary:hover { color: var(--ink); }
details[open] > summary { margin-bottom: 12px; }
:focus-visible { outline: 2px solid var(--h0-word); outline-offset: 2px; }
@media (max-width: 600px) { body { padding: 24px 16px 40px; } h1 { font-size: 22px; }
  h2 { margin-top: 32px; } }
@media print { body { padding: 0; max-width: none; } h2, h3 { break-after: avoid; } }
"""
"""What both pages share."""

PACK = """
.budgets { display: grid; gap: 8px 14px; align-items: center;
  grid-template-columns: minmax(0, max-content) minmax(60px, 1fr) max-content; margin-top: 22px;
  font-variant-numeric: tabular-nums; }
.bar { height: 10px; border-radius: 5px; overflow: hidden; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--fill); }
.lane { position: relative; height: 26px; }
.lane.pictures { height: 112px; }
.lane figure { position: absolute; bottom: 0; margin: 0; padding: 0 3px 6px 0; overflow: hidden;
  container-type: inline-size; height: 100%; }
.lane figure > div { position: absolute; inset: auto 3px 6px 0; }
.lane .thumb { height: 82px; }
.lane figcaption { overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  font-size: 12px; line-height: 20px; color: var(--quiet); }
@container (max-width: 34px) { .lane figure > div { display: none; } }
.thumb { display: block; width: 100%; border-radius: 4px; }
.store { position: absolute; }
.trees { display: block; width: 100%; }
.axis { position: relative; height: 18px; margin-top: 3px; font-size: 11px; line-height: 18px;
  color: var(--quiet); font-variant-numeric: tabular-nums; }
.axis span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.axis span:first-child { transform: none; }
.axis .last { transform: translateX(-100%); }
.columns { display: grid; grid-template-columns: minmax(0, 540px) minmax(0, 1fr); gap: 0 44px;
  align-items: start; }
.map { position: relative; max-width: 540px; padding: 12px 0 0 12px; }
.map svg { position: absolute; top: 0; left: 12px; width: calc(100% - 12px); height: 8px; }
.map svg.down { top: 12px; left: 0; width: 8px; height: calc(100% - 12px); }
.map img { display: block; width: 100%; height: auto; aspect-ratio: 1; border-radius: 2px;
  overflow: hidden; background: var(--card); font-size: 12px; color: var(--quiet); }
.map img.exact { image-rendering: pixelated; }
.note { margin: 10px 0 14px; font-size: 13px; color: var(--quiet); }
.note b { font-weight: 600; }
article { display: grid; grid-template-columns: 4px minmax(0, 1fr); gap: 0 14px;
  margin-bottom: 20px; }
article > i { border-radius: 2px; }
article h3 small { margin-left: 8px; font-weight: 400; font-size: 13px; color: var(--quiet); }
article .thumb { float: right; width: 84px; height: 63px; margin: 2px 0 8px 14px; }
article p { margin: 3px 0 0; font-size: 13.5px; color: var(--quiet); }
article p b { font-weight: 600; color: var(--word); }
article code { font: 10.5px ui-monospace, monospace; color: var(--quiet); }
.tag { padding: 0 6px; border: 1px solid var(--line); border-radius: 4px; font-size: 11.5px; }
@media (max-width: 900px) { .columns { grid-template-columns: minmax(0, 1fr); }
  .axis span:not(:nth-child(2n + 1)) { display: none; } }
@media (max-width: 600px) { .lane { display: none; }
  .axis span:not(:nth-child(4n + 1)) { display: none; } }
@media print { article { break-inside: avoid; } .columns { display: block; } }
"""
"""The page of a row."""

SIMULATION = """
.advice { margin: 0; padding: 0; list-style: none; display: grid; gap: 10px; }
.advice li { padding: 12px 16px; border-left: 4px solid var(--h0-strong); border-radius: 4px;
  background: var(--card); }
.advice .raise, .advice .lower { border-color: var(--h2-strong); }
.advice .oversize, .advice .unmeasured { border-color: var(--h1-strong); }
.charts { display: grid; gap: 32px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.charts section { min-width: 0; }
.charts h3, .table h3 { margin-bottom: 8px; font-size: 14px; }
.charts svg { display: block; width: 100%; height: auto; }
.charts text { font-size: 11px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.charts .legend { margin-top: 6px; }
.line { fill: none; stroke: var(--strong); stroke-width: 2; }
.again { stroke-dasharray: 5 3; }
.key .again { background: repeating-linear-gradient(var(--strong) 0 4px, transparent 4px 6px); }
.grid { stroke: var(--line); }
.mark { stroke: var(--quiet); stroke-dasharray: 3 3; }
.tables, .tables details > div { display: flex; flex-wrap: wrap; gap: 28px 64px; }
.tables details { flex-basis: 100%; margin: 0; }
.table { max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; }
th { font-weight: 500; font-size: 13px; color: var(--quiet); vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
@media (max-width: 600px) { .charts { grid-template-columns: minmax(0, 1fr); }
  thead { display: none; } .table { flex-basis: 100%; } table, tbody { display: block; }
  tbody tr { display: grid; padding: 8px 0; grid-template-columns: minmax(0, 1fr); }
  td { display: flex; justify-content: space-between; gap: 16px; padding: 1px 0;
    white-space: normal; }
  td::before { content: attr(data-name); color: var(--quiet); font-size: 13px; } }
@media print { section { break-inside: avoid; } .table { overflow: visible; } }
"""
"""The page of a simulation."""
