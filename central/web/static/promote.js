// Two operators' word on a model, signed in this browser: the token file is read, the key follows from it, and a
// signature is sent, never the seal. What is approved is the statement's own bytes, and what they say is checked first.
// Who logged in by a provider is no operator by that: what he signs goes with the file's part that opens.
import { base64, canonical, hex, joined, sha256, sign, unbase64 } from "/static/keys.js";

const text = new TextEncoder();
const told = document.getElementById("told");

// The operator's name, seed and bearer of a token file; `operators.signing_key`. A plain token is both, and not sent.
async function opened(file) {
  if (!file || file.size > 1024) throw new Error(told.dataset.token);
  const token = (await file.text()).trim();
  const parts = token.split(".");
  if (!token || /\s/.test(token) || (parts.length !== 1 && parts.length !== 3)) throw new Error(told.dataset.token);
  const seal = parts.length === 3 ? parts[2] : token;
  const seed = await sha256(joined(text.encode("corsia/v1/operator\0"), text.encode(seal)));
  return parts.length === 3 ? { name: parts[0], seed, bearer: parts.slice(0, 2).join(".") } : { name: "operator", seed };
}

async function signed(form, make) {
  const who = await opened(form.elements.token.files[0]);
  const known = form.dataset.operator;
  if (known && who.name !== known) throw new Error(told.dataset.other);
  if (!known && !who.bearer) throw new Error(told.dataset.plain);
  const statement = await make(who.name);
  const signature = await sign(who.seed, "corsia/v1/decision", statement);
  who.seed.fill(0);
  return { statement, signature, headers: known ? {} : { Authorization: `Bearer ${who.bearer}` } };
}

async function propose(form) {
  const d = form.dataset;
  const id = hex(crypto.getRandomValues(new Uint8Array(16)));
  const made = await signed(form, (operator) => canonical({
    action: "propose", operator, id, name: d.name, version: Number(d.version), weights: d.weights, alias: "champion",
    rollback: d.rollback === "true", replaces: Number(d.replaces),
  }));
  await corsiaApi.ask("POST", `/api/v1/models/${encodeURIComponent(d.name)}/promotions`, {
    statement: base64(made.statement), signature: base64(made.signature),
  }, made.headers);
}

async function approve(form) {
  const d = form.dataset, question = unbase64(d.statement);
  const said = JSON.parse(new TextDecoder().decode(question));
  if (said.action !== "propose" || said.id !== d.id || said.name !== d.name || said.version !== Number(d.version)
      || said.alias !== d.alias) throw new Error(told.dataset.token);
  const proposal = hex(await sha256(question));
  const made = await signed(form, (operator) => canonical({ action: "approve", operator, proposal }));
  const path = `/api/v1/models/${encodeURIComponent(d.name)}/promotions/${encodeURIComponent(d.id)}/approval`;
  await corsiaApi.ask("POST", path, { signature: base64(made.signature) }, made.headers);
}

for (const form of document.querySelectorAll("form.sign")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await (form.id === "propose" ? propose(form) : approve(form));
      corsiaApi.tell(true);
      setTimeout(() => location.reload(), 400);
    } catch (error) {
      corsiaApi.tell(false, error.message);
      button.disabled = false;
    }
  });
}
