// Each block's activations, and gradients with and without shortcuts.

function activationsSection() {
  if (!PROBE) return;
  const blocks = PROBE.prompt.blocks, x = blocks.map((_, i) => String(i)), mean = (list) => list.reduce((a, b) => a + (b ?? 0), 0) / list.length;
  const made = section("activations", "Activations",
    "What flows through the blocks, as means over the positions of the text: attention and feed-forward add to the residual stream, LayerNorm gives them a mean near 0 and a variance near 1 to work with.");
  const charts = el("div", { class: "split" });
  made.append(charts);
  lineChart(charts, { title: "Norm of the residual stream, and of what is added", x, xName: "block", series: [
    { name: "leaves the block", color: "--blue", values: blocks.map((b) => b.leaving) },
    { name: "attention adds", color: "--orange", values: blocks.map((b) => b.attention_adds) },
    { name: "feed-forward adds", color: "--green", values: blocks.map((b) => b.feed_forward_adds) }] });
  const norms = [...blocks.flatMap((b) => [b.norm1, b.norm2]), PROBE.prompt.final_norm], places = norms.map((n) => n.name.replace("trf_blocks.", "").replace("final_norm", "final"));
  lineChart(charts, { title: "Variance before and after each LayerNorm", x: places, xName: "", log: true, series: [
    { name: "before", color: "--orange", values: norms.map((n) => n.before.variance) },
    { name: "after", color: "--blue", values: norms.map((n) => n.after.variance) }] });
  lineChart(charts, { title: "Mean before and after each LayerNorm", x: places, xName: "", series: [
    { name: "before", color: "--orange", values: norms.map((n) => n.before.mean) },
    { name: "after", color: "--blue", values: norms.map((n) => n.after.mean) }] });
  lineChart(charts, { title: "GELU inputs below 0, which it suppresses", x, xName: "block", format: (v) => percent(v ?? 0), mark: (v) => Math.round(v * 100) + "%", series: [
    { name: "share suppressed", color: "--violet", values: blocks.map((b) => b.suppressed) }] });
  heatTable(made, { title: "Attention entropy of each head, in nats", note: "0 where a head looks at one token alone.", rows: x, rowName: "block",
    columns: blocks[0].heads.map((_, h) => "head " + h), values: blocks.map((b) => b.heads.map((h) => h.entropy)),
    tell: (l, h) => { const one = blocks[l].heads[h]; return `block ${l}, head ${h}\nentropy ${number(one.entropy)}\n${percent(one.first)} on the first token\n${percent(one.previous)} on the one before\n${percent(one.itself)} on itself`; } });
  const from = PROBE.prompt.lens.first_position, shown = PROBE.tokens.slice(from);
  made.append(el("p"));
  heatTable(made, { title: "Norm of the residual stream at each token, entering each block", note: "The first token's is often far larger: heads with nothing to do look there.", digits: 1, rows: x, rowName: "block",
    columns: shown.map((t) => plain(t.text).trim() || quoted(t.text)), values: blocks.map((b) => b.by_position.entering.slice(from)),
    tell: (l, i) => { const p = blocks[l].by_position, at = from + i; return `${quoted(PROBE.tokens[at].text)} (${at}), block ${l}\nenters with ${number(p.entering[at])}\nattention adds ${number(p.attention_adds[at])}\nfeed-forward adds ${number(p.feed_forward_adds[at])}\n${percent(p.suppressed[at] ?? 0)} of GELU inputs below 0`; } });
}

const KINDS = { "att.W_query.weight": "query", "att.W_key.weight": "key", "att.W_value.weight": "value", "att.out_proj.weight": "attention output", "ff.layers.0.weight": "feed-forward in", "ff.layers.2.weight": "feed-forward out", "norm1.scale": "norm 1 scale", "norm2.scale": "norm 2 scale" };
const BOTH = [["with_shortcuts", "with shortcuts", "--blue"], ["without_shortcuts", "without", "--orange"]];

function gradientsSection() {
  const found = DATA.probe && DATA.probe.gradients;
  if (!found) return;
  const made = section("gradients", "Gradients and shortcuts",
    `What shortcut connections are for. One backward pass on ${quoted(DATA.probe.text)}: loss ${number(found.loss.with_shortcuts)} nats with them, ${number(found.loss.without_shortcuts)} where the blocks add nothing to their input.`);
  const charts = el("div", { class: "split" });
  made.append(charts);
  const x = Array.from({ length: DATA.probe.config.n_layers }, (_, i) => String(i));
  const by = Object.fromEntries(found.parameters.map((p) => [p.name, p]));
  const left = el("div"), chart = el("div");
  const kinds = el("select", { "aria-label": "Kind of parameter" }, Object.entries(KINDS).map(([kind, name]) => el("option", { value: kind, text: name })));
  const draw = () => {
    chart.replaceChildren();
    lineChart(chart, { title: `Mean absolute gradient of each block: ${KINDS[kinds.value]}`, x, xName: "block", log: true,
      series: BOTH.map(([key, label, color]) => ({ name: label, color, values: x.map((l) => by[`trf_blocks.${l}.${kinds.value}`][key]) })) });
  };
  kinds.value = "ff.layers.0.weight";
  kinds.addEventListener("change", draw);
  left.append(chart, el("div", { class: "row" }, [kinds]));
  charts.append(left);
  draw();
  lineChart(charts, { title: "The book's five layers", note: "Seed 123, input 1, 0, -1: without shortcuts the first layers hardly learn.", x: ["0", "1", "2", "3", "4"], xName: "layer", log: true,
    series: BOTH.map(([key, label, color]) => ({ name: label, color, values: found.demonstration[key].computed })) });
  made.append(details("the book's numbers beside these", table(["layer", "without", "in the book", "with shortcuts", "in the book"],
    found.demonstration.with_shortcuts.computed.map((_, i) => [`layers.${i}.0.weight`, ...["without_shortcuts", "with_shortcuts"].flatMap((key) =>
      [found.demonstration[key].computed[i].toFixed(8), found.demonstration[key].published[i].toFixed(8)])]))),
  details("every parameter", table(["parameter", "with shortcuts", "without"], found.parameters.map((p) => [p.name, number(p.with_shortcuts), number(p.without_shortcuts)]))));
}
