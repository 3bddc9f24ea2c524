// The dashboard's own script: draws curves, follows the event stream, refreshes the sections that changed.
// Text comes from the server already escaped, or is set by textContent; no markup is built from data here.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300, HEIGHT = 130, LEFT = 40, RIGHT = 8, TOP = 10, BOTTOM = 18;
const REFRESH_MS = 700, IDLE_MS = 10000;

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function range(values) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
  return [low, high];
}

function draw(figure) {
  const points = JSON.parse(figure.dataset.points);
  if (!points.length) return;
  const [x0, x1] = points.length > 1 ? range(points.map((p) => p[0])) : [points[0][0] - 1, points[0][0] + 1];
  const [y0, y1] = range(points.map((p) => p[1]));
  const x = (v) => LEFT + (v - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
  const last = points[points.length - 1];
  const label = `${figure.dataset.name}: ${points.length} rounds, now ${last[1].toPrecision(4)}`;
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(
    node("path", { class: "axis", fill: "none", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }),
    node("text", { x: LEFT - 4, y: y(y1) + 3, "text-anchor": "end" }, y1.toPrecision(3)),
    node("text", { x: LEFT - 4, y: y(y0) + 3, "text-anchor": "end" }, y0.toPrecision(3)),
    node("text", { x: x(points[0][0]), y: HEIGHT - 5, "text-anchor": "middle" }, String(points[0][0])),
    node("text", { x: x(last[0]), y: HEIGHT - 5, "text-anchor": "middle" }, String(last[0])),
    node("polyline", { class: "curve", points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }),
  );
  for (const p of points) svg.append(node("circle", { class: "dot", cx: x(p[0]), cy: y(p[1]), r: 2.5 }));
  figure.querySelector("svg")?.remove();
  figure.append(svg);
}

function drawAll(root) {
  for (const figure of root.querySelectorAll("figure.chart")) draw(figure);
}

const live = document.getElementById("live");
function tell(state, text) {
  if (live.dataset.state === state) return;
  live.dataset.state = state;
  live.textContent = text;
}

const shown = new Map(); // section id -> the server's markup that is shown
for (const section of document.querySelectorAll("[data-live]")) shown.set(section.id, section.innerHTML);

let refreshing = false, again = false;
async function refresh() {
  if (refreshing) { again = true; return; }
  refreshing = true;
  try {
    const answer = await fetch("/", { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (!old || shown.get(fresh.id) === fresh.innerHTML || old.contains(document.activeElement)) continue;
      shown.set(fresh.id, fresh.innerHTML);
      old.replaceChildren(...fresh.childNodes);
      drawAll(old);
    }
  } catch {
    tell("off", "not connected");
  } finally {
    refreshing = false;
    if (again) { again = false; soon(); }
  }
}

let timer = 0;
function soon() {
  if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, REFRESH_MS);
}

drawAll(document);
const events = new EventSource("/api/v1/events");
events.onopen = () => { tell("on", "live"); soon(); };
events.onerror = () => tell("off", "not connected");
events.onmessage = soon;
setInterval(soon, IDLE_MS);
