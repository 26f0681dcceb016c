// A treemap of the parameters, and the weight files.

/** Leaves {name, count, group} of the architecture, with every block. */
function leaves(part, path = "", group = "") {
  const inner = part.parts || [];
  if (part.kind === "TransformerBlock") {
    return Array.from({ length: part.copies }, (_, i) => inner.flatMap((p) => leaves(p, `${part.name}.${i}.`, `block ${i}`))).flat();
  }
  const own = part.name === "model" ? "" : path + part.name + ".";
  if (!inner.some((p) => p.parts)) {
    const weights = inner.filter((p) => p.shape && !p.shared);
    return weights.length ? [{ name: own.slice(0, -1), count: weights.reduce((sum, p) => sum + p.parameters, 0), group: group || part.name,
      shapes: weights.map((p) => `${p.name} ${p.shape.join(" × ")}`).join(", ") }] : [];
  }
  return inner.flatMap((p) => leaves(p, own, group));
}

/** Squarified treemap layout (Bruls, Huizing and van Wijk 2000): [item, x, y, width, height] of each. */
function squarified(items, x, y, width, height, size) {
  const sorted = [...items].sort((a, b) => size(b) - size(a)).filter((item) => size(item) > 0);
  let total = sorted.reduce((sum, item) => sum + size(item), 0);
  const placed = [];
  while (sorted.length) {
    const side = Math.min(width, height), scale = (width * height) / total;
    const worst = (row, sum) => Math.max(...[size(row[0]), size(row[row.length - 1])].map((s) => {
      const a = s * scale, across = (sum * scale) / side;
      return Math.max((across * across) / a, a / (across * across));
    }));
    let row = [sorted[0]], sum = size(sorted[0]);
    while (row.length < sorted.length) {
      const more = [...row, sorted[row.length]], grown = sum + size(sorted[row.length]);
      if (worst(more, grown) > worst(row, sum)) break;
      [row, sum] = [more, grown];
    }
    sorted.splice(0, row.length);
    const thick = (sum * scale) / side;
    let at = 0;
    for (const item of row) {
      const long = (size(item) * scale) / thick;
      placed.push(width <= height ? [item, x + at, y, long, thick] : [item, x, y + at, thick, long]);
      at += long;
    }
    if (width <= height) { y += thick; height -= thick; } else { x += thick; width -= thick; }
    total -= sum;
  }
  return placed;
}

const COLORS = [[/embed|_emb/, "#2a5fb4"], [/att\./, "#b5501b"], [/ff\./, "#15775a"], [/norm/, "#7b4fc0"], [/head/, "#52616f"]];
const colorOf = (name) => (COLORS.find(([pattern]) => pattern.test(name)) || COLORS[4])[1];

function parametersSection() {
  const tree = DATA.files.architecture;
  const made = section("parameters", "Parameters", tree
    ? `${whole(tree.parameters)} of them; each area is as large as its share. Point at one.` : "No config and no weights tell the size of this model.");
  if (!tree) return;
  const every = leaves(tree), groups = [];
  for (const leaf of every) {
    const group = groups.find((g) => g.name === leaf.group);
    if (group) { group.count += leaf.count; group.parts.push(leaf); } else groups.push({ name: leaf.group, count: leaf.count, parts: [leaf] });
  }
  const holder = el("div", { class: "tree" });
  made.append(el("div", { class: "legend" }, ["embeddings", "attention", "feed-forward", "norms", "output head"].map((name, i) =>
    el("span", {}, [el("i", { css: { background: COLORS[i][1] } }), name]))), el("p"), holder);
  const draw = () => {
    const width = Math.max(260, holder.clientWidth), height = Math.round(Math.min(520, Math.max(360, width * 0.5)));
    holder.style.height = height + "px";
    holder.replaceChildren(...squarified(groups, 0, 0, width, height, (g) => g.count).flatMap(([group, gx, gy, gw, gh]) =>
      squarified(group.parts, gx + 1, gy + 1, Math.max(1, gw - 2), Math.max(1, gh - 2), (p) => p.count).map(([part, px, py, pw, ph]) => {
        const told = `${part.name}\n${whole(part.count)} parameters, ${percent(part.count / tree.parameters)}\n${part.shapes}`;
        const label = part.name.replace("trf_blocks.", "").replace("layers.", "");
        const box = el("button", { type: "button", text: pw > 52 && ph > 20 ? label : "", "aria-label": told.replace(/\n/g, ", "),
          css: { left: px + "px", top: py + "px", width: pw + "px", height: ph + "px", background: colorOf(part.name), ...(pw < 24 || ph < 16 ? { padding: "0" } : {}) } });
        tells(box, () => told);
        return box;
      })));
  };
  redraws.push(draw);
  draw();
  made.append(details("as numbers", table(["part", "parameters", "share", "shape"], groups.flatMap((g) => g.parts).map((p) => [p.name, whole(p.count), percent(p.count / tree.parameters), p.shapes]))));
  filesPart(made);
}

function filesPart(made) {
  const weights = DATA.files.weights, stats = DATA.files.stats;
  if (!weights) return;
  made.append(details(`the ${whole(weights.tensors.length)} tensors of the files`, table(["tensor", "shape", "dtype", "bytes", "file"],
    weights.tensors.map((t) => [plain(t.name), t.shape.join(" × ") || "scalar", t.dtype, whole(t.bytes), plain(t.file)]))));
  if (stats) made.append(el("p"), el("h3", { text: "Values of the tensors" }), el("div", { class: "scroll" }, [valuesTable(stats)]));
  for (const [title, list] of [["Odd", weights.oddities], ["Missing or wrong", weights.problems]]) {
    if (list.length) made.append(el("h3", { text: title }), ...list.map((text) => el("p", { text: plain(text) })));
  }
}

/** A row for each tensor, with a histogram of 12 equal ranges from minimum to maximum. */
function valuesTable(stats) {
  const made = table(["tensor", "least", "largest", "mean", "deviation", "norm", "zeros", "not finite", "histogram"],
    stats.map((s) => [plain(s.name), ...[s.minimum, s.maximum, s.mean, s.deviation, s.norm].map(number), whole(s.zeros), whole(s.nan + s.infinite), ""]));
  [...made.tBodies[0].rows].forEach((row, r) => {
    const counts = stats[r].histogram, most = Math.max(1, ...counts);
    row.lastChild.append(el("svg:svg", { viewBox: "0 0 84 20", class: "histogram", role: "img", "aria-label": counts.join(", ") },
      counts.map((n, i) => el("svg:rect", { x: i * 7, width: 6, y: 20 - (20 * n) / most, height: (20 * n) / most, css: { fill: "var(--blue)" } }))));
  });
  return made;
}
