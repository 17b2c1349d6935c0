// Sends images to /classify, shows the way each took, and polls /state.
"use strict";
const at = id => document.getElementById(id);
let models = [], work = Promise.resolve();
const MOST_PARTS = 5; // of a mask, or kinds of objects, that are named
const seen = new Map(); // model → costs and milliseconds of its images

// 8 × 8 digits of scikit-learn (BSD licence), of the test split
const DIGITS = {
  "digit-3.png": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAQklEQVR42i3IQRGAIAAAsJ1nEBtYgQhEIAoNiEIEIkgDaYAN8KG/3VDWlUCKawF5Rjb0Z3yjzONXbXZCOEOHerfMC4UmEWlQ8t98AAAAAElFTkSuQmCC",
  "digit-9.png": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAQ0lEQVR42iXKQRVAQBQAwCHBRqCBBkTYCBrQRARPoq/BRqDBdzDnQZwF1Gw7eq9rA0PLXEFZjvgXseqo0z3XERFPhg9qIhLFr9M8kQAAAABJRU5ErkJggg==",
  "digit-4.png": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAOklEQVR42i3BURGAIAAFsJ1nACIQxQhEogHRiAANsMHzxw1GHigjs8LK6lDOaRnQknRQZwo3e3u5/D4bjRPmzKFjmwAAAABJRU5ErkJggg==",
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
async function ask(path, options = {}) {
  const headers = at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  const found = await answer.json();
  if (answer.status === 401) at("token-field").hidden = false;
  if (!answer.ok) throw new Error(found.error);
  return found;
}
const chosen = () => models.find(model => model.name === at("model").value);
const percent = share => `${Math.round(100 * share)} %`;
const short = ms => ms < 10 ? ms.toPrecision(2) : ms.toFixed(0);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function fillModels() {
  const before = at("model").value;
  at("model").replaceChildren(...models.map(model => make("option", {}, model.name)));
  if (models.some(model => model.name === before)) at("model").value = before;
  else choose();
}
function choose() {
  const options = chosen().budgets.map(budget => make("option", { value: budget }, `${budget} of the work`));
  at("budget").replaceChildren(make("option", { value: "" }, "the network's own"), ...options);
  at("samples").querySelector("span").replaceChildren(...samples(chosen()).map(([name, draw]) => {
    const button = make("button", { type: "button" }, name.replace(/[-]/g, " ").replace(".png", ""));
    button.addEventListener("click", async () => take([new File([await draw()], name, { type: "image/png" })]));
    return button;
  }));
  tell();
}

// Samples: digits for networks that read digits, else a card that belongs to no class
function samples(model) {
  const [channels, height, width] = model.input_size;
  if (!model.digits) return [["test-card.png", () => drawn(width, height, pen => card(pen, width, height, channels))]];
  if (width === 8) return Object.entries(DIGITS).map(([name, text]) => [name, () => decoded(text)]);
  return ["2", "3", "7"].map(digit => [`drawn-${digit}.png`, () => drawn(width, height, pen => figure(pen, width, height, digit))]);
}
const decoded = text => new Blob([Uint8Array.from(atob(text), c => c.charCodeAt(0))], { type: "image/png" });
function drawn(width, height, draw) {
  const canvas = make("canvas", { width, height });
  draw(canvas.getContext("2d"));
  return new Promise(done => canvas.toBlob(done, "image/png"));
}
function figure(pen, width, height, digit) {
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = "white";
  pen.font = `${.8 * height}px sans-serif`;
  pen.textAlign = "center";
  pen.fillText(digit, width / 2, .78 * height);
}
function card(pen, width, height, channels) {
  for (let stripe = 0; stripe < 8; stripe++) {
    pen.fillStyle = `hsl(${45 * stripe} ${channels === 1 ? 0 : 80}% ${25 + 7 * stripe}%)`;
    pen.fillRect(stripe * width / 8, 0, width / 8 + 1, height);
  }
  pen.fillStyle = "white";
  pen.arc(width / 2, height / 2, height / 4, 0, 2 * Math.PI);
  pen.fill();
}

async function classify(file) {
  const labels = chosen().labels, where = new URLSearchParams({ model: at("model").value, ...(labels ? {} : { pictures: true }) });
  if (at("budget").value) where.set("budget", at("budget").value);
  const found = await ask(`${labels ? "/classify" : "/predict"}?${where}`, { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" } });
  const { model: name, predictions: [first], ...others } = found;
  return { ...others, ...first, model: models.find(model => model.name === name) };
}
function compared(score, threshold) {
  let digits = 3;
  while (digits < 8 && score.toFixed(digits) === threshold.toFixed(digits)) digits += 1;
  return `${score.toFixed(digits)} ${score > threshold ? ">" : "≤"} ${threshold.toFixed(digits)}`;
}
function way({ model, ...found }) {
  const scores = [...found.confidences], last = model.exits.length - 1;
  return model.exits.map((_, k) => {
    if (model.off.includes(k)) return null;
    const [name, threshold] = [k < last ? `exit ${k}` : "final exit", found.thresholds[k] ?? null];
    if (k > found.exit) return make("li", { class: "skipped" }, `${name}: not run`);
    const score = k < last ? scores.shift() : undefined;
    const sure = score === undefined ? "" : threshold === null ? `${score.toFixed(3)}, ` : `${compared(score, threshold)}, `;
    const what = k === found.exit ? "left here" : threshold === null ? "switched off" : "went on";
    return make("li", { class: k === found.exit ? "left" : "passed" }, `${name}: ${sure}${what}`);
  }).filter(item => item);
}
function row(file, found) {
  const { model } = found;
  const picture = make("img", { alt: file.name, src: found.picture ?? URL.createObjectURL(file), ...(found.picture ? { class: "large" } : {}) });
  const parts = Object.entries(found.shares ?? found.counts ?? {}).sort((a, b) => b[1] - a[1]).filter(([, share]) => share >= .005);
  const told = ([name, many]) => found.counts ? `${many} ${name}` : `${name} ${percent(many)}`;
  const text = found.label === undefined
    ? make("p", {}, make("b", {}, parts.slice(0, MOST_PARTS).map(told).join(", ") || "nothing"), ` · ${file.name}`)
    : make("p", {}, make("b", {}, found.label), ` ${(100 * found.probability).toFixed(1)} % sure · ${file.name}`);
  const cost = make("p", { class: "soft cost" }, `${models.length > 1 ? `${model.name}: ` : ""}${percent(found.relative_cost)} of the plain network's work, ${short(model.alone_ms[found.exit])} ms when alone`
    + ` · never leaving early: ${percent(model.costs.at(-1))}, ${short(model.alone_ms.at(-1))} ms`);
  const spent = make("p", { class: "soft" }, `This request: ${short(found.milliseconds)} ms in the server, of which ${short(found.network_milliseconds)} in the network`);
  const attributes = { "data-file": file.name, "data-label": found.label ?? parts[0]?.[0] ?? "", "data-exit": found.exit };
  return make("article", attributes, picture, make("div", {}, text, cost, spent, make("ol", { "aria-label": "way through the network" }, ...way(found))));
}
async function takeAll(files) {
  at("error").textContent = "";
  let first = true;
  for (const file of files) {
    let article;
    try {
      const found = await classify(file);
      article = row(file, found);
      const { name } = found.model;
      seen.set(name, [...(seen.get(name) ?? []), { cost: found.relative_cost, ms: found.model.alone_ms[found.exit] }]);
      tell();
    } catch (error) {
      article = make("article", { class: "failed", "data-file": file.name }, make("p", {}, `${file.name}: ${error.message}`));
    }
    at("answers").append(article);
    if (first) article.scrollIntoView({ block: "nearest" });
    first = false;
  }
}
// One upload after the other: answers stand in the order of the images
const take = files => { work = work.then(() => takeAll(files)); };

function tell() {
  const model = chosen(), images = seen.get(model.name) ?? [];
  if (!images.length) { at("total").textContent = at("legend").textContent = ""; return; }
  const mean = key => images.reduce((sum, image) => sum + image[key], 0) / images.length;
  at("total").textContent = `${plural(images.length, "image")} at ${percent(mean("cost"))} of the plain network's work, on average ${short(mean("ms"))} ms when alone. `
    + `Never leaving early: ${percent(model.costs.at(-1))}, ${short(model.alone_ms.at(-1))} ms.`;
  at("legend").textContent = `An exit shows the image's score (${model.score}) beside its threshold: an image leaves at the first exit where its score is above; what comes after isn't run. `
    + "“When alone” is the time in the network with no other image in the server, measured for every exit when the server started. "
    + "“In the server” is from the whole request to its answer, with decoding and waiting, without the way over the wire.";
}

function bars(svg, values, say) {
  const most = Math.max(...values.map(v => v ?? 0), 1e-9), step = 320 / values.length;
  const shape = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  svg.setAttribute("aria-label", values.map((v, k) => `exit ${k}: ${v === null ? "none" : say(v)}`).join(", "));
  svg.replaceChildren(...values.flatMap((v, k) => {
    const height = 110 * (v ?? 0) / most, x = k * step + step / 2;
    return [shape("rect", { x: x - step * .3, y: 130 - height, width: step * .6, height, ...(k === values.length - 1 ? { class: "last" } : {}) }),
      shape("text", { x, y: 124 - height, "text-anchor": "middle" }, v === null ? "–" : say(v)),
      shape("text", { x, y: 148, "text-anchor": "middle" }, k === values.length - 1 ? "final" : `exit ${k}`)];
  }));
}
async function refresh() {
  try {
    models = await ask("/state");
    fillModels();
    const model = chosen(), total = model.exit_counts.reduce((a, b) => a + b, 0);
    bars(at("shares"), model.exit_counts.map(count => count / Math.max(total, 1)), percent);
    bars(at("times"), model.median_ms, short);
    at("about").textContent = `${plural(total, "image")}; ${model.inside} waiting; thresholds: ${model.now}; on ${model.backend}`
      + (model.drift === null ? "" : model.drift ? "; these images are not like those of calibration" : "; no drift found");
    document.body.dataset.ready = "";
  } catch (error) {
    at("error").textContent = error.message;
  }
}

at("files").addEventListener("change", event => { take([...event.target.files]); event.target.value = ""; });
at("model").addEventListener("change", () => { choose(); refresh(); });
at("token").addEventListener("change", refresh);
at("settings").addEventListener("submit", event => event.preventDefault());
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) at("drop").addEventListener(kind, event => {
  event.preventDefault();
  at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  if (kind === "drop") take([...event.dataTransfer.files]);
});
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
