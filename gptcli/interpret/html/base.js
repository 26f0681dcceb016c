"use strict";
// Shared by all sections: elements, numbers as text, the theme's colours, the tooltip.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PROBE = DATA.probe && DATA.probe.prompt ? DATA.probe : null;
const redraws = []; // called when the theme or the width changes

/** Make an element; `attributes` may have text, css, on ({event: function}) and any HTML attribute. */
function el(tag, attributes = {}, children = []) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else if (name === "css") for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Add a section to the page, and a link to it in the navigation. */
function section(id, title, explanation) {
  const made = el("section", { id, "aria-labelledby": id + "-title" }, [
    el("h2", { id: id + "-title", text: title }),
    el("p", { text: explanation }),
  ]);
  document.getElementById("main").append(made);
  document.getElementById("nav").append(el("a", { href: "#" + id, text: title }));
  return made;
}

const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** A token with control, bidirectional and invisible characters escaped. */
function plain(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥")
    .replace(UNSAFE, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}
const quoted = (text) => "“" + plain(text) + "”";
const percent = (p) => (p > 0 && p < 0.00005 ? "<0.01%" : (p * 100).toFixed(p < 0.0995 ? 2 : 1) + "%");
const chance = (logprob) => (logprob === null ? "–" : percent(Math.exp(logprob)));
const whole = (n) => n.toLocaleString("en");
function number(x) {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (size >= 1000 && size < 1e9) return whole(Math.round(x));
  return size !== 0 && (size < 0.001 || size >= 1e9) ? x.toExponential(2) : x.toPrecision(4);
}

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const RAMPS = {
  light: [[242, 245, 250], [150, 190, 240], [42, 111, 219], [12, 44, 105]],
  dark: [[28, 36, 47], [32, 78, 140], [84, 156, 240], [226, 241, 255]],
};

/** 0 to 1 → [r, g, b] of the theme's colour scale; the square root spreads small values. */
function heat(value) {
  const ramp = RAMPS[isDark() ? "dark" : "light"];
  const at = Math.sqrt(Math.min(Math.max(value, 0), 1)) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[low].map((a, i) => Math.round(a + (ramp[low + 1][i] - a) * (at - low)));
}
const rgb = (parts) => `rgb(${parts.join(" ")})`;
/** Black or white text, whichever has more contrast. */
const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#10141a" : "#ffffff");

function paint(cell, value) {
  const color = heat(value);
  cell.style.background = rgb(color);
  cell.style.color = inkOn(color);
}

function scaleBar(low, high) {
  const canvas = el("canvas", { width: 64, height: 1 });
  const draw = () => {
    const brush = canvas.getContext("2d");
    for (let i = 0; i < 64; i++) {
      brush.fillStyle = rgb(heat(i / 63));
      brush.fillRect(i, 0, 1, 1);
    }
  };
  draw();
  redraws.push(draw);
  return el("div", { class: "scale" }, [low, canvas, high]);
}

const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + "px";
  tip.style.top = (y + 16 + box.height > innerHeight ? y - box.height - 12 : y + 16) + "px";
}
const hideTip = () => { tip.hidden = true; };
/** Show a tooltip when an element is pointed at, tapped or focused. */
function tells(element, text) {
  element.addEventListener("pointermove", (e) => showTip(text(), e.clientX, e.clientY));
  element.addEventListener("pointerleave", hideTip);
  element.addEventListener("focus", () => {
    const box = element.getBoundingClientRect();
    if (element.matches(":focus-visible")) showTip(text(), box.left, box.bottom);
  });
  element.addEventListener("blur", hideTip);
}

function table(head, rows, kind = "") {
  const cell = (tag) => (value) => el(tag, { text: String(value) });
  return el("table", { class: kind }, [
    el("thead", {}, [el("tr", {}, head.map(cell("th")))]),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell("td"))))),
  ]);
}
function details(title, inside) {
  return el("details", {}, [el("summary", { text: title }), el("div", { class: "scroll" }, [inside])]);
}
function facts(pairs) {
  return el("div", { class: "facts" }, pairs.map(([name, value]) =>
    el("div", { class: "fact" }, [el("b", { text: value }), el("span", { text: name })])));
}
