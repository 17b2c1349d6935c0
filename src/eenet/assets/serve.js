// Sends images to /classify, shows the way each took, and polls /state.
"use strict";
const at = id => document.getElementById(id);
let models = [], done = 0, spent = 0;

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

function fillModels() {
  const before = at("model").value;
  at("model").replaceChildren(...models.map(model => make("option", {}, model.name)));
  if (models.some(model => model.name === before)) at("model").value = before;
  else fillBudgets();
}
function fillBudgets() {
  const options = chosen().budgets.map(budget => make("option", { value: budget }, `${budget} of the work`));
  at("budget").replaceChildren(make("option", { value: "" }, "the network's own"), ...options);
}

async function classify(file) {
  const where = new URLSearchParams({ model: at("model").value });
  if (at("budget").value) where.set("budget", at("budget").value);
  const start = performance.now();
  const found = await ask(`/classify?${where}`, { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" } });
  return { ...found.predictions[0], ms: performance.now() - start, model: models.find(model => model.name === found.model) };
}
function row(file, found) {
  const { model } = found;
  const way = model.exits.map((name, k) => {
    if (model.off.includes(k)) return null;
    const kind = k < found.exit ? "passed" : k === found.exit ? "left" : "skipped";
    const order = model.exits.slice(0, k).filter((_, j) => !model.off.includes(j)).length;
    const sure = k <= found.exit && k < model.exits.length - 1 ? `: ${found.confidences[order].toFixed(3)}` : "";
    return make("li", { class: kind }, `${k < model.exits.length - 1 ? `exit ${k}` : "final exit"}${sure}`);
  }).filter(item => item);
  const picture = make("img", { alt: file.name, src: URL.createObjectURL(file) });
  const text = make("p", {}, make("b", {}, found.label), ` ${(100 * found.probability).toFixed(1)} % · `
    + `${(100 * found.relative_cost).toFixed(0)} % of the work · ${found.ms.toFixed(0)} ms · ${file.name}`);
  const attributes = { "data-file": file.name, "data-label": found.label, "data-exit": found.exit };
  return make("article", attributes, picture, text, make("ol", { "aria-label": "way through the network" }, ...way));
}
async function take(files) {
  at("error").textContent = "";
  for (const file of files) {
    try {
      const found = await classify(file);
      at("answers").prepend(row(file, found));
      done += 1;
      spent += found.relative_cost;
      at("total").textContent = `${done} image${done === 1 ? "" : "s"} at ${Math.round(100 * spent / done)} % of the work of the plain network`;
    } catch (error) {
      at("error").textContent = `${file.name}: ${error.message}`;
    }
  }
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
    bars(at("shares"), model.exit_counts.map(count => count / Math.max(total, 1)), v => `${Math.round(100 * v)} %`);
    bars(at("times"), model.median_ms, v => v.toPrecision(3));
    at("about").textContent = `${total} image${total === 1 ? "" : "s"}; ${model.inside} waiting; thresholds: ${model.now}; on ${model.backend}`
      + (model.drift === null ? "" : model.drift ? "; these images are not like those of calibration" : "; no drift found");
    document.body.dataset.ready = "";
  } catch (error) {
    at("error").textContent = error.message;
  }
}

at("files").addEventListener("change", event => take([...event.target.files]));
at("model").addEventListener("change", () => { fillBudgets(); refresh(); });
at("token").addEventListener("change", refresh);
at("settings").addEventListener("submit", event => event.preventDefault());
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) at("drop").addEventListener(kind, event => {
  event.preventDefault();
  at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  if (kind === "drop") take([...event.dataTransfer.files]);
});
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
