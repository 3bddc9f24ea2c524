// Forms that command: their fields as JSON to the API, the answer's words beside them. Requests of htmx carry the same
// header, which another site's form cannot send.
"use strict";

const corsiaApi = (() => {
  const HEADERS = { "X-Corsia": "1" };

  // The answer's value; a refusal is thrown with the server's words and code.
  async function ask(method, path, body, more = {}) {
    const headers = { ...HEADERS, Accept: "application/json", ...more };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const sent = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const answer = await fetch(path, { method, headers, body: sent, credentials: "same-origin" });
    const text = await answer.text();
    let value = {};
    try { value = JSON.parse(text); } catch { /* not ours */ }
    if (!answer.ok) throw new Error(value.code ? `${value.detail} [${value.code}]` : `HTTP ${answer.status}`);
    return value;
  }

  // Of a request that htmx made and that was refused nothing is shown: who has no session any more comes to the door.
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) location.reload();
  });

  function tell(good, text = "") {
    const told = document.getElementById("told");
    if (!told) return;
    told.className = good ? "good" : "bad";
    told.textContent = `${good ? told.dataset.done : told.dataset.failed} ${text}`.trim();
  }
  return { ask, tell, HEADERS };
})();

(() => {
  document.addEventListener("htmx:configRequest", (event) => Object.assign(event.detail.headers, corsiaApi.HEADERS));

  // Not `form.dataset`: a field of that name would stand in its place.
  const said = (form, name) => form.getAttribute(`data-${name}`);

  function fields(form) {
    const value = {};
    for (const one of form.querySelectorAll("[name]")) {
      if (one.dataset.kind === "flag") value[one.name] = one.checked;
      else value[one.name] = one.dataset.kind === "number" ? Number(one.value) : one.value;
    }
    return Object.keys(value).length ? value : undefined;
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target, api = said(form, "api"), draft = said(form, "draft");
    if (!api && !draft) return;
    event.preventDefault();
    event.stopPropagation();
    if (!form.reportValidity()) return; // a form that is judged as it is filled in has no check of its own before
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      if (draft) await submitDraft(form, draft);
      else await corsiaApi.ask("POST", api, fields(form));
      if (api && said(form, "next")) { location.assign(said(form, "next")); return; }
      corsiaApi.tell(true);
      dispatchEvent(new Event("corsia:changed"));
    } catch (error) {
      corsiaApi.tell(false, error.message);
    } finally {
      button.disabled = false;
    }
  }, true);

  async function submitDraft(form, draft) {
    const answer = await fetch(draft, {
      method: "POST", headers: corsiaApi.HEADERS, body: new URLSearchParams(new FormData(form)), credentials: "same-origin",
    });
    const made = await corsiaApi.ask("POST", said(form, "api-to"), await answer.text());
    location.assign(said(form, "next") + encodeURIComponent(made.id));
  }

  // Only what the chosen lane has.
  const lane = document.getElementById("f-lane");
  function fitting() {
    for (const set of document.querySelectorAll("fieldset[data-lanes]")) {
      set.hidden = set.disabled = !set.dataset.lanes.split(" ").includes(lane.value);
    }
  }
  if (lane && document.getElementById("draft")) {
    lane.addEventListener("change", fitting);
    fitting();
  }
})();
