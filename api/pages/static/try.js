// Try it: the length of the text before it is sent, and the text colored by a feature or explored token by token.
"use strict";
(() => {
  const count = new Intl.NumberFormat("en");

  // The text

  const text = document.querySelector("textarea[data-most]");
  function measure() {
    const most = Number(text.dataset.most), n = [...text.value].length;
    const problem = n > most ? `${count.format(n)} characters, and at most ${count.format(most)} are read at once: send it in parts` : "";
    text.setCustomValidity(problem);
    const length = document.getElementById("length");
    length.textContent = problem || `${count.format(n)} of at most ${count.format(most)} characters`;
    length.classList.toggle("warn", Boolean(problem));
  }
  if (text) {
    text.addEventListener("input", measure);
    measure();
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) text.form.requestSubmit();
    });
  }

  // The answer

  let read = null; // the part of the page it stands in, its tokens, and what fires

  async function begin() {
    const root = document.querySelector("[data-firings]");
    if (!root || (read && read.root === root)) return;
    const mine = (read = { root, tokens: [...root.querySelectorAll(".pickable i")], at: -1, firings: null });
    mine.heats = mine.tokens.map((token) => token.className);
    const answer = await fetch(root.dataset.firings);
    if (answer.ok) mine.firings = await answer.json();
    root.dataset.ready = "";
  }

  const words = (feature) => read.firings.labels[feature] || "no label";
  const size = (value) => String(Number(value.toPrecision(3)));

  function colourBy(feature) {
    const all = feature === "";
    read.tokens.forEach((token, i) => { token.className = all ? read.heats[i] : "h0"; });
    if (!all) {
      const [at, values] = read.firings.features[feature];
      const highest = Math.max(...values), most = read.firings.maxima[feature];
      at.forEach((i, j) => { read.tokens[i].className = "h" + Math.max(1, Math.min(10, Math.ceil(10 * values[j] / most))); });
      read.tokens[at[values.indexOf(highest)]].scrollIntoView({ block: "nearest" });
    }
    if (read.at >= 0) read.tokens[read.at].classList.add("picked");
    for (const button of read.root.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", String(button.dataset.show === feature));
    read.root.querySelector('[data-show=""]').hidden = all;
    document.getElementById("shown").textContent = all
      ? "Color: how near a feature comes to its own maximum in the corpus; the nearest of those that fire on the token. Choose a token, or a feature."
      : `Color: feature ${feature} by its own maximum, ${words(feature)}`;
  }

  function pick(i) {
    if (read.at >= 0) read.tokens[read.at].classList.remove("picked");
    read.at = Math.max(0, Math.min(read.tokens.length - 1, i));
    const token = read.tokens[read.at], top = read.firings.tokens[read.at];
    token.classList.add("picked");
    token.scrollIntoView({ block: "nearest" });
    const panel = document.getElementById("at-token");
    panel.replaceChildren(heading(token.textContent, top.length), list(top));
    for (const row of read.root.querySelectorAll("tr[data-feature]")) {
      row.classList.toggle("fires", top.some(([feature]) => String(feature) === row.dataset.feature));
    }
  }

  function heading(text, n) {
    const title = document.createElement("h3"), code = document.createElement("code");
    code.textContent = text;
    title.append("Token ", String(read.at + 1), " ", code, n ? ": the strongest features" : ": nothing fires");
    return title;
  }

  function list(top) {
    const items = document.createElement("ol");
    items.className = "firings";
    for (const [feature, value] of top) {
      const item = document.createElement("li"), link = document.createElement("a"), amount = document.createElement("span");
      const set = read.firings.sets[feature];
      link.href = `/saes/${read.root.dataset.sae}/features/${feature}` + (set ? `?set=${set}` : "");
      link.textContent = String(feature);
      amount.className = "figure soft";
      amount.textContent = size(value);
      item.append(amount, link, words(feature));
      items.append(item);
    }
    return items;
  }

  document.addEventListener("click", (event) => {
    if (!read || !read.firings) return;
    const button = event.target.closest("[data-show]"), token = event.target.closest(".pickable i");
    if (button) colourBy(button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.show);
    else if (token) pick(read.tokens.indexOf(token));
  });
  document.addEventListener("keydown", (event) => {
    if (!read || !read.firings || !event.target.matches(".pickable") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    pick(read.at + step);
  }, true);
  document.addEventListener("htmx:afterSettle", begin);
  begin();
})();
