"""Style and script of the report, embedded in the page so that it needs no network."""

STYLE = """
:root { color-scheme: light dark; --bg:#fff; --fg:#1a1c20; --dim:#62676f; --line:#e3e5e8; --card:#f7f8f9;
  --good:#1a7f37; --bad:#c0392b; --warn:#b26a00;
  --c0:#0b62c4; --c1:#d1570a; --c2:#1a7f37; --c3:#8a3ffc; --c4:#c4126b; --c5:#00757f; --c6:#8a6d00; --c7:#5b5f66; }
@media (prefers-color-scheme: dark) { :root { --bg:#14161a; --fg:#e7e9ec; --dim:#9aa1ab; --line:#2c3037;
  --card:#1c1f25;
  --good:#4ac26b; --bad:#ff7b72; --warn:#e3a43c;
  --c0:#6cb0ff; --c1:#ff9d5c; --c2:#5fd17f; --c3:#b794ff; --c4:#ff7ab8; --c5:#4fd0d9; --c6:#d9bd4a; --c7:#a8aeb7; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 24px clamp(12px, 3vw, 40px) 64px; background: var(--bg);
  color: var(--fg); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 24px 0 8px; overflow-wrap: anywhere; } p { margin: 4px 0 12px; color: var(--dim); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px; margin: 20px 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums;
  } .tiles span { color: var(--dim); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.chart { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px;
  position: relative; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 4px; } svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); } svg text { fill: var(--dim); font-size: 12px; }
@media (max-width: 600px) { svg text { font-size: 19px; } }
text.y { text-anchor: end; } text.x { text-anchor: middle; }
.curve { fill: none; stroke: var(--k); stroke-width: 2; stroke-linejoin: round; } circle.curve { fill: var(--k); }
.curve.dashed { stroke-dasharray: 5 4; } .curve.faint { opacity: .3; stroke-width: 1; }
.band { fill: var(--k); opacity: .18; } .cursor { stroke: var(--dim); visibility: hidden; }
.k0{--k:var(--c0)} .k1{--k:var(--c1)} .k2{--k:var(--c2)} .k3{--k:var(--c3)} .k4{--k:var(--c4)} .k5{--k:var(--c5)}
.k6{--k:var(--c6)} .k7{--k:var(--c7)}
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; margin: 6px 0 0;
  font-size: 13px; }
.legend i { display: inline-block; width: 18px; height: 0; border-top: 3px solid var(--k); margin-right: 6px;
  vertical-align: middle; } .legend i.dashed { border-top-style: dashed; }
.legend i.life { --k: var(--c0); } .legend i.save { --k: var(--good); } .legend i.warning { --k: var(--warn); }
.legend i.error { --k: var(--bad); }
output { position: absolute; top: 40px; left: 70px; background: var(--bg); border: 1px solid var(--line);
  border-radius: 6px;
  padding: 4px 8px; font-size: 12px; pointer-events: none; display: none; white-space: pre;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); vertical-align: middle;
  font-variant-numeric: tabular-nums; } th { font-weight: 600; white-space: nowrap; } .n { text-align: right;
  padding-left: 10px; }
.heat td { padding-right: 10px; } .heat img { display: block; width: 300px; image-rendering: pixelated; }
img.entropy { height: 16px; } img.shares { height: 32px; } .bad { color: var(--bad); }
.scale { display: flex; align-items: center; gap: 8px; color: var(--dim); font-size: 12px; margin-bottom: 8px; }
.scale i { width: 160px; height: 10px;
  background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
.confusion td, .confusion th { padding: 4px 8px; } .confusion td:not(.n) { text-align: center; min-width: 40px; }
.hit { background: color-mix(in srgb, var(--good) calc(var(--s) * 60%), transparent); }
.miss { background: color-mix(in srgb, var(--bad) calc(var(--s) * 250%), transparent); }
.timeline { height: 50px; min-width: 480px; } .life { fill: var(--c0); opacity: .6;
  } line.save { stroke: var(--good); }
line.warning { stroke: var(--warn); } line.error { stroke: var(--bad); } line { vector-effect: non-scaling-stroke; }
.events .warning td { color: var(--warn); } .events .error td { color: var(--bad);
  } .events td { overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer;
  } code, .config { font-family: ui-monospace, Menlo, Consolas, monospace; }
.differs td { background: color-mix(in srgb, var(--warn) 18%, transparent); }
"""

SCRIPT = """
for (const svg of document.querySelectorAll("svg[data-curves]")) {
  const data = JSON.parse(svg.dataset.curves), [low, high, left, right] = data.x;
  const out = svg.parentElement.querySelector("output"), cursor = svg.querySelector(".cursor");
  const show = value => data.percent ? (100 * value).toPrecision(4) + " %" : Number(value.toPrecision(4)).toString();
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const at = low + ((event.clientX - box.left) * scale - left) / (right - left) * (high - low);
    let step = null;
    const lines = data.curves.map(curve => {
      const point = curve.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      if (step === null || Math.abs(point[0] - at) < Math.abs(step - at)) step = point[0];
      return curve.name + "  " + show(point[1]);
    });
    const x = left + (step - low) / (high - low || 1) * (right - left);
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); cursor.style.visibility = "visible";
    out.textContent = "step " + Math.round(step) + "\\n" + lines.join("\\n"); out.style.display = "block";
    const onRight = event.clientX - box.left < box.width / 2;
    out.style.left = onRight ? "auto" : "70px"; out.style.right = onRight ? "20px" : "auto";
  });
  svg.addEventListener("pointerleave", () => { out.style.display = "none"; cursor.style.visibility = "hidden"; });
}
"""
