// Follows the event stream and refreshes the sections that changed, with focus and open details kept.
// Text comes from the server already escaped, or is set by textContent; no markup is built from data here.
"use strict";

(() => {
  const REFRESH_MS = 700, IDLE_MS = 10000;
  const live = document.getElementById("live");

  function tell(state) {
    if (live.dataset.state === state) return;
    live.dataset.state = state;
    live.textContent = live.dataset[state];
  }

  // What a reader would find again: by id, address or name.
  function sign(element) {
    return element.id || element.getAttribute("href") || element.getAttribute("aria-label") || element.getAttribute("name");
  }

  // Where in a section the reader is, and back to it once its markup is another.
  function place(section) {
    const focused = section.contains(document.activeElement) ? document.activeElement : null;
    return focused && { tag: focused.tagName, sign: sign(focused) };
  }

  function back(section, wanted) {
    if (!wanted) return;
    [...section.querySelectorAll(wanted.tag)].find((one) => sign(one) === wanted.sign)?.focus({ preventScroll: true });
  }

  function swap(old, fresh) {
    if (old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return false;
    const wanted = place(old);
    const open = new Set([...old.querySelectorAll("details[open]")].map((one) => one.dataset.key));
    for (const one of fresh.querySelectorAll("details")) if (open.has(one.dataset.key)) one.open = true;
    old.replaceChildren(...fresh.childNodes);
    back(old, wanted);
    corsiaCharts.drawAll(old);
    window.htmx?.process(old);
    return true;
  }

  const shown = new Map(); // section id -> the server's markup that is shown
  function remember() {
    for (const section of document.querySelectorAll("[data-live]")) {
      if (!shown.has(section.id)) shown.set(section.id, section.innerHTML);
    }
  }

  let refreshing = false, again = false;
  async function refresh() {
    if (document.hidden) return;
    if (refreshing) { again = true; return; }
    refreshing = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const fresh of page.querySelectorAll("[data-live]")) {
        const old = document.getElementById(fresh.id), markup = fresh.innerHTML;
        if (old && shown.get(fresh.id) !== markup && swap(old, fresh)) shown.set(fresh.id, markup);
      }
    } catch {
      tell("off");
    } finally {
      refreshing = false;
      if (again) { again = false; soon(); }
    }
  }

  let timer = 0;
  function soon() {
    if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, REFRESH_MS);
  }

  remember();
  corsiaCharts.drawAll(document);
  let left = null;
  document.addEventListener("htmx:beforeSwap", (event) => { left = place(event.detail.target); });
  document.addEventListener("htmx:afterSwap", (event) => {
    back(document, left);
    left = null;
    for (const section of document.querySelectorAll("[data-live]")) shown.set(section.id, section.innerHTML);
    corsiaCharts.drawAll(event.target);
  });
  if (document.querySelector("[data-live]")) {
    let events = null;
    // A page that nobody sees gives its connection back: a browser has six to a server.
    const follow = () => {
      if (document.hidden) { events?.close(); events = null; return; }
      events ??= new EventSource("/api/v1/events");
      events.onopen = () => { tell("on"); soon(); };
      events.onerror = () => tell("off");
      events.onmessage = soon;
    };
    follow();
    setInterval(soon, IDLE_MS);
    document.addEventListener("visibilitychange", follow);
    addEventListener("corsia:changed", soon);
  } else {
    live.textContent = "";
  }
})();
