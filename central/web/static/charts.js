// Curves by uPlot from what the server wrote into the page; colours are the style sheet's, in light and dark.
"use strict";

const corsiaCharts = (() => {
  const drawn = new Map(); // figure -> uPlot
  const COLOURS = ["--accent", "--warn", "--anonymize", "--extract", "--infer", "--bad"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [1, 2], [10, 4]];

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // [[x...], [y of the first curve...], ...] over all places; a place that a curve lacks is null.
  function joined(series) {
    const places = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const columns = series.map((one) => {
      const at = new Map(one.points);
      return places.map((place) => at.get(place) ?? null);
    });
    return [places, ...columns];
  }

  function options(figure, series, width) {
    const soft = colour("--soft"), line = colour("--line");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui" };
    return {
      width, height: 170, cursor: { drag: { x: false, y: false } }, legend: { show: series.length > 1 },
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis, size: 52 }],
      series: [{ label: figure.dataset.x }, ...series.map((one, place) => ({
        label: one.name, stroke: colour(COLOURS[place % COLOURS.length]), width: 2, dash: DASHES[place % DASHES.length],
        points: { show: one.points.length < 60, size: 5 }, spanGaps: true,
      }))],
    };
  }

  function draw(figure) {
    const place = figure.querySelector(".plot");
    const series = JSON.parse(figure.dataset.series || "[]").filter((one) => one.points.length);
    drawn.get(figure)?.destroy();
    drawn.delete(figure);
    if (!place || !series.length || !place.clientWidth) return;
    drawn.set(figure, new uPlot(options(figure, series, place.clientWidth), joined(series), place));
  }

  function drawAll(root) {
    for (const figure of drawn.keys()) if (!figure.isConnected) { drawn.get(figure).destroy(); drawn.delete(figure); }
    for (const figure of root.querySelectorAll("figure.chart[data-series]")) draw(figure);
  }

  let timer = 0;
  function again() {
    clearTimeout(timer);
    timer = setTimeout(() => drawAll(document), 150);
  }
  addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  return { drawAll };
})();
