// Attention maps: a thumbnail of every head, the chosen head, and the text coloured by its weights.

/** A block's weights as `packed_attention` makes them: bytes, the lower triangle of each head by row. */
function unpack(base64) {
  const raw = atob(base64), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

const selected = { layer: 0, head: 0, token: 0 };

function attentionSection() {
  if (!PROBE) return;
  const made = section("attention", "Attention",
    "Each row of a map is a token, each column a token it may look at: itself and those before it. A row's weights sum to 1. Choose a head, then a token.");
  const keys = Object.keys(DATA.maps).map(Number);
  if (!keys.length) {
    made.append(el("p", { text: DATA.maps_note }));
    return;
  }
  const T = PROBE.tokens.length, heads = PROBE.config.n_heads, size = (T * (T + 1)) / 2;
  const bytes = Object.fromEntries(keys.map((layer) => [layer, unpack(DATA.maps[layer])]));
  const weight = (layer, head, i, j) => (j > i ? 0 : (bytes[layer][head * size + (i * (i + 1)) / 2 + j] / 255) ** 2);
  selected.token = T - 1;
  // The first tokens attend to few others: their large weights would set the scale for all.
  const from = Math.max(1, Math.floor(T / 4));
  const largest = Object.fromEntries(keys.map((layer) => [layer, Array.from({ length: heads }, (_, h) => {
    let most = 0;
    for (let at = h * size + (from * (from + 1)) / 2; at < (h + 1) * size; at++) most = Math.max(most, bytes[layer][at]);
    return most ? (most / 255) ** 2 : 1;
  })]));
  const tone = (layer, head, i, j) => weight(layer, head, i, j) / (contrast.checked ? largest[layer][head] : 1);

  const grid = el("table", { class: "heads" });
  grid.style.setProperty("--heads", heads);
  const contrast = el("input", { type: "checkbox", on: { change: () => { drawSmall(); light(selected.token); } } });
  contrast.checked = Math.max(...Object.values(largest).flat()) < 0.5;
  const high = el("span"), title = el("h3"), stats = el("p", { class: "quiet" });
  const canvas = el("canvas", { class: "map", tabindex: 0, role: "img" });
  const text = el("div", { class: "text" });
  const holder = el("div", {}, [title, canvas, stats]);
  const step = (by) => {
    const at = keys.indexOf(selected.layer) * heads + selected.head + by;
    const to = (at + keys.length * heads) % (keys.length * heads);
    choose(keys[Math.floor(to / heads)], to % heads);
  };
  const buttons = el("div", { class: "row" }, [
    el("button", { type: "button", text: "←", "aria-label": "The head before", on: { click: () => step(-1) } }),
    el("button", { type: "button", text: "→", "aria-label": "The next head", on: { click: () => step(1) } }),
    scaleBar("0", high),
    el("label", {}, [contrast, " more contrast"]),
  ]);
  made.append(el("div", { class: "split" }, [
    el("div", {}, [el("h3", { text: "All heads" }), el("div", { class: "scroll" }, [grid]), buttons]), holder,
  ]), el("h3", { text: "Where a token looks" }), text);

  const small = [];
  grid.append(el("tr", {}, [el("th"), ...Array.from({ length: heads }, (_, h) => el("th", { text: h }))]));
  for (const layer of keys) {
    const row = el("tr", {}, [el("th", { text: layer })]);
    for (let head = 0; head < heads; head++) {
      const side = Math.min(T, 48), picture = el("canvas", { width: side, height: side });
      const button = el("button", { type: "button", "aria-label": `Block ${layer}, head ${head}`, on: { click: () => choose(layer, head) } }, [picture]);
      tells(button, () => headFacts(layer, head));
      small.push({ layer, head, picture, button });
      row.append(el("td", {}, [button]));
    }
    grid.append(row);
  }
  const tokens = PROBE.tokens.map((token, i) => {
    const made = el("span", { class: "token", text: plain(token.text), on: { click: () => light(i) } });
    tells(made, () => (i > selected.token ? "comes later" : `${percent(weight(selected.layer, selected.head, selected.token, i))} of the attention of ${quoted(PROBE.tokens[selected.token].text)}`));
    return made;
  });
  text.append(...tokens);

  function headFacts(layer, head) {
    const h = PROBE.prompt.blocks[layer].heads[head];
    return `block ${layer}, head ${head}\nentropy ${number(h.entropy)} nats\n${percent(h.first)} on the first token\n${percent(h.previous)} on the one before\n${percent(h.itself)} on itself`;
  }
  function choose(layer, head) {
    Object.assign(selected, { layer, head });
    drawLarge();
    light(selected.token);
    for (const s of small) s.button.setAttribute("aria-pressed", s.layer === layer && s.head === head);
  }
  function light(token) {
    selected.token = token;
    tokens.forEach((made, i) => {
      paint(made, i > token ? 0 : tone(selected.layer, selected.head, token, i));
      made.style.opacity = i > token ? 0.45 : 1;
      made.classList.toggle("chosen", i === token);
    });
    drawLarge();
  }
  function drawSmall() {
    for (const s of small) {
      const side = s.picture.width, brush = s.picture.getContext("2d"), image = brush.createImageData(side, side);
      for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) {
        const i = Math.floor((y * T) / side), j = Math.floor((x * T) / side);
        if (j <= i) image.data.set([...heat(tone(s.layer, s.head, i, j)), 255], (y * side + x) * 4);
      }
      brush.putImageData(image, 0, 0);
    }
  }
  let shape = { left: 0, top: 0, cell: 1 };
  function drawLarge() {
    const width = Math.max(240, holder.clientWidth), ratio = devicePixelRatio || 1;
    const labels = T <= 48, left = labels ? Math.min(90, width / 4) : 34, cell = (width - left - (labels ? 20 : 0)) / T;
    const top = labels ? 64 : 18, height = top + cell * T, brush = canvas.getContext("2d");
    shape = { left, top, cell };
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = height + "px";
    brush.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement), gap = cell > 6 ? 1 : 0;
    for (let i = 0; i < T; i++) for (let j = 0; j <= i; j++) {
      brush.fillStyle = rgb(heat(tone(selected.layer, selected.head, i, j)));
      brush.fillRect(left + j * cell, top + i * cell, cell - gap, cell - gap);
    }
    brush.strokeStyle = style.getPropertyValue("--orange");
    brush.lineWidth = 2;
    brush.strokeRect(left, top + selected.token * cell, (selected.token + 1) * cell - gap, cell - gap);
    brush.fillStyle = style.getPropertyValue("--soft");
    brush.font = `${Math.min(12, Math.max(8, cell))}px system-ui, sans-serif`;
    brush.textBaseline = "middle";
    const every = Math.ceil((labels ? 11 : 24) / cell);
    for (let i = 0; i < T; i += every) {
      const name = labels ? plain(PROBE.tokens[i].text).trim().slice(0, 11) : String(i);
      brush.textAlign = "right";
      brush.fillText(name, left - 4, top + (i + 0.5) * cell);
      brush.save();
      brush.translate(left + (i + 0.5) * cell, top - 5);
      if (labels) brush.rotate(-Math.PI / 3);
      brush.textAlign = labels ? "left" : "center";
      brush.fillText(name, 0, labels ? 0 : -5);
      brush.restore();
    }
    high.textContent = contrast.checked ? "the most a later token gives" : "1";
    title.textContent = `Block ${selected.layer}, head ${selected.head}`;
    stats.textContent = headFacts(selected.layer, selected.head).split("\n").slice(1).join(" · ");
    canvas.setAttribute("aria-label", `Attention map of block ${selected.layer}, head ${selected.head}`);
  }
  const at = (e) => {
    const box = canvas.getBoundingClientRect();
    const j = Math.floor((e.clientX - box.left - shape.left) / shape.cell), i = Math.floor((e.clientY - box.top - shape.top) / shape.cell);
    return i >= 0 && i < T && j >= 0 && j <= i ? [i, j] : null;
  };
  canvas.addEventListener("pointermove", (e) => {
    const found = at(e);
    if (!found) return hideTip();
    const [i, j] = found;
    showTip(`${quoted(PROBE.tokens[i].text)} (${i}) looks at ${quoted(PROBE.tokens[j].text)} (${j})\n${percent(weight(selected.layer, selected.head, i, j))}`, e.clientX, e.clientY);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (e) => { const found = at(e); if (found) light(found[0]); });
  canvas.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => light(Math.max(0, selected.token - 1)), ArrowDown: () => light(Math.min(T - 1, selected.token + 1)) }[e.key];
    if (by) { e.preventDefault(); by(); }
  });
  redraws.push(() => { drawSmall(); light(selected.token); });
  drawSmall();
  choose(keys[keys.length - 1], 0);
}
