// Shared by every page: theme, shortcuts, times in the reader's zone, copying, rows by keyboard.
"use strict";

const said = document.getElementById("said");
function say(text) {
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.classList.remove("shown"), 2500);
}

// Themes

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  document.dispatchEvent(new Event("themechange"));
  say(theme + " theme");
}

// Copying: data-copy names an address, a text, or an address whose answer is copied.

async function copy(button) {
  try {
    let text = button.dataset.copy;
    if (button.dataset.copyFrom) {
      const answer = await fetch(button.dataset.copyFrom, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error("the service answered " + answer.status);
      text = await answer.text();
    } else if (text.startsWith("/")) text = new URL(text, location.href).href;
    await navigator.clipboard.writeText(text);
    say("copied");
  } catch (error) {
    say("not copied: " + error.message);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-toggle], [data-open], [data-copy], [data-copy-from], [data-toggle], [data-back], [data-print]");
  if (!button) return;
  if ("themeToggle" in button.dataset) toggleTheme();
  else if (button.dataset.open) document.getElementById(button.dataset.open).showModal();
  else if ("back" in button.dataset) history.back();
  else if ("print" in button.dataset) print();
  else if (button.dataset.toggle) {
    const on = document.documentElement.classList.toggle(button.dataset.toggle);
    button.setAttribute("aria-pressed", String(on));
  } else copy(button);
});

// Controls that take effect when they are changed.

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
});
document.addEventListener("formdata", (event) => {
  // Fields that are empty make no part of an address, whether the browser or htmx asks.
  if (event.target.method === "get") for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
});

// The keyboard

const follow = (name) => {
  const link = document.querySelector(`[data-key="${name}"]`);
  if (link) link.click();
  return Boolean(link);
};

function moveRow(step) {
  const rows = [...document.querySelectorAll("[data-rows] tbody tr a:first-of-type")].filter((a) => a.matches("tr > :first-child a, tr > :first-child > a"));
  if (!rows.length) return false;
  const at = rows.findIndex((link) => link.closest("tr").contains(document.activeElement));
  if (at < 0 && !document.activeElement.closest("[data-rows]") && step < 0) return false;
  const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))];
  next.focus();
  return true;
}

const keys = {
  "/": () => (document.getElementById("find")?.focus(), true),
  "?": () => (document.getElementById("shortcuts")?.showModal(), true),
  h: () => (location.assign("/"), true),
  j: () => follow("next"), ArrowRight: () => follow("next"),
  k: () => follow("previous"), ArrowLeft: () => follow("previous"),
  r: () => follow("random"),
  ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest("input, textarea, select, dialog[open], [contenteditable], .scroll-x:not([data-rows])")) return;
  const act = keys[event.key];
  if (act && act()) event.preventDefault();
});

// Times

function localTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    if (!time.title) time.title = time.textContent;
    time.textContent = format.format(new Date(time.dateTime));
  }
}
localTimes(document);
document.addEventListener("htmx:afterSwap", (event) => localTimes(event.target.parentNode || document));
document.addEventListener("htmx:responseError", () => say("the service did not answer as expected"));
document.addEventListener("htmx:sendError", () => say("the service cannot be reached"));
