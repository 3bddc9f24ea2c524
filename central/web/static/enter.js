// The door: of a named operator's token the seal, with which he signs, does not leave this machine.
"use strict";

document.getElementById("enter").addEventListener("submit", (event) => {
  const field = event.target.elements.token, parts = field.value.trim().split(".");
  if (parts.length === 3) field.value = `${parts[0]}.${parts[1]}`;
});
