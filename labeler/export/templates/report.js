// Draws the table, the scatter plot and the details from the two JSON blocks. Texts of models and corpora
// only ever become text nodes, never markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const column = Object.fromEntries(data.columns.map((name, i) => [name, i]));
  const features = data.rows.map((row) => Object.fromEntries(data.columns.map((name, i) => [name, row[i]])));
  const byIndex = new Map(features.map((f) => [f.feature_index, f]));
  let parsed = null; // the details are most of the file: read when the first feature is opened
  const details = () => (parsed ??= JSON.parse($("details").textContent));

  // Elements

  const svgSpace = $("scatter").namespaceURI;
  function add(parent, tag, attributes = {}, text = null) {
    const svg = parent.namespaceURI === svgSpace || tag === "svg";
    const element = svg ? document.createElementNS(svgSpace, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    parent.append(element);
    return element;
  }
  const minus = (text) => text.replace(/^-(?=.*[1-9])/, "−").replace(/^-/, ""); // and no minus before a zero
  const number = (x, digits = 2) => (x === null || x === undefined ? "—" : minus(x.toFixed(digits)));
  const significant = (x) => (x === null ? "—" : minus(String(Number(x.toPrecision(3)))));
  const count = (n) => n.toLocaleString("en-US");
  const percent = (x) => (x === 0 ? "0%" : x >= 0.001 ? `${significant(x * 100)}%` : `${(x * 100).toExponential(1).replace("-", "−")}%`);

  // One scale for all score bars

  const drawn = features.flatMap((f) => [f.score, f.baseline, f.null_mean]).filter((x) => x !== null);
  const low = drawn.some((x) => x < -0.25) ? -1 : -0.25;
  const place = (x, width = 200) => ((Math.min(1, Math.max(low, x)) - low) / (1 - low)) * width;

  function scoreStrip(f, width = 200, height = 20) {
    const x = (value) => place(value, width);
    const holder = document.createElement("div");
    const svg = add(holder, "svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(f), "data-tip": spoken(f) });
    const middle = 10;
    add(svg, "rect", { x: -4, y: 0, width: width + 8, height, fill: "transparent" });
    add(svg, "line", { class: "track", x1: 0, x2: width, y1: middle, y2: middle });
    add(svg, "line", { class: "zero", x1: x(0), x2: x(0), y1: 2, y2: 18 });
    if (f.low !== null && f.high !== null)
      add(svg, "rect", { class: "interval", x: x(f.low), y: middle - 3, width: Math.max(1, x(f.high) - x(f.low)), height: 6, rx: 3 });
    if (f.baseline !== null) add(svg, "line", { class: "baseline", x1: x(f.baseline), x2: x(f.baseline), y1: middle - 8, y2: middle + 8 });
    if (f.null_mean !== null) add(svg, "path", { class: "null", d: `M${x(f.null_mean)} ${middle - 4.5}l4.5 4.5-4.5 4.5-4.5-4.5z` });
    const weak = f.null_p !== null && f.null_p > 0.05;
    add(svg, "circle", { class: weak ? "point weak" : "point", cx: x(f.score), cy: middle, r: 4.2 });
    return svg;
  }

  function drawScale(svg, width, y) {
    for (const value of low === -1 ? [-1, -0.5, 0, 0.5, 1] : [0, 0.5, 1])
      add(svg, "text", { class: "tick", x: place(value, width), y, "text-anchor": "middle" }, number(value, value % 1 ? 1 : 0));
  }

  function spoken(f) {
    const parts = [`score ${number(f.score)}`];
    if (f.low !== null && f.high !== null) parts.push(`interval ${number(f.low)} to ${number(f.high)}`);
    if (f.baseline !== null) parts.push(`token baseline ${number(f.baseline)}`);
    if (f.null_mean !== null) parts.push(`null ${number(f.null_mean)}`);
    return parts.join("\n");
  }

  drawScale($("scale"), 200, 12);

  // The table: filter, sort, page

  const PAGE = 50;
  const view = { sort: "feature_index", down: false, page: 0, shown: features };

  function matches(f, words, least, states) {
    if (!states.has(f.state)) return false;
    if (least !== null && (f.score === null || f.score < least)) return false;
    const text = `${f.feature_index} ${f.label ?? ""} ${f.reason ?? ""} ${f.score_reason ?? ""}`.toLowerCase();
    return words.every((w) => text.includes(w));
  }

  function update(page = 0) {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = $("least").value === "" ? null : Number($("least").value);
    const states = new Set([...$("states").querySelectorAll(":checked")].map((box) => box.value));
    view.shown = features.filter((f) => matches(f, words, least, states));
    const sign = view.down ? -1 : 1;
    view.shown.sort((a, b) => {
      const [x, y] = [a[view.sort], b[view.sort]];
      if (x === null || y === null) return (x === null) - (y === null) || a.feature_index - b.feature_index; // what is undefined comes last
      return (x < y ? -sign : x > y ? sign : 0) || a.feature_index - b.feature_index;
    });
    view.page = Math.max(0, Math.min(page, Math.ceil(view.shown.length / PAGE) - 1));
    drawTable();
    const inside = new Set(view.shown.map((f) => f.feature_index));
    for (const dot of $("scatter").querySelectorAll("circle")) dot.classList.toggle("out", !inside.has(Number(dot.dataset.feature)));
    const unscored = least === null ? "" : "; features without a score are hidden";
    $("found").textContent = `${count(view.shown.length)} of ${count(features.length)} features${unscored}`;
  }

  function drawTable() {
    const body = document.createElement("tbody");
    for (const f of view.shown.slice(view.page * PAGE, (view.page + 1) * PAGE)) drawRow(body, f);
    $("features").tBodies[0].replaceWith(body);
    for (const button of $("features").querySelectorAll("[data-sort]")) {
      const th = button.closest("th");
      if (button.dataset.sort === view.sort) th.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
    const pages = Math.max(1, Math.ceil(view.shown.length / PAGE));
    $("page").textContent = `page ${view.page + 1} of ${pages}`;
    $("previous-page").disabled = view.page === 0;
    $("next-page").disabled = view.page >= pages - 1;
  }

  function drawRow(body, f) {
    const tr = add(body, "tr", { "data-feature": f.feature_index });
    add(add(tr, "td"), "button", { class: "open", type: "button", "aria-label": `Open feature ${f.feature_index}` }, f.feature_index);
    const label = add(tr, "td");
    if (f.label !== null) label.textContent = visible(f.label);
    else add(label, "span", { class: f.state === "failed" ? "none failure" : "none" }, visible(f.reason ?? ""));
    const score = add(tr, "td", { class: "right" }, f.score === null ? "" : number(f.score));
    if (f.score === null && f.label !== null) add(score, "span", { class: "none" }, "undefined");
    const scale = add(tr, "td", { class: "scale" });
    if (f.score !== null) scale.append(scoreStrip(f));
    else if (f.score_reason) add(scale, "span", { class: "none" }, f.score_reason);
    add(tr, "td", { class: "right" }, percent(f.density));
    add(add(tr, "td"), "span", { class: "state" }).append(dot(f.state), f.state);
  }

  function dot(state) {
    const i = document.createElement("i");
    i.className = `dot ${state}`;
    return i;
  }

  function sortBy(name, down) {
    Object.assign(view, { sort: name, down });
    update();
  }

  // The scatter plot

  const DOTS = 4000;
  function drawScatter() {
    const svg = $("scatter");
    const all = features.filter((f) => f.score !== null && f.density > 0);
    const every = Math.max(1, Math.ceil(all.length / DOTS));
    const dots = all.filter((_, i) => i % every === 0);
    const from = Math.floor(Math.log10(Math.min(...dots.map((f) => f.density), 0.1)));
    const bottom = dots.some((f) => f.score < -0.2) ? -1 : -0.2;
    const x = (density) => ((Math.log10(density) - from) / -from) * 352;
    const y = (score) => 120 - ((Math.max(bottom, score) - bottom) / (1 - bottom)) * 120;
    for (let e = from; e <= 0; e++) add(svg, "text", { class: "tick", x: x(10 ** e), y: 136, "text-anchor": "middle" }, `${Number((10 ** (e + 2)).toPrecision(1))}%`);
    for (const s of [bottom === -1 ? -1 : 0, 0, 0.5, 1]) {
      add(svg, "line", { class: s === 0 ? "axis" : "grid", x1: 0, x2: 352, y1: y(s), y2: y(s) });
      add(svg, "text", { class: "tick", x: -6, y: y(s) + 4, "text-anchor": "end" }, number(s, s % 1 ? 1 : 0));
    }
    add(svg, "text", { class: "tick", x: 176, y: 153, "text-anchor": "middle" }, "density");
    const radius = dots.length > 800 ? 2.2 : 3;
    for (const f of dots)
      add(svg, "circle", { cx: x(f.density).toFixed(1), cy: y(f.score).toFixed(1), r: radius, "data-feature": f.feature_index,
                           "data-tip": `#${f.feature_index}  ${number(f.score)}\n${visible(f.label)}` });
    if (every > 1) {
      $("scatter-note").hidden = false;
      $("scatter-note").textContent = `every ${every}th of ${count(all.length)} labels is drawn`;
    }
  }

  // One feature

  const dialog = $("feature");
  let open = null;

  function show(index) {
    const f = byIndex.get(index);
    if (!f) return;
    open = f;
    $("feature-number").textContent = `Feature ${f.feature_index}`;
    $("feature-state").className = "state";
    $("feature-state").replaceChildren(dot(f.state), f.state);
    const body = $("feature-body");
    body.replaceChildren();
    const detail = details().features[index];
    drawHead(body, f);
    drawNumbers(body, f, detail);
    drawContexts(body, f, detail);
    const at = view.shown.indexOf(f);
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at === view.shown.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    body.focus({ preventScroll: true });
    history.replaceState(null, "", `#feature-${index}`);
  }

  function step(by) {
    const next = view.shown[view.shown.indexOf(open) + by];
    if (open && next) show(next.feature_index);
  }

  function drawHead(body, f) {
    if (f.label !== null) add(body, "h2", { id: "feature-label" }, visible(f.label));
    else add(body, "h2", { id: "feature-label" }, `No label: ${visible(f.reason ?? "")}`);
    if (data.is_lookup && f.label !== null) add(body, "p", { class: "by" }, "This label is the look-up baseline, in words.");
  }

  function list(parent, entries) {
    const dl = add(parent, "dl");
    for (const [name, value] of entries) {
      const div = add(dl, "div");
      add(div, "dt", {}, name);
      add(div, "dd", {}, value);
    }
  }

  function drawNumbers(body, f, detail) {
    const grid = add(body, "div", { class: "numbers" });
    if (f.label !== null) drawScore(add(grid, "div", { class: "panel" }), f, detail);
    const panel = add(grid, "div", { class: "panel" });
    list(panel, [
      ["density", percent(f.density)],
      ["tokens it fires on", count(f.n_firings)],
      ["windows it fires in", count(f.n_firing_windows)],
      ["mean where it fires", f.n_firings ? significant(f.mean) : "—"],
      ["maximum", f.n_firings ? significant(f.max) : "—"],
    ]);
    if (detail.histogram.length) drawHistogram(panel, detail.histogram);
  }

  function drawScore(panel, f, detail) {
    add(panel, "h2", {}, "Simulation score");
    if (f.score === null) {
      add(panel, "p", { class: "big" }, "undefined");
      add(panel, "p", { class: "none" }, f.score_reason);
    } else {
      const big = add(panel, "p", { class: "big" }, `${number(f.score)} `);
      if (f.low !== null && f.high !== null) add(big, "small", {}, `95% interval ${number(f.low)} to ${number(f.high)}`);
      const strip = scoreStrip(f, 420, 36);
      drawScale(strip, 420, 33);
      panel.append(strip);
    }
    const shown = ([, value, reason, low, high, n]) =>
      value === null ? reason : number(value) + (low === null || high === null ? "" : `, 95% interval ${number(low)} to ${number(high)}`) + `, n ${n}`;
    const named = Object.fromEntries(detail.scores.map((score) => [score[0], shown(score)]));
    const entries = [
      ["sequences scored", f.n_failed ? `${f.n} (${f.n_failed} without a usable simulation)` : String(f.n)],
      ["token baseline", data.is_lookup ? `${number(f.baseline)} (the label is the baseline)` : number(f.baseline)],
      ["null: labels of other features", f.null_n ? `z ${number(f.null_z, 1)}, p ${number(f.null_p, 3)}, ${f.null_n} labels` : "—"],
      ["weighted to the whole corpus", f.weighted === null ? (f.weighted_reason ?? "—") : number(f.weighted)],
    ];
    for (const [name, text] of Object.entries(named))
      if (!["simulation", "simulation_weighted"].includes(name)) entries.push([name.replace("simulation_", "on ").replaceAll("_", " "), text]);
    list(panel, entries);
  }

  function drawHistogram(panel, histogram) {
    const [first, last] = [histogram[0][0], histogram.at(-1)[0]];
    const highest = Math.max(...histogram.map(([, n]) => n));
    const width = 260 / Math.max(6, last - first + 1);
    const svg = add(panel, "svg", { class: "histogram", viewBox: "0 -2 260 78", role: "img", "aria-label": "Histogram of activations" });
    const edge = (i) => data.edges[Math.min(data.edges.length - 1, Math.max(0, i))];
    for (const [bin, n] of histogram) {
      const height = Math.max(1, (n / highest) * 56);
      const range = bin === 0 ? `below ${significant(edge(0))}` : bin >= data.edges.length ? `${significant(edge(bin))} and more` : `${significant(edge(bin - 1))} to ${significant(edge(bin))}`;
      add(svg, "rect", { class: "interval bar", x: (bin - first) * width + 0.5, y: 56 - height, width: width - 1, height, "data-tip": `${range}: ${count(n)} tokens` });
    }
    add(svg, "line", { class: "axis", x1: 0, x2: 260, y1: 56.5, y2: 56.5 });
    add(svg, "text", { class: "tick", x: 0, y: 70 }, significant(edge(first - 1)));
    add(svg, "text", { class: "tick", x: 130, y: 70, "text-anchor": "middle" }, "activation, log scale");
    add(svg, "text", { class: "tick", x: Math.min(260, (last - first + 1) * width), y: 70, "text-anchor": "end" }, significant(edge(last)));
  }

  // Contexts

  const SOURCES = { top: "TOP: its highest peaks", sampled: "SAMPLED: where it fires", random: "RANDOM: any text", hard: "HARD: looks alike, silent" };

  function drawContexts(body, f, detail) {
    const section = add(body, "section", { class: "contexts" });
    if (!detail.groups.length) return void add(section, "p", { class: "none" }, "There are no contexts to show.");
    const scales = add(section, "p", { class: "scales" });
    add(scales, "span", {}, `activation, 0 to ${significant(f.max)} `).append(ramp("truth"));
    if (detail.groups.some((g) => g.split === "held_out"))
      add(scales, "span", {}, `line below: simulated, 0 to ${significant(detail.highest_prediction)} `).append(ramp("simulated"));
    for (const group of detail.groups) {
      const heading = add(section, "h3", {}, SOURCES[group.source]);
      add(heading, "span", { class: "split" }, group.split === "explain" ? "EXPLAIN" : "HELD_OUT");
      const seen = group.split === "explain" ? "the explainer could read these" : "the label is tested on these";
      add(heading, "small", {}, `${seen}; ${group.contexts.length} of ${group.total} shown`);
      for (const context of group.contexts) drawContext(section, context, f, detail);
    }
  }

  function ramp(kind) {
    const span = document.createElement("span");
    span.className = `ramp ${kind}`;
    return span;
  }

  function dense(sparse, n) {
    const values = new Array(n).fill(0);
    for (let i = 0; i < sparse.length; i += 2) values[sparse[i]] = sparse[i + 1];
    return values;
  }

  function drawContext(section, [documentNumber, ids, firing, simulation], f, detail) {
    const card = add(section, "div", { class: "context" });
    const texts = ids.map((i) => details().tokens[i]);
    const truth = dense(firing, ids.length);
    const simulated = Array.isArray(simulation) ? dense(simulation, ids.length) : null;
    const meta = add(card, "div", { class: "meta" });
    add(meta, "span", {}, `document ${count(documentNumber)}`);
    add(meta, "span", {}, firing.length ? `peak ${significant(Math.max(...truth))}` : "silent here");
    const fired = texts.map((t, i) => (truth[i] ? `“${visible(t)}” ${significant(truth[i])}` : null)).filter(Boolean);
    const line = add(card, "div", { class: simulated ? "tokens two" : "tokens", role: "group", "aria-label": fired.length ? `fires on ${fired.join(", ")}` : "does not fire" });
    texts.forEach((text, i) => drawToken(line, text, truth[i], simulated && simulated[i], f, detail));
    if (typeof simulation === "string") add(card, "p", { class: "none" }, `not simulated: ${visible(simulation)}`);
  }

  function drawToken(line, text, truth, simulated, f, detail) {
    const tip = [`“${visible(text)}”`, `activation ${significant(truth)}`];
    if (simulated !== null) tip.push(`simulated ${significant(simulated)}`);
    const span = add(line, "span", { class: "token", "data-tip": tip.join("\n") });
    if (truth > 0 && f.max > 0) span.style.setProperty("--t", Math.min(1, Math.max(0.08, truth / f.max)).toFixed(3));
    if (simulated > 0 && detail.highest_prediction > 0) span.style.setProperty("--s", Math.min(1, simulated / detail.highest_prediction).toFixed(3));
    // What is invisible gets a sign, in another colour than the text's own characters.
    for (const part of text.split(/([\p{Cc}\p{Cf}\p{Zl}\p{Zp}])/u)) {
      if (!part) continue;
      if (visible(part) === part) span.append(part);
      else add(span, "span", { class: "mark" }, visible(part));
    }
  }

  const SIGNS = { "\n": "⏎", "\r": "␍", "\t": "⇥", "\u007f": "␡" };
  const visible = (text) =>
    text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => {
      const code = c.codePointAt(0);
      return SIGNS[c] ?? (code < 32 ? String.fromCodePoint(0x2400 + code) : `‹${code.toString(16).toUpperCase().padStart(4, "0")}›`);
    });

  // The tooltip, for mouse and touch

  function tip(event) {
    const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    const box = $("tip");
    if (!target) return void (box.hidden = true);
    (dialog.open ? dialog : document.body).append(box); // a modal dialog covers everything outside it
    box.textContent = target.dataset.tip;
    box.hidden = false;
    const [w, h] = [box.offsetWidth, box.offsetHeight];
    const above = event.clientY - h - 14;
    box.style.left = `${Math.max(6, Math.min(innerWidth - w - 6, event.clientX - w / 2))}px`;
    box.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  }

  // Events

  document.addEventListener("pointermove", tip);
  document.addEventListener("pointerdown", tip);
  document.addEventListener("scroll", () => ($("tip").hidden = true), true);
  for (const id of ["search", "least", "states"]) $(id).addEventListener("input", () => update());
  $("sort").addEventListener("change", () => sortBy(...(([name, down]) => [name, down === "d"])($("sort").value.split(":"))));
  $("features").tHead.addEventListener("click", (event) => {
    const name = event.target.closest("[data-sort]")?.dataset.sort;
    // Numbers are looked at from the top first, names and indices from the bottom.
    if (name) sortBy(name, name === view.sort ? !view.down : ["score", "density"].includes(name));
  });
  for (const id of ["features", "scatter"])
    $(id).addEventListener("click", (event) => {
      const index = event.target.closest("[data-feature]")?.dataset.feature;
      if (index !== undefined) show(Number(index));
    });
  const turn = (by) => {
    update(view.page + by);
    $("found").scrollIntoView({ block: "nearest" });
  };
  $("previous-page").addEventListener("click", () => turn(-1));
  $("next-page").addEventListener("click", () => turn(1));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => {
    $("tip").hidden = true;
    document.body.append($("tip"));
    const row = open && $("features").querySelector(`[data-feature="${open.feature_index}"] .open`);
    open = null;
    history.replaceState(null, "", location.pathname + location.search);
    row?.focus();
  });
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
  const linked = () => {
    const found = /^#feature-(\d+)$/.exec(location.hash);
    if (found) show(Number(found[1]));
  };
  addEventListener("hashchange", linked);

  drawScatter();
  update();
  linked();
})();
