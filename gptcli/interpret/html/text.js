// The text's tokens, the next token's candidates, and the logit lens.

function textSection() {
  if (!PROBE) return;
  const made = section("text", "The text",
    "Its tokens. The model gave each a probability before it came: the darker, or in dark mode the brighter, the more it expected it. Point at one.");
  const note = el("div");
  const spans = PROBE.tokens.map((token) => {
    const one = el("span", { class: "token", text: plain(token.text), tabindex: 0, on: { click: () => tell(token) } });
    one.addEventListener("keydown", (e) => { if (e.key === "Enter") tell(token); });
    const draw = () => paint(one, token.logprob === null ? 0 : Math.exp(token.logprob));
    draw();
    redraws.push(draw);
    tells(one, () => `${quoted(token.text)}\nid ${token.id}, bytes ${token.bytes}\nprobability ${chance(token.logprob)}, rank ${token.rank === null ? "–" : whole(token.rank)}`);
    return one;
  });
  const tell = (token) => {
    spans.forEach((s, i) => s.classList.toggle("chosen", i === token.position));
    note.replaceChildren(facts([
      ["token", quoted(token.text)], ["position", token.position], ["id", token.id], ["bytes", token.bytes.match(/../g).join(" ")],
      ["probability", chance(token.logprob)], ["rank", token.rank === null ? "–" : whole(token.rank)], ["entropy after it, nats", number(token.entropy)],
    ]));
  };
  made.append(el("div", { class: "text" }, spans), scaleBar("unexpected", "certain"));
  made.append(el("p"), note);
  tell(PROBE.tokens[PROBE.tokens.length - 1]);
  const loss = PROBE.prompt.loss;
  if (loss !== null) made.append(el("p", { class: "quiet", text: `loss ${number(loss)} nats a token, perplexity ${number(PROBE.prompt.perplexity)}` }));
}

function nextSection() {
  if (!PROBE) return;
  const next = PROBE.prompt.next, most = Math.exp(next.top[0].logprob ?? 0);
  const made = section("next", "What may come next", `Entropy ${number(next.entropy)} nats, as of ${number(Math.exp(next.entropy))} equally likely tokens; margin ${number(next.margin)} in log-probability between the first two.`);
  made.append(el("div", { class: "bars" }, next.top.flatMap((one) => [
    el("span", { class: "mono", text: quoted(one.text) }),
    el("i", { css: { width: (100 * one.probability) / most + "%" } }),
    el("span", { text: percent(one.probability) }),
  ])), details("as numbers", table(["rank", "token", "id", "probability", "log-probability"],
    next.top.map((one) => [one.rank, quoted(one.text), one.id, number(one.probability), number(one.logprob)]))));
}

function lensSection() {
  if (!PROBE) return;
  const lens = PROBE.prompt.lens, word = (id) => lens.vocabulary[id];
  const made = section("lens", "Logit lens",
    "What the model would say next if it stopped after each block: its final norm and output head on the residual stream. Colour is the probability of the word shown.");
  const side = el("div");
  const name = (stage) => (stage ? "block " + (stage - 1) : "embedding");
  let chosen = null;
  const tell = (stage, place, cell) => {
    const one = lens.readings[stage][place];
    if (chosen) chosen.classList.remove("chosen");
    (chosen = cell).classList.add("chosen");
    const at = lens.first_position + place, rank = one.rank === null ? [] : [["rank of what came", whole(one.rank)], ["its probability", chance(one.logprob)]];
    const most = Math.exp(one.top[0][1] ?? 0);
    side.replaceChildren(el("h3", { text: `After ${name(stage)}, at ${quoted(PROBE.tokens[at].text)} (${at})` }),
      el("div", { class: "bars" }, one.top.flatMap(([id, p]) => [
        el("span", { class: "mono", text: quoted(word(id)) }), el("i", { css: { width: (100 * Math.exp(p)) / most + "%" } }), el("span", { text: chance(p) })])),
      el("p"), facts([["entropy, nats", number(one.entropy)], ...rank]));
  };
  const head = PROBE.tokens.slice(lens.first_position).map((token) => el("th", { text: plain(token.text).trim() || quoted(token.text) }));
  const body = lens.readings.map((row, stage) => el("tr", {}, [el("th", { text: name(stage) }), ...row.map((one, place) => {
    const [id, logprob] = one.top[0], cell = el("td", { text: plain(word(id)).trim() || quoted(word(id)) });
    const draw = () => paint(cell, Math.exp(logprob ?? -99));
    draw();
    redraws.push(draw);
    cell.addEventListener("click", () => tell(stage, place, cell));
    tells(cell, () => one.top.map(([other, p]) => `${chance(p)} ${quoted(word(other))}`).join("\n"));
    return cell;
  })]));
  const scroll = el("div", { class: "scroll", tabindex: 0, "aria-label": "Logit lens" }, [el("table", { class: "lens" }, [el("thead", {}, [el("tr", {}, [el("th", { text: "at" }), ...head])]), el("tbody", {}, body)])]);
  made.append(scroll, scaleBar("0", "1"), el("p"), side);
  const last = body[body.length - 1].lastChild;
  tell(lens.readings.length - 1, lens.readings[0].length - 1, last);
  requestAnimationFrame(() => { scroll.scrollLeft = scroll.scrollWidth; });
  if (lens.first_position) made.append(el("p", { class: "quiet", text: `The last ${head.length} of ${PROBE.tokens.length} tokens.` }));
}
