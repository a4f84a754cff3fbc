// Score by density on a canvas: points that can be pointed at and opened, or, of many, how many lie where.
"use strict";

document.querySelectorAll("[data-scatter]").forEach(async (figure) => {
  const canvas = figure.querySelector("canvas"), tip = figure.querySelector(".tip"), note = figure.querySelector("[role=status]");
  let data;
  try {
    const answer = await fetch(figure.dataset.scatter);
    if (!answer.ok) throw new Error("the service answered " + answer.status);
    data = await answer.json();
  } catch (error) {
    note.textContent = "not loaded: " + error.message;
    return;
  }
  if (data.reason) {
    note.textContent = data.reason;
    canvas.hidden = true;
    return;
  }
  note.hidden = true;

  const points = data.bins ? null : decode(data);
  const [x0, x1] = data.density_range || [Math.floor(Math.min(...points.x)), Math.ceil(Math.max(...points.x) + 1e-9)];
  const [y0, y1] = data.score_range || [Math.min(...points.y) < -0.3 ? -1 : -0.3, 1];
  const left = 34, bottom = 34, top = 8, right = 8;
  let width, height, place, cells;

  function decode({ feature, density, score }) {
    let at = 0;
    return { feature: feature.map((step) => (at += step)), x: density.map((v) => v / 100), y: score.map((v) => v / 1000) };
  }

  function colour(name) {
    const probe = document.createElement("i");
    probe.className = "probe-" + name;
    figure.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function draw() {
    const box = canvas.parentElement.clientWidth;
    width = box;
    height = Math.round(Math.min(380, Math.max(240, box * 0.56)));
    const dense = devicePixelRatio || 1;
    canvas.width = width * dense;
    canvas.height = height * dense;
    const g = canvas.getContext("2d");
    g.scale(dense, dense);
    place = {
      x: (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right),
      y: (v) => top + ((y1 - v) / (y1 - y0)) * (height - top - bottom),
    };
    axes(g);
    g.fillStyle = colour("labeled");
    if (points) drawPoints(g); else drawBins(g);
    g.globalAlpha = 1;
  }

  function axes(g) {
    g.strokeStyle = colour("line");
    g.fillStyle = colour("soft");
    g.font = "11px system-ui, sans-serif";
    g.textAlign = "center";
    for (let d = x0; d <= x1; d++) {
      line(g, place.x(d), top, place.x(d), height - bottom);
      g.fillText("1e" + d, Math.min(width - 14, place.x(d)), height - bottom + 14);
    }
    g.fillText("density: share of tokens on which the feature fires", (left + width) / 2, height - 4);
    g.textAlign = "right";
    for (let s = Math.ceil(y0 * 4) / 4; s <= y1; s += 0.25) {
      line(g, left, place.y(s), width - right, place.y(s));
      if (s % 0.5 === 0) g.fillText(s.toFixed(1).replace("-", "−"), left - 5, place.y(s) + 4);
    }
  }

  function line(g, ax, ay, bx, by) {
    g.beginPath();
    g.moveTo(ax, ay);
    g.lineTo(bx, by);
    g.stroke();
  }

  function drawPoints(g) {
    const radius = points.x.length > 5000 ? 1.6 : 2.6;
    g.globalAlpha = points.x.length > 5000 ? 0.35 : 0.55;
    cells = new Map();
    for (let i = 0; i < points.x.length; i++) {
      const x = place.x(points.x[i]), y = place.y(Math.max(y0, points.y[i]));
      g.beginPath();
      g.arc(x, y, radius, 0, 7);
      g.fill();
      const cell = Math.floor(x / 8) * 1000 + Math.floor(y / 8);
      if (!cells.has(cell)) cells.set(cell, []);
      cells.get(cell).push([x, y, i]);
    }
  }

  function drawBins(g) {
    const [columns, rows] = data.grid, most = Math.log(1 + Math.max(...data.bins.map((b) => b[2])));
    const w = (place.x(x1) - place.x(x0)) / columns, h = (place.y(y0) - place.y(y1)) / rows;
    cells = new Map();
    for (const [i, j, n] of data.bins) {
      g.globalAlpha = 0.12 + (0.88 * Math.log(1 + n)) / most;
      g.fillRect(place.x(x0) + i * w, place.y(y0) - (j + 1) * h, w + 0.4, h + 0.4);
      cells.set(i * 1000 + j, n);
    }
  }

  // Find the point under the pointer, or the cell with its number of features.
  function under(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    if (!points) {
      const [columns, rows] = data.grid;
      const i = Math.floor(((x - place.x(x0)) / (place.x(x1) - place.x(x0))) * columns);
      const j = Math.floor(((place.y(y0) - y) / (place.y(y0) - place.y(y1))) * rows);
      const n = cells.get(i * 1000 + j);
      if (!n) return null;
      const density = (k) => 10 ** (x0 + ((x1 - x0) * k) / columns), score = (k) => y0 + ((y1 - y0) * k) / rows;
      return { n, x, y, density: [density(i), density(i + 1)], score: [score(j), score(j + 1)] };
    }
    let best = null, least = 64;
    for (let i = -1; i <= 1; i++) for (let j = -1; j <= 1; j++)
      for (const [px, py, k] of cells.get((Math.floor(x / 8) + i) * 1000 + Math.floor(y / 8) + j) || []) {
        const far = (px - x) ** 2 + (py - y) ** 2;
        if (far < least) [least, best] = [far, { x: px, y: py, feature: points.feature[k], density: 10 ** points.x[k], score: points.y[k] }];
      }
    return best;
  }

  let shown = null, asked;
  canvas.addEventListener("pointermove", (event) => {
    const found = under(event);
    canvas.classList.toggle("on", Boolean(found));
    tip.hidden = !found;
    if (!found) { shown = null; return; }
    tip.classList.toggle("flip", found.x > width / 2);
    tip.textContent = found.n
      ? `${found.n.toLocaleString()} features\nscore ${found.score[0].toFixed(2)} to ${found.score[1].toFixed(2)}\nclick to list them`
      : `feature ${found.feature}\nscore ${found.score.toFixed(2)}, density ${found.density.toPrecision(2)}`;
    // Places are set from a script, which the policy allows; no attribute of the page says them.
    tip.style.left = found.x + "px";
    tip.style.top = found.y + "px";
    if (!found.n && shown !== found.feature) {
      shown = found.feature;
      clearTimeout(asked);
      asked = setTimeout(() => addLabel(found.feature), 120);
    }
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; shown = null; });
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (!found) return;
    if (!found.n) location.assign(`${figure.dataset.feature}${found.feature}?set=${figure.dataset.set}`);
    else {
      const of = new URLSearchParams({ set: figure.dataset.set, density_min: found.density[0].toExponential(4), density_max: found.density[1].toExponential(4), score_min: found.score[0].toFixed(4), score_max: found.score[1].toFixed(4), sort: "density" });
      location.assign(`${figure.dataset.table}?${of}#features-title`);
    }
  });

  async function addLabel(feature) {
    const answer = await fetch(`/v1/labels/${figure.dataset.set}/${feature}`);
    if (answer.ok && shown === feature) tip.textContent += "\n" + (await answer.json()).label;
  }

  const body = figure.querySelector("tbody");
  for (const line of data.decades) {
    const row = body.insertRow();
    const cells = [`${line.from.toExponential(0)} to ${line.to.toExponential(0)}`, line.n.toLocaleString(), ...[line.low, line.median, line.high].map((v) => v.toFixed(2))];
    cells.forEach((text, i) => {
      const cell = row.insertCell();
      cell.textContent = text;
      if (i) cell.className = "right";
    });
  }
  canvas.setAttribute("aria-label", `Scores of ${data.n.toLocaleString()} features by density; the table below says the same`);

  draw();
  new ResizeObserver(() => { if (canvas.parentElement.clientWidth !== width) draw(); }).observe(canvas.parentElement);
  document.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
});
