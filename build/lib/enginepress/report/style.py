"""The style sheet of the HTML report, for light and dark screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2128; --soft: #5b6572; --line: #dde2e8;
  --bar: #3b6fd4; --track: #eef1f5; --good: #1a7f4b; --goodbg: #e3f5ea; --bad: #b42318; --badbg: #fdeae8;
  --mark: #a15c00; --ins: #cdeed8; --del: #fbd5d1;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --card: #1d232a; --ink: #e6eaf0; --soft: #98a3b1; --line: #313a45;
    --bar: #6d9bf1; --track: #262d36; --good: #5fd08f; --goodbg: #173526; --bad: #ff8d80; --badbg: #40201d;
    --mark: #f0b45b; --ins: #1f4a32; --del: #5a2823;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 980px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 17px; margin: 0 0 12px; }
h3 { font-size: 14px; font-weight: 600; margin: 18px 0 4px; color: var(--soft); }
section, header {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin-top: 16px;
}
header { border-left: 8px solid var(--good); }
header.failed { border-left-color: var(--bad); }
.top { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
.top p { flex-basis: 100%; margin: 2px 0 0; color: var(--soft); }
.badge { font-weight: 700; padding: 3px 12px; border-radius: 99px; background: var(--goodbg); color: var(--good); }
.failed .badge, .badge.no { background: var(--badbg); color: var(--bad); }
.figures { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0 0; padding: 0; list-style: none; }
.figures li {
  flex: 1 1 130px; border: 1px solid var(--line); border-radius: 8px; padding: 9px 12px; color: var(--soft); font-size: 13px;
}
.figures b { display: block; font-size: 22px; font-weight: 650; line-height: 1.25; color: var(--ink); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 7px 10px 7px 0; border-top: 1px solid var(--line); }
tr:first-child > th, tr:first-child > td { border-top: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
h1, td, pre, li, p { overflow-wrap: anywhere; unicode-bidi: isolate; }
td.mark { width: 34px; font-weight: 700; color: var(--good); }
tr.no td.mark, tr.no .measured { color: var(--bad); font-weight: 700; }
.checks td:nth-child(3) { width: 24%; }
.checks td:nth-child(4) { width: 19%; }
.detail { color: var(--soft); font-size: 13px; }
tr.no .detail { color: var(--ink); }
.facts th { width: 210px; font-weight: 500; color: var(--soft); }
.facts td { font-family: var(--mono); font-size: 13px; white-space: pre-wrap; }
pre {
  margin: 0; padding: 10px 12px; border: 1px solid var(--line); border-radius: 8px; background: var(--page);
  white-space: pre-wrap; font: 13.5px/1.55 var(--mono); max-height: 420px; overflow: auto;
}
.prompt { border-top: 1px solid var(--line); margin-top: 18px; padding-top: 16px; }
.prompt:first-of-type { border: 0; margin: 0; padding: 0; }
.prompt .head { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; color: var(--soft); font-size: 13px; }
.prompt .head b { color: var(--ink); font-size: 15px; }
ins, del { border-radius: 3px; padding: 0 1px; text-decoration: none; }
ins { background: var(--ins); }
del { background: var(--del); }
.note { color: var(--soft); font-size: 13px; margin: 8px 0 12px; }
svg { width: 100%; height: auto; display: block; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .tick { fill: var(--soft); font-size: 12px; }
svg .track { fill: var(--track); }
svg .bar { fill: var(--bar); }
svg .bar.bad { fill: var(--bad); }
svg .axis { stroke: var(--line); }
svg .limit { stroke: var(--ink); stroke-width: 3; }
svg .mark { stroke: var(--mark); stroke-dasharray: 4 3; }
svg .marked { fill: var(--mark); font-size: 12px; }
@media print { section, header { break-inside: avoid; } pre { max-height: none; } }
"""
