// Build the page from top to bottom.

function heading() {
  const config = (DATA.probe || DATA.files).config || {}, seed = DATA.probe ? DATA.probe.seed : null;
  document.getElementById("name").textContent = plain(DATA.files.name);
  document.getElementById("summary").textContent = [
    seed === null ? "" : `untrained, seed ${seed}`,
    config.n_layers ? `${whole(config.n_layers)} blocks` : "",
    config.n_heads ? `${config.n_heads} heads` : "",
    config.emb_dim ? `${whole(config.emb_dim)} wide` : "",
    config.context_length ? `context ${whole(config.context_length)}` : "",
    config.vocab_size ? `${whole(config.vocab_size)} tokens` : "",
  ].filter(Boolean).join(" · ");
  document.getElementById("footer").textContent = `Made by gptcli ${DATA.version}. This file needs no network and holds all of its data.`;
}
function redrawAll() {
  hideTip();
  for (const draw of redraws) draw();
}

document.getElementById("main").replaceChildren();
heading();
for (const part of [textSection, nextSection, attentionSection, lensSection, activationsSection, gradientsSection, parametersSection]) part();
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  redrawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) { width = innerWidth; redrawAll(); }
});
document.body.dataset.ready = "yes";
