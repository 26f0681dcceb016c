// Line charts (SVG, as wide as their container) and small heat maps.

/** About `count` round numbers that span low to high. */
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  const last = Math.ceil(high / step - 1e-9);
  for (let at = Math.floor(low / step + 1e-9); at <= last; at++) found.push(at * step);
  return found;
}
function decades(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const step = Math.max(1, Math.ceil((last - first) / 6));
  const found = [];
  for (let at = first; at <= last; at += step) found.push(10 ** at);
  return found;
}
const short = (x) => (x !== 0 && (Math.abs(x) < 0.001 || Math.abs(x) >= 10000) ? x.toExponential(0) : String(+x.toPrecision(3)));

/**
 * A line for each of `series` ({name, color, values}) over the labels `x`. With `log` the axis is
 * logarithmic and values <= 0 are left out; otherwise it includes 0.
 */
function lineChart(parent, { title, note, x, xName, series, log = false, format = number, mark = short }) {
  const holder = el("div", { class: "plot" });
  const known = series.flatMap((s) => s.values).filter((v) => v !== null && (!log || v > 0));
  parent.append(el("div", {}, [
    el("h3", { text: title }),
    note ? el("p", { class: "quiet", text: note }) : "",
    series.length > 1 ? el("div", { class: "legend" }, series.map((s) =>
      el("span", {}, [el("i", { css: { background: `var(${s.color})` } }), s.name]))) : "",
    holder,
    details("as numbers", table([xName, ...series.map((s) => s.name)],
      x.map((label, i) => [label, ...series.map((s) => number(s.values[i]))]))),
  ]));
  if (!known.length) { holder.textContent = "nothing finite to draw"; return; }
  const low = log ? Math.min(...known) : Math.min(0, ...known);
  const marks = log ? decades(low, Math.max(...known)) : ticks(low, Math.max(...known), 4);
  const top = Math.max(...known, marks[marks.length - 1]), bottom = Math.min(low, marks[0]);
  const draw = () => holder.isConnected && holder.replaceChildren(drawing(holder, { title, x, xName, series, log, format, mark, marks, top, bottom }));
  redraws.push(draw);
  draw();
}

function drawing(holder, c) {
  const width = Math.max(260, holder.clientWidth), height = 230, left = 48, right = 12, base = height - 34;
  const side = (v) => (c.log ? Math.log10(v) : v);
  const down = (v) => base - ((side(v) - side(c.bottom)) / (side(c.top) - side(c.bottom) || 1)) * (base - 10);
  const step = (width - left - right) / Math.max(1, c.x.length - 1);
  const across = (i) => (c.x.length > 1 ? left + i * step : (left + width - right) / 2);
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": c.title, tabindex: 0 });
  for (const mark of c.marks) {
    svg.append(el("svg:line", { class: "axis", x1: left, x2: width - right, y1: down(mark), y2: down(mark) }),
      el("svg:text", { x: left - 6, y: down(mark) + 4, "text-anchor": "end", text: c.mark(mark) }));
  }
  const room = 14 + 7 * Math.max(...c.x.map((label) => label.length));
  const every = Math.ceil((c.x.length * room) / (width - left));
  c.x.forEach((label, i) => {
    const last = i > 0 && across(i) > width - right - 20;
    if (i % every === 0) svg.append(el("svg:text", { x: last ? width : across(i), y: base + 16, "text-anchor": last ? "end" : "middle", text: label }));
  });
  svg.append(el("svg:text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle", text: c.xName }));
  for (const s of c.series) svg.append(...strokes(s, c, across, down));
  const rule = el("svg:line", { class: "axis", y1: 8, y2: base, visibility: "hidden" });
  svg.append(rule);
  const point = (i, px, py) => {
    rule.setAttribute("x1", across(i));
    rule.setAttribute("x2", across(i));
    rule.setAttribute("visibility", "visible");
    showTip([`${c.xName} ${c.x[i]}`, ...c.series.map((s) => `${s.name}: ${c.format(s.values[i])}`)].join("\n"), px, py);
  };
  const leave = () => { rule.setAttribute("visibility", "hidden"); hideTip(); };
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const i = Math.round(((e.clientX - box.left) * (width / box.width) - left) / step);
    point(Math.min(Math.max(i || 0, 0), c.x.length - 1), e.clientX, e.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  let at = -1;
  svg.addEventListener("keydown", (e) => {
    if (e.key !== "ArrowRight" && e.key !== "ArrowLeft") return;
    e.preventDefault();
    at = Math.min(Math.max(at + (e.key === "ArrowRight" ? 1 : -1), 0), c.x.length - 1);
    const box = svg.getBoundingClientRect();
    point(at, box.left + across(at), box.top + 20);
  });
  svg.addEventListener("blur", leave);
  return svg;
}

/** One line, interrupted where a value is missing, and a dot for each value. */
function strokes(s, c, across, down) {
  const drawable = (v) => v !== null && (!c.log || v > 0);
  const found = [];
  let path = "";
  s.values.forEach((v, i) => {
    if (!drawable(v)) { path += " "; return; }
    path += (path === "" || path.endsWith(" ") ? "M" : "L") + across(i) + "," + down(v);
  });
  found.push(el("svg:path", { d: path.trim(), fill: "none", css: { stroke: `var(${s.color})`, "stroke-width": "2" } }));
  const radius = c.x.length > 30 ? 2 : 3.5;
  s.values.forEach((v, i) => {
    if (drawable(v)) found.push(el("svg:circle", { cx: across(i), cy: down(v), r: radius, css: { fill: `var(${s.color})` } }));
  });
  return found;
}

/** A table whose cells are coloured from its least to its greatest value; `tell` gives the tooltip. */
function heatTable(parent, { title, note, rows, rowName, columns, values, tell, digits = 2 }) {
  const all = values.flat().filter((v) => v !== null);
  const low = Math.min(...all), high = Math.max(...all);
  const made = el("table", { class: "lens" }, [el("thead", {}, [el("tr", {}, ["", ...columns].map((c) => el("th", { text: c })))])]);
  const body = el("tbody");
  values.forEach((row, r) => {
    const cells = row.map((v, c) => {
      const cell = el("td", { text: v === null ? "–" : v.toFixed(digits), css: { cursor: "default" } });
      const draw = () => paint(cell, v === null ? 0 : ((v - low) / (high - low || 1)) ** 2);
      draw();
      redraws.push(draw);
      tells(cell, () => tell(r, c));
      return cell;
    });
    body.append(el("tr", {}, [el("th", { text: rowName + " " + rows[r] }), ...cells]));
  });
  made.append(body);
  parent.append(el("div", {}, [el("h3", { text: title }), el("p", { class: "quiet", text: note }), el("div", { class: "scroll" }, [made])]));
}
