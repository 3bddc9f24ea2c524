// Corsia's hybrid keys in a browser: WebCrypto for SHA-256, HKDF and Ed25519, ML-DSA-65 by noble. The formats are those
// of docs/spec/envelope.md section 2; a signature counts only when both halves verify.
import { ml_dsa65 } from "/static/vendor/noble/mldsa.min.js";

const text = new TextEncoder();
const ED_END = 33, MLDSA_END = 33 + 1952, PUBLIC = 3201, SIGNATURE = 64 + 3309;
// RFC 8410: what stands before a raw Ed25519 seed in PKCS #8.
const PKCS8 = new Uint8Array([0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20]);

export function joined(...parts) {
  const made = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) { made.set(part, at); at += part.length; }
  return made;
}

export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function unhex(value) {
  if (!/^([0-9a-f]{2})*$/.test(value)) throw new Error("hex");
  return Uint8Array.from(value.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function unbase64(value) {
  const made = Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
  if (base64(made) !== value) throw new Error("base64");
  return made;
}

export function base64(bytes) {
  let made = "";
  for (const byte of bytes) made += String.fromCharCode(byte);
  return btoa(made);
}

export const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);

function framed(context, message) {
  const label = text.encode(context);
  return joined(text.encode("corsia/v1/signature\0"), Uint8Array.of(label.length), label, message);
}

export async function verify(publicKey, context, message, signature) {
  if (publicKey.length !== PUBLIC || publicKey[0] !== 1 || signature.length !== SIGNATURE) return false;
  const data = framed(context, message);
  const key = await crypto.subtle.importKey("raw", publicKey.slice(1, ED_END), "Ed25519", false, ["verify"]);
  if (!(await crypto.subtle.verify("Ed25519", key, signature.slice(0, 64), data))) return false;
  return ml_dsa65.verify(signature.slice(64), data, publicKey.slice(ED_END, MLDSA_END), { context: text.encode(context) });
}

async function derive(seed, label) {
  const key = await crypto.subtle.importKey("raw", seed, "HKDF", false, ["deriveBits"]);
  const how = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(32), info: text.encode(label) };
  return new Uint8Array(await crypto.subtle.deriveBits(how, key, 256));
}

// Signs for one purpose with the key that follows from a seed, as `privacy.envelope.SecretKey.sign`.
export async function sign(seed, context, message) {
  const data = framed(context, message);
  const raw = joined(PKCS8, await derive(seed, "corsia/v1/key/ed25519"));
  const key = await crypto.subtle.importKey("pkcs8", raw, "Ed25519", false, ["sign"]);
  const first = new Uint8Array(await crypto.subtle.sign("Ed25519", key, data));
  const pair = ml_dsa65.keygen(await derive(seed, "corsia/v1/key/ml-dsa-65"));
  const second = ml_dsa65.sign(data, pair.secretKey, { context: text.encode(context) });
  pair.secretKey.fill(0);
  return joined(first, second);
}

// JSON with sorted keys, no spaces, ASCII only: as `protocol.parcel.canonical_json`.
export function canonical(value) {
  const keys = Object.keys(value).sort();
  const made = `{${keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(value[key])}`).join(",")}}`;
  return text.encode(made.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`));
}
