// The whole log, verified by this browser: leaves -> tree (RFC 6962) -> each signed state; and one entry's proof.
// As `privacy.transparency.verify_log`. What was verified is remembered, so that a log that shrinks or forks is found.
import { equal, hex, joined, sha256, unbase64, unhex, verify } from "/static/keys.js";

const text = new TextEncoder();
const verdict = document.getElementById("verdict");
const say = verdict.dataset;
const BODY = /^([!-*,-~]{1,128})\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\ntime (0|[1-9][0-9]{0,18})\n$/;
const KIND = joined(Uint8Array.of(0xff), text.encode("corsia ed25519+ml-dsa-65"));

class Refused extends Error {}

const leafHash = (leaf) => sha256(joined(Uint8Array.of(0), leaf));
const nodeHash = (left, right) => sha256(joined(Uint8Array.of(1), left, right));

// Roots of all wanted sizes, in one pass: the complete subtrees so far, joined from the right (RFC 6962, 2.1).
async function roots(leaves, sizes) {
  const wanted = new Set(sizes), found = new Map(), stack = [];
  if (wanted.has(0)) found.set(0, await sha256(new Uint8Array()));
  for (let at = 0; at < leaves.length; at += 1) {
    let hash = await leafHash(leaves[at]);
    for (let size = at + 1; size % 2 === 0; size /= 2) hash = await nodeHash(stack.pop(), hash);
    stack.push(hash);
    if (wanted.has(at + 1)) {
      let root = stack[stack.length - 1];
      for (let place = stack.length - 2; place >= 0; place -= 1) root = await nodeHash(stack[place], root);
      found.set(at + 1, root);
    }
  }
  return found;
}

// A checkpoint signed by the log's key: size and root.
async function opened(note, key, origin) {
  const cut = note.lastIndexOf("\n\n");
  const body = note.slice(0, cut + 1), found = BODY.exec(body);
  if (cut < 0 || !found || found[1] !== origin) throw new Refused(say.key);
  const id = (await sha256(joined(text.encode(`${origin}\n`), KIND, key))).slice(0, 4);
  for (const line of note.slice(cut + 2).split("\n")) {
    const part = /^— (\S+) ([A-Za-z0-9+/]+={0,2})$/.exec(line);
    if (!part || part[1] !== origin) continue;
    const raw = unbase64(part[2]);
    if (!equal(raw.slice(0, 4), id)) continue;
    if (await verify(key, "corsia/v1/checkpoint", text.encode(body), raw.slice(4))) {
      return { size: Number(found[2]), root: unbase64(found[3]) };
    }
  }
  throw new Refused(say.signature);
}

async function keyOf(value) {
  const key = unbase64(value.log_key), print = hex(await sha256(key));
  const pinned = document.getElementById("pinned").value.trim().toLowerCase();
  if (pinned && !print.startsWith(pinned)) throw new Refused(say.pin);
  return { key, print };
}

async function fetched(path) {
  try {
    const answer = await fetch(path, { headers: { Accept: "application/json" }, credentials: "same-origin" });
    if (answer.ok) return await answer.json();
  } catch { /* below */ }
  throw new Refused(say.offline);
}

async function verifyLog() {
  const log = await fetched("/api/v1/log");
  const { key, print } = await keyOf(log);
  const leaves = log.leaves.map(unbase64);
  const states = [];
  for (const note of log.checkpoints) states.push(await opened(note, key, log.origin));
  const known = JSON.parse(localStorage.getItem(`corsia-log ${log.origin}`) ?? "null");
  const sizes = states.map((state) => state.size);
  if (leaves.length && !states.length) throw new Refused(say.signature);
  const computed = await roots(leaves, [...sizes, ...(known ? [known.size] : [])]);
  for (const state of states) {
    if (state.size > leaves.length || !equal(computed.get(state.size), state.root)) throw new Refused(say.root);
  }
  if (known && (known.print !== print || known.size > leaves.length || hex(computed.get(known.size)) !== known.root)) {
    throw new Refused(say.shrunk);
  }
  const size = Math.max(0, ...sizes);
  if (size) {
    const kept = { size, root: hex(computed.get(size)), print };
    localStorage.setItem(`corsia-log ${log.origin}`, JSON.stringify(kept));
  }
  return { entries: size, checkpoints: states.length, pending: leaves.length - size, key: print.slice(0, 16) };
}

// RFC 9162, section 2.1.3.2.
async function included(index, size, leaf, proof, root) {
  if (index >= size) return false;
  let node = index, last = size - 1, hash = await leafHash(leaf);
  for (const sibling of proof) {
    if (last === 0 || sibling.length !== 32) return false;
    if (node % 2 === 1 || node === last) {
      hash = await nodeHash(sibling, hash);
      while (node % 2 === 0 && node !== 0) { node /= 2; last = Math.floor(last / 2); }
    } else {
      hash = await nodeHash(hash, sibling);
    }
    node = Math.floor(node / 2);
    last = Math.floor(last / 2);
  }
  return last === 0 && equal(hash, root);
}

async function verifyEntry(index) {
  const told = await fetched(`/api/v1/log/proof/${index}`);
  const { key } = await keyOf(told);
  const state = await opened(told.checkpoint, key, told.origin);
  const good = told.index === index && await included(index, state.size, unbase64(told.leaf), told.proof.map(unhex), state.root);
  if (!good) throw new Refused(say.leaf);
}

function filled(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

async function shown(place, work, good) {
  place.className = "verdict";
  place.textContent = say.working;
  try {
    if (!globalThis.crypto?.subtle) throw new Refused(say.crypto);
    place.textContent = good(await work());
    place.classList.add("good");
  } catch (error) {
    place.textContent = `${say.bad} ${error instanceof Refused ? error.message : say.key}`;
    place.classList.add("bad");
  }
}

document.getElementById("verify").addEventListener("submit", (event) => {
  event.preventDefault();
  shown(verdict, verifyLog, (made) => filled(say.good, made));
});
for (const button of document.querySelectorAll("button.prove")) {
  const index = Number(button.dataset.index);
  button.addEventListener("click", () => shown(button.nextElementSibling, () => verifyEntry(index), () => "✓"));
}
