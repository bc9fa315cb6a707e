"use strict";
const runs = JSON.parse(document.getElementById("data").textContent);
const colors = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"];
const dashes = ["none", "7 3", "2 3"];
const find = (id) => document.getElementById(id);

function add(parent, name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function ticks(low, high) {
  const rough = (high - low) / 5 || 1, base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * base).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(i * step);
  return found;
}

const told = (x) => (+x.toPrecision(6)).toLocaleString("en");

/* Curves with bands: series are {name, color, points: [{x, mean, low, high}]}. */
function chart(svg, series, xLabel, mark) {
  svg.replaceChildren();
  svg.dataset.height ??= svg.getAttribute("height");
  const legend = series.length > 1 ? 16 * series.length : 0;
  const width = +svg.getAttribute("width"), height = +svg.dataset.height + legend;
  svg.setAttribute("height", height);
  const [left, right, top, bottom] = [64, 36, 12 + legend, 42];
  const points = series.flatMap((s) => s.points);
  if (!points.length) return;
  const xs = points.map((p) => p.x), ys = points.flatMap((p) => [p.low, p.high]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(0, ...ys), Math.max(...ys)];
  const px = (x) => left + (x - x0) / (x1 - x0 || 1) * (width - left - right);
  const py = (y) => height - bottom - (y - y0) / (y1 - y0 || 1) * (height - top - bottom);
  for (const y of ticks(y0, y1)) {
    add(svg, "line", {x1: left, x2: width - right, y1: py(y), y2: py(y), stroke: "#eee"});
    add(svg, "text", {x: left - 6, y: py(y) + 4, "text-anchor": "end"}, told(y));
  }
  for (const x of ticks(x0, x1))
    add(svg, "text", {x: px(x), y: height - bottom + 16, "text-anchor": "middle"}, told(x));
  add(svg, "text", {x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, xLabel);
  add(svg, "text", {x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 12 ${(top + height - bottom) / 2})`}, "return");
  series.forEach((s, i) => {
    const edge = [...s.points.map((p) => [p.x, p.high]), ...s.points.toReversed().map((p) => [p.x, p.low])];
    const path = (pairs) => pairs.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
    add(svg, "polygon", {points: path(edge), fill: s.color, opacity: .18});
    add(svg, "polyline", {points: path(s.points.map((p) => [p.x, p.mean])), fill: "none", stroke: s.color,
      "stroke-width": 1.8, "stroke-dasharray": s.dash});
    if (series.length > 1) {
      add(svg, "line", {x1: left + 8, x2: left + 26, y1: 8 + 16 * i, y2: 8 + 16 * i, stroke: s.color,
        "stroke-width": 3, "stroke-dasharray": s.dash});
      add(svg, "text", {x: left + 32, y: 12 + 16 * i}, s.name);
    }
  });
  if (mark) add(svg, "circle", {cx: px(mark.x), cy: py(mark.mean), r: 5, fill: series[0].color, id: "mark"});
}

function drawCurves() {
  const axis = find("axis").value;
  const series = runs.map((run, i) => ({name: run.name, color: colors[i % colors.length],
    dash: dashes[Math.floor(i / colors.length) % dashes.length], points: run.curve.map((p) => ({x: p[axis], mean: p.mean, low: p.low, high: p.high}))}));
  chart(find("curve"), series, find("axis").selectedOptions[0].textContent);
}

/* The table of sensors and motors; kept says which of the weights are not pruned. */
function drawTable(table, weights, kept) {
  const node = find("sensors"), largest = Math.max(1e-9, ...weights.flat().map(Math.abs));
  node.replaceChildren();
  const head = node.createTHead().insertRow();
  for (const name of ["", ...table.columns]) {
    const cell = document.createElement("th");
    cell.textContent = name;
    head.append(cell);
  }
  const body = node.createTBody();
  table.rows.forEach((name, i) => {
    const row = body.insertRow(), lives = weights[i].map((w, j) => w !== 0 && (!kept || kept[i][j]));
    row.insertCell().textContent = name;
    row.className = lives.some(Boolean) ? "read" : "unread";
    weights[i].forEach((w, j) => {
      const cell = row.insertCell(), share = Math.abs(w) / largest;
      if (!lives[j]) { cell.style.background = "#f3f3f3"; return; }
      cell.textContent = (w > 0 ? "+" : "") + w.toFixed(2);
      cell.style.background = w > 0 ? `rgba(214, 60, 50, ${.15 + .8 * share})` : `rgba(40, 100, 190, ${.15 + .8 * share})`;
      if (share > .6) cell.style.color = "#fff";
    });
  });
}

function prune(run) {
  const chosen = run.pruned[+find("k").value];
  const unit = chosen.k === 1 ? run.unit.slice(0, -1) : run.unit;
  find("kept").textContent = `${chosen.k} ${unit}: return ${chosen.mean.toFixed(0)} ` +
    `(${chosen.low.toFixed(0)} … ${chosen.high.toFixed(0)})`;
  const points = run.pruned.map((p) => ({x: p.k, mean: p.mean, low: p.low, high: p.high}));
  const series = [{color: colors[0], dash: dashes[0], points}];
  chart(find("pruned"), series, `${run.unit} kept`, {x: chosen.k, mean: chosen.mean});
  if (run.table) drawTable(run.table, run.table.weights, chosen.kept);
}

function drawHistory(run) {
  const {generations, weights} = run.history, svg = find("history"), names = run.table.rows;
  const [left, cell, wide] = [170, 15, Math.max(3, Math.min(14, 860 / generations.length))];
  svg.setAttribute("width", left + wide * generations.length + 4);
  svg.setAttribute("height", cell * names.length + 4);
  const norms = weights.map((at) => at.map((row) => Math.hypot(...row)));
  const largest = Math.max(1e-9, ...norms.flat());
  names.forEach((name, i) => {
    add(svg, "text", {x: left - 6, y: cell * i + 12, "text-anchor": "end"}, name);
    norms.forEach((at, e) => {
      const fill = at[i] ? `rgba(31, 119, 180, ${.12 + .88 * at[i] / largest})` : "#f3f3f3";
      add(svg, "rect", {x: left + wide * e, y: cell * i, width: wide, height: cell - 1, fill});
    });
  });
  return add(svg, "rect", {x: 0, y: 0, width: wide, height: cell * names.length, fill: "none", stroke: "#d62728",
    "stroke-width": 1.5, visibility: "hidden"});
}

function setUpHistory(run) {
  const frame = drawHistory(run), slider = find("generation"), {generations, weights} = run.history;
  const wide = +frame.getAttribute("width");
  const show = () => {
    find("at").textContent = `generation ${generations[+slider.value]}`;
    frame.setAttribute("x", 170 + wide * slider.value);
    frame.setAttribute("visibility", "visible");
    drawTable(run.table, weights[+slider.value]);
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; find("play").textContent = "▶ play"; };
  slider.addEventListener("input", show);
  find("play").addEventListener("click", () => {
    if (timer) return stop();
    if (+slider.value === generations.length - 1) slider.value = 0;
    find("play").textContent = "❚❚ stop";
    timer = setInterval(() => {
      if (+slider.value === generations.length - 1) return stop();
      slider.value = +slider.value + 1;
      show();
    }, 120);
  });
}

find("axis").addEventListener("change", drawCurves);
drawCurves();
if (runs.length === 1) {
  const [run] = runs;
  if (run.table) drawTable(run.table, run.table.weights);
  if (run.pruned.length) { find("k").addEventListener("input", () => prune(run)); prune(run); }
  if (run.history) setUpHistory(run);
}
