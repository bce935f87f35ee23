// Sends a picture that is dropped, pasted or chosen, and shows what comes back. Text is never put in as HTML.
"use strict";
const drop = document.getElementById("drop");
const found = document.getElementById("found");
const picture = document.getElementById("picture");
const list = document.getElementById("top");
const said = document.getElementById("said");
let latest = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(guess) {
  const item = document.createElement("li");
  const bar = element("span", "", "bar");
  bar.style.setProperty("--share", 100 * guess.probability);
  const percent = ` ${(100 * guess.probability).toFixed(1)}% `;
  const parents = guess.parents.map((p) => `${p.class} ${Math.round(100 * p.probability)}%`);
  const rest = [guess.verticals.join(", "), ...parents].join(" · ");
  item.append(element("b", guess.class), percent, element("span", rest, "dim"), bar);
  return item;
}

async function ask(file) {
  const mine = ++latest;
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  found.hidden = false;
  list.replaceChildren();
  said.textContent = "looking …";
  try {
    const began = performance.now();
    const response = await fetch("/predict", { method: "POST", body: file });
    const answer = await response.json();
    if (mine !== latest) return; // another picture came meanwhile
    if (!response.ok) {
      said.textContent = answer.error;
      return;
    }
    list.replaceChildren(...answer.top.map(row));
    said.textContent = `${Math.round(performance.now() - began)} ms`;
  } catch (error) {
    if (mine === latest) said.textContent = `the server does not answer (${error.message})`;
  }
}

function first(files) {
  if (files.length) ask(files[0]);
}

document.getElementById("file").addEventListener("change", (event) => first(event.target.files));
document.addEventListener("paste", (event) => first(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  first(event.dataTransfer.files);
});
