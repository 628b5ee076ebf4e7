"""The looks of the report, in both colour schemes."""

CSS = """
:root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1d2129;--soft:#5d6470;--line:#e3e1dc;
  --grid:#edebe6;--train:#2f62b5;--val:#b4501e;--good:#2f8f5b;--bad:#c2452d;--early:#7a3fb0;
  --late:#d98a00}
@media(prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1c2027;--ink:#e7e9ee;--soft:#a2a9b6;
  --line:#30353f;--grid:#292e37;--train:#7fb0ff;--val:#ff9d66;--good:#4fbf83;--bad:#f0765d;
  --early:#c39bff;--late:#ffc14d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
  font:16px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 16px 48px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:0 0 4px}
h3{font-size:.95rem;margin:0 0 4px;font-weight:600}
p{margin:0 0 12px;max-width:70ch}
.soft,figcaption,caption{color:var(--soft);font-size:.875rem}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px;
  margin-top:16px}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(138px,1fr));gap:10px;margin:18px 0 0}
dl.facts div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px}
dl.facts dt{color:var(--soft);font-size:.8rem}
dl.facts dd{margin:0;font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.25}
dl.facts dd small{display:block;font-size:.78rem;font-weight:400;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:18px}
figure{margin:0;min-width:0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--soft);font:12.5px system-ui,"Segoe UI",Roboto,sans-serif}
svg .grid{stroke:var(--grid)}
svg .axis{stroke:var(--line)}
svg polyline{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
ul.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:6px 0 0;padding:0;
  font-size:.85rem}
ul.legend li{display:flex;align-items:center;gap:6px;font-variant-numeric:tabular-nums}
ul.legend svg{width:26px;height:10px;flex:none}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.875rem}
caption{text-align:left;padding-bottom:6px}
th{font-weight:600;text-align:left;color:var(--soft)}
th,td{padding:4px 8px}
td.n,th.n{text-align:right}
table.rows tr+tr td,table.rows tr+tr th{border-top:1px solid var(--line)}
table.confusion{border-spacing:2px;border-collapse:separate}
table.confusion td{min-width:2.3rem;height:2.1rem;text-align:center;padding:0 4px;border-radius:5px}
table.confusion th{padding:0 6px;max-width:8rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
table.confusion thead th{text-align:center;color:var(--ink)}
table.confusion tbody th{text-align:right;color:var(--ink)}
table.confusion .zero{color:var(--soft);opacity:.5}
.bar{display:inline-block;width:84px;height:8px;border-radius:4px;background:var(--grid);
  vertical-align:middle;margin-left:8px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--good)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:14px 12px;
  margin-top:12px}
.sheet figcaption{font-size:.8rem;line-height:1.3;margin-top:4px;overflow-wrap:anywhere;color:var(--ink)}
.sheet figcaption span{color:var(--soft)}
.sheet img,.filters img{display:block;width:100%;image-rendering:pixelated;border-radius:6px;
  border:1px solid var(--line)}
.filters{display:grid;grid-template-columns:repeat(auto-fill,minmax(58px,1fr));gap:8px;margin-top:12px;
  max-width:760px}
.heat{width:min(100%,560px);image-rendering:pixelated;border:1px solid var(--line);border-radius:6px;
  display:block}
details{margin-top:12px}
summary{cursor:pointer;color:var(--soft);font-size:.9rem;padding:4px 0}
summary:focus-visible{outline:2px solid var(--train);outline-offset:2px;border-radius:4px}
pre{overflow-x:auto;font:12.5px/1.45 ui-monospace,Menlo,Consolas,monospace;background:var(--paper);
  padding:12px;border-radius:8px;border:1px solid var(--line)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:24px;
  align-items:start}
.wide{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}
.wide>*{max-width:100%}
.noisy svg polyline{stroke-width:1.5}
@media(max-width:480px){table.confusion td{min-width:1.55rem;height:1.7rem;padding:0;font-size:.72rem}
  table.confusion th{padding:0 2px;font-size:.75rem;max-width:4rem}.bar{display:none}
  .sheet{grid-template-columns:repeat(auto-fill,minmax(88px,1fr))}
  main{padding:18px 10px 32px}section{padding:14px 12px}h1{font-size:1.4rem}}
@media print{section{break-inside:avoid}}
"""
