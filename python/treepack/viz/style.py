"""The look of the page."""

CSS = """
:root { color-scheme: light; --ink: #1d2129; --soft: #6b7280; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 32px 64px; max-width: 1240px; color: var(--ink);
  background: var(--paper);
  font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; }
h2 { margin: 40px 0 12px; font-size: 13px; font-weight: 600; letter-spacing: 0.06em;
  text-transform: uppercase; color: var(--soft); }
.facts { margin: 6px 0 0; color: var(--soft); font-variant-numeric: tabular-nums; }
.facts b { color: var(--ink); font-weight: 600; }
.budgets { display: grid; grid-template-columns: max-content 1fr max-content; gap: 8px 14px;
  align-items: center; margin-top: 22px; font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: #eceef2; }
.bar i { display: block; background: #475569; }
.row { position: relative; }
.thumbs { position: relative; height: 112px; }
.thumbs figure { position: absolute; bottom: 0; margin: 0; padding: 0 2px 6px 0; overflow: hidden; }
.thumbs img { display: block; height: 84px; max-width: 100%; object-fit: cover;
  border-radius: 4px; }
.thumbs figcaption { overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  font-size: 12px; line-height: 20px; color: var(--soft); }
.row svg, .mask svg { display: block; width: 100%; height: auto; overflow: visible; }
.axis { font-size: 11px; fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin-top: 10px; color: var(--soft);
  font-size: 13px; }
.legend span::before { content: ""; display: inline-block; width: 11px; height: 11px;
  margin-right: 7px; border-radius: 2px; background: var(--c); }
.columns { display: grid; grid-template-columns: minmax(0, 540px) minmax(0, 1fr); gap: 0 44px; }
aside { margin: 6px 0 14px; font-size: 13px; color: var(--soft); }
.mask svg image { image-rendering: pixelated; }
article { display: grid; grid-template-columns: 4px minmax(0, 1fr); gap: 0 14px;
  margin-bottom: 22px; }
article > i { border-radius: 2px; background: var(--c); }
article h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
article h3 small { margin-left: 8px; font-weight: 400; font-size: 13px; color: var(--soft); }
article p { margin: 3px 0 0; font-size: 13.5px; color: var(--soft); overflow-wrap: anywhere; }
article p b { font-weight: 600; color: var(--c); }
article code { font: 10.5px ui-monospace, monospace; color: #a3aab6; }
aside b { font-weight: 600; }
@media (max-width: 900px) { .columns { grid-template-columns: minmax(0, 1fr); } }
"""
