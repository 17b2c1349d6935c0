// Draws the page from the JSON in #data; the slider moves everything that a budget changes.
"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const nets = page.networks, several = nets.length > 1, metric = page.metric;
const capital = /^[a-z]+$/.test(metric) ? metric[0].toUpperCase() + metric.slice(1) : metric;
const percent = (x, digits = 2) => (100 * x).toFixed(digits) + " %";
const sum = values => values.reduce((a, b) => a + b, 0);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.flat().filter(child => child !== null));
  return node;
}
function table(head, rows, attributes = {}) {
  const line = (cells, tag) => make("tr", {}, cells.map(c => make(tag, tag === "th" ? { scope: "col" } : {}, c)));
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": head.join(", ") },
    make("table", attributes, make("thead", {}, line(head, "th")), make("tbody", {}, rows.map(r => line(r, "td")))));
}
function section(title, about) {
  const body = make("div", { class: "grid" });
  document.querySelector("main").append(make("section", {}, make("h2", {}, title),
    about ? make("p", { class: "soft" }, about) : null, body));
  return body;
}
const titled = (net, ...content) => make("article", {}, several ? make("h3", {}, net.name) : null, ...content);
const exit_colour = (net, k) => k === net.exits.length - 1 ? page.final_colour : page.colours[k % page.colours.length];
const keyed = (net, k) => make("span", { class: "wraps exit" }, make("i", { class: "key", style: `background:${exit_colour(net, k)}` }), net.exits[k]);

// ---- plots
const grey = "#7d8894", grid = "rgba(125,136,148,.25)", family = getComputedStyle(document.body).fontFamily;
const axis = more => ({ gridcolor: grid, zerolinecolor: "rgba(125,136,148,.5)", ...more });
function draw(where, traces, x, y, height, label) {
  where.classList.add("plot");
  where.setAttribute("role", "img");
  where.setAttribute("aria-label", label);
  return Plotly.newPlot(where, traces, {
    height, margin: { l: 62, r: 12, t: 10, b: 45 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: grey, size: 13, family }, hoverlabel: { font: { family } },
    legend: { orientation: "h", xref: "container", x: 0, yref: "container", y: 1, yanchor: "top" },
    xaxis: axis(x), yaxis: axis({ automargin: true, ...y, title: { standoff: 10, ...y.title } }),
  }, { responsive: true, displayModeBar: false });
}

// ---- the budget
const position = { label: null };  // null: each network's own policy
const setting = net => {
  if (position.label === null) return net.settings[0];
  const wanted = Number(position.label), fits = net.settings.filter(s => s.budget !== null && s.budget <= wanted + 1e-9);
  return fits.at(-1) ?? net.settings.find(s => s.budget !== null) ?? net.settings[0];
};
const exiting = nets.filter(net => net.exits.length > 1), moved = [];
const move = label => { position.label = label; moved.forEach(update => update()); };

function dial() {
  const bar = make("div", { id: "dial" }), budgets = page.budgets;
  const own = make("button", { type: "button", "aria-pressed": "true" }, several ? "each network's own policy" : "the network's own policy");
  const shown = make("output", { for: "budget" });
  const slider = make("input", { id: "budget", type: "range", min: 0, max: budgets.length - 1, step: 1 });
  const nearest = budgets.reduce((best, b, i) => Math.abs(b - nets[0].settings[0].cost) < Math.abs(budgets[best] - nets[0].settings[0].cost) ? i : best, 0);
  slider.value = nearest;
  const chosen = event => { if (!event.key || /^(Arrow|Page|Home|End)/.test(event.key)) move(budgets[slider.value]); };
  for (const kind of ["input", "click", "keyup"]) slider.addEventListener(kind, chosen);  // a choice, too, where it stands already
  own.addEventListener("click", () => { slider.value = nearest; move(null); });
  bar.append(make("label", { for: "budget" }, "Budget"), slider, shown, own);
  document.querySelector("main").append(bar);
  moved.push(() => {
    const text = position.label === null ? `cost ${exiting.map(net => setting(net).cost.toFixed(3)).join(" · ")} (own)` : `budget ${Number(position.label).toFixed(3)}`;
    shown.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    own.setAttribute("aria-pressed", String(position.label === null));
  });
}

// ---- what is shown
const fewer = cost => `${Math.round(100 * Math.abs(1 - cost))} % ${cost > 1 ? "more" : "fewer"} MACs`;
function better(difference) {
  const points = 100 * Math.abs(difference);
  return points < .005 ? page.compared[2] : `${points.toFixed(points < .1 ? 2 : 1)} points ${page.compared[difference > 0 ? 0 : 1]}`;
}
function headline(net) {  // the times are of the network's own policy
  const now = setting(net), rows = position.label === null && net.timings ? net.timings.rows : [];
  const [row] = rows.toSorted((a, b) => a.batch_size - b.batch_size || a.early_exit_ms - b.early_exit_ms);
  const faster = row ? `${row.speedup.toFixed(row.speedup < 1 ? 2 : 1)} times as fast (${row.backend}, batch ${row.batch_size}), ` : "";
  const full = better(now.quality - net.full), than = full === page.compared[2] ? "as" : "than";
  return [`${fewer(now.cost)} than the plain backbone, ${faster}${full} ${than} never leaving early`, ...nets.filter(n => n.exits.length === 1).map(plain =>
    `against ${plain.name}: ${fewer(now.cost * net.scale / (plain.full_cost * plain.scale))}, ${better(now.quality - plain.full)}`)].join("; ") + ".";
}
function cut(net) {  // what deciding is worth: the best exit that costs no more, for all images
  const now = setting(net), able = net.cuts.map((cut, k) => ({ ...cut, k })).filter(cut => cut.cost <= now.cost);
  const good = able.filter(cut => cut.quality > now.quality - .001).sort((a, b) => a.cost - b.cost);  // a tenth of a point
  const [best] = good.length ? good : able.sort((a, b) => b.quality - a.quality);
  return best ? `A static cut${good.length ? " is as good here" : ""}: all images at exit ${best.k}, cost ${best.cost.toFixed(3)}, ${better(best.quality - now.quality)}.` : "";
}
function summary() {
  const body = section("At this budget", "Thresholds were set on other images; all that is shown is measured on the " + page.images.toLocaleString("en") + " images of this page. "
    + "Relative cost: MACs spent per image, exit heads included, divided by those of the plain backbone.");
  for (const net of nets) {
    const tiles = make("div", { class: "tiles", "aria-live": "polite" }), shares = make("div", { class: "shares" });
    const head = make("p", { class: "headline", "aria-live": "polite" }), early = net.exits.length > 1;
    const worth = make("p", { class: "soft" });
    const about = [net.about, net.policy].filter(Boolean).map(text => make("p", { class: "soft" }, text));
    body.append(titled(net, ...(early ? [head, worth, ...about, tiles, shares] : [...about, tiles])));
    moved.push(() => {
      const now = setting(net), total = sum(now.counts);
      const tile = (value, ...lines) => make("div", { class: "tile" }, make("b", {}, value), lines.map(line => make("div", {}, line)));
      const [low, high] = now.interval;
      if (early) [head.textContent, worth.textContent] = [headline(net), cut(net)];
      tiles.replaceChildren(
        tile(percent(now.quality), `${metric}${early ? ", leaving early" : ""}`, `95 %: ${(100 * low).toFixed(2)} to ${(100 * high).toFixed(2)}`),
        tile(now.cost.toFixed(3), "mean relative cost", ...(net.scale === 1 ? [] : [`${(now.cost * net.scale).toFixed(3)} of ${nets[0].backbone}`])),
        ...(early ? [tile(percent(net.full), `${metric}, never leaving early`), tile(now.dead.map(k => `exit ${k}`).join(", ") || "none", "dead exits")] : []));
      shares.replaceChildren(...now.counts.map((count, k) => make("div", {
        style: `flex:${count} 0 0;background:${exit_colour(net, k)}`, title: `${net.exits[k]}: ${count} images`,
      }, count > .08 * total ? percent(count / total, 0) : "")));
      shares.setAttribute("role", "img");
      shares.setAttribute("aria-label", now.counts.map((c, k) => `${net.exits[k]}: ${percent(c / total, 1)}`).join(", "));
    });
  }
}

// Costs measured on few images needn't grow with the budget: the line goes by cost, and budgets that do the same are one point of it.
function line_of(net) {
  const points = net.settings.filter(s => s.budget !== null).sort((a, b) => a.cost - b.cost || a.quality - b.quality);
  const same = (a, b) => a && a.cost === b.cost && a.quality === b.quality;
  return points.filter((point, i) => !same(points[i - 1], point)).map(point =>
    ({ ...point, x: point.cost * net.scale, budgets: points.filter(p => same(p, point)).map(p => p.budget).join(", ") }));
}

function curves() {
  const body = section(`${capital} against cost`, "Line: the budgets of the slider, by the cost measured here; its band: 95 % intervals. "
    + "Star: the network's own policy, which need not be one of them. Ring: what is shown now. "
    + (several ? `Costs of all networks are divided by the MACs of the first one's backbone (${nets[0].backbone}).` : ""));
  const where = make("div"), traces = [], now = [];
  body.style.display = "block";
  body.append(where);
  nets.forEach((net, i) => {
    const colour = page.lines[i % page.lines.length], early = net.exits.length > 1, at = `<br>cost %{x:.3f}<br>${metric} %{y:.2%}<extra></extra>`;
    const named = (alone, text = alone) => several ? `${net.name}${text && `: ${text}`}` : alone;
    const points = line_of(net), x = points.map(p => p.x), legendgroup = several ? net.name : "";
    const dot = (cost, quality, name, marker) => traces.push({ x: [cost * net.scale], y: [quality], mode: "markers", legendgroup, name,
      hovertemplate: name + at, marker: { color: colour, line: { width: 2, color: colour }, ...marker } });
    if (points.length) {
      traces.push({ x: [...x, ...x.toReversed()], y: [...points.map(p => p.interval[1]), ...points.map(p => p.interval[0]).toReversed()], name: "band",
        fill: "toself", fillcolor: colour + "26", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup });
      traces.push({ x, y: points.map(p => p.quality), customdata: points.map(p => p.budgets), mode: "lines+markers", marker: { size: 5 },
        line: { color: colour, width: 3 }, name: named("budgets", ""), legendgroup, hovertemplate: "budget %{customdata}" + at });
    }
    if (early) {
      if (net.oracle) traces.push({ x: net.oracle.map(p => p[0] * net.scale), y: net.oracle.map(p => p[1]), mode: "lines", line: { color: colour, dash: "dot", width: 2 },
        name: named("oracle: leaves at the first right exit", "oracle"), legendgroup, visible: "legendonly", hovertemplate: "oracle" + at });
      if (net.plain) dot(1, net.plain, named("exits taken off"), { size: 11, symbol: "square-open" });
      dot(net.full_cost, net.full, named("never leaving early"), { size: 10, symbol: "square" });
      dot(net.settings[0].cost, net.settings[0].quality, named(`own policy${net.own_budget ? ` (budget ${net.own_budget})` : ""}`), { size: 15, symbol: "star" });
      now.push([traces.length, net]);
      dot(0, 0, named("shown now"), { size: 22, symbol: "circle-open" });
    } else dot(net.full_cost, net.full, `${net.name}: static`, { size: 11, symbol: "diamond" });
  });
  if (page.claim) traces.push({ x: [page.claim], y: [nets[0].full], mode: "markers", marker: { size: 13, color: grey, symbol: "diamond-open", line: { width: 2 } },
    name: `what the paper reports: similar accuracy at ${page.claim}`, hovertemplate: "Demir & Akbas 2024, abstract<extra></extra>" });
  draw(where, traces, { title: { text: "mean relative cost" }, rangemode: "tozero" }, { title: { text: metric }, tickformat: ".1%" }, 460,
    `${capital} against mean relative cost; the numbers are in the table below`);
  moved.push(() => now.forEach(([index, net]) => Plotly.restyle(where, { x: [[setting(net).cost * net.scale]], y: [[setting(net).quality]] }, [index])));
  const row = (name, { cost, quality, interval }) => [name, cost.toFixed(3), percent(quality), interval ? `${(100 * interval[0]).toFixed(2)} to ${(100 * interval[1]).toFixed(2)}` : ""];
  const rows = exiting.flatMap(net => [...net.settings.map(s => row(`${several ? `${net.name}, ` : ""}${s.budget ?? "own policy"}`, s)),
    row(`${several ? `${net.name}, ` : ""}never leaving early`, { cost: net.full_cost, quality: net.full }),
    ...(net.plain ? [row(`${several ? `${net.name}, ` : ""}exits taken off`, { cost: 1, quality: net.plain })] : [])]);
  if (rows.length) body.append(make("details", {}, make("summary", {}, "All points as a table"), table(["budget", "relative cost", metric, "95 % interval"], rows)));
}

function exits() {
  const ranked = nets.some(net => net.auroc), left = nets.some(net => net.settings[0].leaving);
  const body = section("Exits", !ranked ? null : "Ranking: how well the score tells right answers from wrong ones at this exit (area under the ROC curve); 0.5 is chance.");
  for (const net of nets.filter(n => n.exits.length > 1)) {
    const holder = make("div");
    body.append(titled(net, holder));
    moved.push(() => {
      const now = setting(net), total = sum(now.counts);
      holder.replaceChildren(table(["exit", "cost", "images", ...(left ? [`${metric} of these`] : []), left ? "on all images" : `${metric} on all images`, ...(ranked ? ["ranking"] : [])], net.exits.map((_, k) => [
        keyed(net, k), now.costs[k].toFixed(3), now.off.includes(k) ? "off" : make("span", { class: "wraps" }, `${now.counts[k]} (${percent(now.counts[k] / total, 1).replace(" ", "\u00a0")})`),
        ...(left ? [now.leaving[k] === null ? "–" : percent(now.leaving[k])] : []), percent(net.exit_quality[k]), ...(ranked ? [net.auroc[k]?.toFixed(3) ?? "–"] : [])])));
    });
  }
}

const FEW = 10;  // images in a bin: an accuracy of so few says little
const populated = bins => Object.fromEntries(Object.entries(bins).map(([key, values]) => [key, values.filter((_, i) => bins.count[i] >= FEW)]));

function reliability() {
  const known = nets.filter(net => net.reliability);
  if (!known.length) return;
  const body = section("Is a probability what it says?", "Images in bins of the largest class probability at each exit, all images counted at every exit, "
    + "bins of fewer than 10 left out. On the diagonal, probability and accuracy agree. In brackets: expected calibration error.");
  for (const net of known) {
    const where = make("div", { style: "max-width:44rem" });
    body.append(titled(net, where));
    draw(where, [{ x: [0, 1], y: [0, 1], mode: "lines", line: { color: grey, dash: "dot" }, hoverinfo: "skip", showlegend: false },
      ...net.reliability.map(populated).map((r, k) => ({ x: r.probability, y: r.accuracy, customdata: r.count, mode: "lines+markers",
        marker: { size: r.count.map(c => 4 + 14 * Math.sqrt(c / sum(r.count))) }, line: { color: exit_colour(net, k) },
        name: `${net.exits[k]} (${net.calibration_error[k].toFixed(3)})`, hovertemplate: "%{customdata} images<br>probability %{x:.3f}<br>accuracy %{y:.3f}" }))],
      { title: { text: "probability" }, range: [0, 1.02] }, { title: { text: "accuracy" }, range: [0, 1.05] }, 380, `Reliability of ${net.name}`);
  }
}

function confusion() {
  if (!nets.every(net => setting(net).confusion)) return;
  const body = section("Confusions", page.classes.length <= page.matrix_up_to ? "Rows: what it is; columns: the answer. Per cent of the row." : "The most frequent ones.");
  for (const net of nets) {
    const holder = make("div");
    body.append(titled(net, holder));
    moved.push(() => holder.replaceChildren(page.classes.length <= page.matrix_up_to ? matrix(setting(net)) : frequent(setting(net))));
  }
}
function matrix(now) {
  const names = page.classes, of = names.map(() => 0);
  now.confusion.forEach(([is, , count]) => { of[is] += count; });
  const cells = names.map(() => names.map(() => 0));
  now.confusion.forEach(([is, said, count]) => { cells[is][said] = count / of[is]; });
  const shade = (x, right) => right ? `color-mix(in srgb, #1b7f5c ${Math.round(60 * x)}%, transparent)` : `color-mix(in srgb, var(--red) ${Math.round(100 * Math.min(1, 4 * x))}%, transparent)`;
  const cell = (x, i, j) => make("td", { style: `background:${x ? shade(x, i === j) : "none"}${i !== j && x > .2 ? ";color:var(--paper)" : ""}`, title: `${names[i]}, answer ${names[j]}: ${percent(x, 1)}` },
    x >= .0005 ? (100 * x).toFixed(x < .0995 ? 1 : 0) : "");
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "confusion matrix" }, make("table", { class: "confusion" },
    make("thead", {}, make("tr", {}, make("td"), names.map(n => make("th", { scope: "col" }, n)))),
    make("tbody", {}, names.map((n, i) => make("tr", {}, make("th", { scope: "row" }, n), cells[i].map((x, j) => cell(x, i, j)))))));
}
function frequent(now) {
  return table(["it is", "the answer", page.counted], now.confusion.map(([is, said, count]) => [page.classes[is], page.classes[said], String(count)]));
}

function classes() {
  const many = page.classes.length > page.matrix_up_to;
  const body = section("Classes", many ? `The ${page.matrix_up_to} with the lowest ${page.class_metric}.` : `The lowest ${page.class_metric} first.`);
  for (const net of nets) {
    const holder = make("div"), early = net.exits.length > 1;
    body.append(titled(net, holder));
    moved.push(() => holder.replaceChildren(table(["class", page.counted, page.class_metric, ...(early ? ["never leaving early"] : [])],
      setting(net).by_class.map(([n, count, ours, full]) => [page.classes[n], String(count), percent(ours, 1), ...(early ? [percent(full, 1)] : [])]))));
  }
}

function strips() {
  const body = section("Easy and hard images", `At the network's own policy. ${page.pictured}`);
  for (const net of nets) {
    const parts = net.strips.map(strip => [make("h4", {}, `${strip.title}`), make("div", { class: "strip" }, strip.figures.length ? strip.figures.map(f =>
      make("figure", { class: `${f.wrong ? "wrong" : ""} ${f.wide ? "wide" : ""}`.trim() }, make("img", { src: f.src, alt: f.caption }), make("figcaption", {}, f.caption))) : make("span", { class: "soft" }, "none"))]);
    body.append(titled(net, ...parts.flat()));
  }
}

function damage() {
  const with_rows = nets.filter(net => net.corruptions.length);
  if (!with_rows.length) return;
  const body = section("Under damage", "The same policy on damaged images, by severity; solid: leaving early, dotted: the full network.");
  const kinds = [...new Set(with_rows.flatMap(net => net.corruptions.map(r => r.corruption)))].filter(k => k !== "none");
  const select = make("select", { id: "kind", "aria-label": "kind of damage" }, ["mean of all kinds", ...kinds].map(k => make("option", { value: k }, k.replaceAll("_", " "))));
  const accuracy = make("div"), cost = make("div");
  body.before(select);
  body.append(accuracy, cost);
  const lines = (net, key) => {
    const rows = net.corruptions.filter(r => r.corruption === "none" || select.selectedIndex === 0 || r.corruption === select.value);
    const at = [...new Set(rows.map(r => r.severity))].sort((a, b) => a - b);
    return { x: at, y: at.map(s => { const these = rows.filter(r => r.severity === s); return sum(these.map(r => r[key])) / these.length; }) };
  };
  const update = () => {
    const traces = (keys) => with_rows.flatMap(net => keys.map(([key, dash, name]) => ({ ...lines(net, key), mode: "lines+markers",
      line: { color: page.lines[nets.indexOf(net) % page.lines.length], dash }, name: several ? `${net.name}${name}` : (name || "leaving early").replace(/^: /, "") })));
    const x = { title: { text: "severity" }, dtick: 1 };
    draw(accuracy, traces([["accuracy", "solid", ""], ["full_accuracy", "dot", ": full network"]]), x, { title: { text: "accuracy" }, tickformat: ".0%", rangemode: "tozero" }, 360, "Accuracy by severity");
    draw(cost, traces([["relative_cost", "solid", ""]]), x, { title: { text: "mean relative cost" }, rangemode: "tozero" }, 360, "Cost by severity");
  };
  select.addEventListener("change", update);
  update();
  for (const net of with_rows) body.append(make("details", {}, make("summary", {}, several ? `${net.name} as a table` : "As a table"),
    table(["damage", "severity", "accuracy", "full network", "cost"], net.corruptions.map(r => [r.corruption.replaceAll("_", " "), String(r.severity), percent(r.accuracy), percent(r.full_accuracy), r.relative_cost.toFixed(3)]))));
}

function clock() {
  const timed = nets.filter(net => net.timings);
  if (!timed.length) return;
  const body = section("On the clock", "Milliseconds per batch: its median over the runs, then the mean over batches; plain backbone and early exit took turns on the same backend. "
    + "Speed-up: plain by early exit; by MACs: what the MACs promise. Efficiency: the time that the stages run would take as parts of the plain backbone, divided by the time taken.");
  for (const net of timed) body.append(titled(net, table(["backend", "batch", "plain ms", "early exit ms", "speed-up", "by MACs", "efficiency"],
    net.timings.rows.map(r => [r.backend, String(r.batch_size), r.plain_ms.toPrecision(3), r.early_exit_ms.toPrecision(3), r.speedup.toFixed(2), r.mac_speedup.toFixed(2), r.efficiency.toFixed(2)])),
    make("p", { class: "soft" }, `on ${net.timings.hardware}`)));
}

function reproduce() {
  const known = nets.filter(net => net.command);
  if (!known.length) return;
  const body = section("How to reproduce");
  body.style.display = "block";
  for (const net of known) body.append(titled(net, make("pre", { tabindex: 0 }, net.command)));
}

if (page.budgets.length) dial();
for (const part of [summary, exits, curves, reliability, classes, confusion, strips, damage, clock, reproduce]) part();
for (const plot of document.querySelectorAll(".plot")) Plotly.Plots.resize(plot);  // a neighbour that came later made it narrower
move(null);
document.body.dataset.ready = "";
