"use strict";
// The report's object, and small helpers. Texts of models are only ever put in as text, never as markup.
const report = JSON.parse(document.getElementById("data").textContent);
const labels = report.models.map((model) => model.label);
const alone = labels.length === 1;
// How a model is drawn: colour, stroke and mark differ. A model alone is drawn solid, as in the pictures.
const look = (model) => (alone ? 1 : model % report.looks.length);

const make = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, ...rest) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), rest[0], rest.slice(1));

function fill(element, attributes = {}, children = []) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (known(value)) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const known = (value) => value !== null && value !== undefined;
const fixed = (value) => (known(value) ? value.toFixed(2) : "–");
const percent = (share) => `${Math.round(100 * share)}%`;
const lengthName = (length) => (length && length % 1024 === 0 ? `${length / 1024}K` : String(length));
const signed = (value) => (Math.abs(value) < 0.005 ? "0" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
const between = (pair) => (pair ? ` (${fixed(pair[0])} to ${fixed(pair[1])})` : "");

// The models that answered a task, as [number, scores].
const answered = (task) => task.results.map((scores, model) => [model, scores]).filter(([, scores]) => scores);

// What is pointed at or focused says its numbers below its chart.
function tellOf(element, readout, text) {
  for (const event of ["pointerenter", "focus"]) element.addEventListener(event, () => { readout.textContent = text; });
}

// Arrow keys move among the places of a chart; only one of them is a tab stop.
function roving(places, columns, open) {
  places.forEach((place, number) => {
    place.setAttribute("tabindex", number ? "-1" : "0");
    place.addEventListener("keydown", (event) => {
      if (open && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        open(number);
      }
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const next = places[number + step];
      if (!step || !next) return;
      event.preventDefault();
      places.forEach((one) => one.setAttribute("tabindex", one === next ? "0" : "-1"));
      next.focus();
    });
  });
}

function startTheme() {
  const button = document.getElementById("theme");
  const root = document.documentElement.dataset;
  const other = () => (root.theme === "dark" ? "light" : "dark");
  const choose = (theme) => {
    root.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(theme === "dark"));
    button.setAttribute("aria-label", `Switch to ${other()} colours`);
  };
  choose(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  button.addEventListener("click", () => choose(other()));
}

// A model that is switched off is hidden in every chart, heat map and table.
function hideModels() {
  for (const { checked, dataset } of document.querySelectorAll("input[data-model]")) {
    document.querySelectorAll(`[data-of="${dataset.model}"]`).forEach((one) => one.classList.toggle("hidden", !checked));
  }
}
// Curves over one another: by place in the context, by length, by depth, and perplexity.

// spec: xs (0 to 1), ticks [x, label], low, high, rules [y], number(y), series [{model, ys, bands}], weak, name(i), open(i)
function lineChart(figure, spec) {
  const holder = figure.querySelector(".plot");
  const wide = Math.max(240, holder.clientWidth);
  const tall = wide < 360 ? 180 : wide < 480 ? 230 : 280;
  const box = { left: 44, right: 12, top: 14, bottom: 40 };
  const x = (share) => box.left + share * (wide - box.left - box.right);
  const y = (value) => box.top + (1 - (value - spec.low) / (spec.high - spec.low)) * (tall - box.top - box.bottom);
  const picture = draw("svg", { width: wide, height: tall, viewBox: `0 0 ${wide} ${tall}`, role: "group", "aria-label": spec.title });
  if (spec.weak) {
    const left = x(spec.weak.start / 100);
    const width = x(spec.weak.end / 100) - left;
    picture.append(draw("rect", { class: "weak", x: left, y: box.top, width, height: tall - box.top - box.bottom }));
    picture.append(draw("text", { x: left + width / 2, y: tall - box.bottom - 6, "text-anchor": "middle", text: spec.weak.text }));
  }
  for (const value of spec.rules) {
    picture.append(draw("line", { class: "rule", x1: box.left, x2: wide - box.right, y1: y(value), y2: y(value) }));
    picture.append(draw("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end", text: spec.number(value) }));
  }
  for (const [share, label] of spec.ticks) {
    const text = spec.fit ? spec.fit(label, wide - box.left - box.right) : label;
    const edge = text.length > 6 ? 0.05 : 0; // long names at the ends stay inside
    const anchor = share <= edge ? "start" : share >= 1 - edge ? "end" : "middle";
    const at = anchor === "start" ? 0 : anchor === "end" ? 1 : share;
    picture.append(draw("text", { x: x(at), y: tall - box.bottom + 16, "text-anchor": anchor, text }));
  }
  picture.append(draw("text", { x: x(0.5), y: tall - 6, "text-anchor": "middle", text: spec.below }));
  for (const one of spec.series) picture.append(curveOf(one, spec.xs, x, y));
  labelLowest(picture, spec, x, y);
  picture.append(...hitAreas(figure, spec, x, box, tall));
  holder.replaceChildren(picture);
}

// A curve with its band and marks; places without a value leave a gap.
function curveOf({ model, ys, bands = [] }, xs, x, y) {
  const style = look(model);
  const at = (i, value) => `${x(xs[i])} ${y(value)}`;
  const line = ys.map((value, i) => (known(value) ? `${i && known(ys[i - 1]) ? "L" : "M"}${at(i, value)}` : ""));
  const band = (bands || []).map((pair, i, all) => {
    const last = all[i - 1];
    return pair && last ? `M${at(i - 1, last[1])}L${at(i, pair[1])}L${at(i, pair[0])}L${at(i - 1, last[0])}Z` : "";
  });
  const { stroke, mark } = report.looks[style];
  const marks = ys.map((value, i) => ({ value, i })).filter(({ value }) => known(value) && ys.length <= 40);
  const under = draw("path", { class: `band f${style}`, d: band.join("") });
  const over = draw("path", { class: `curve s${style}`, "stroke-dasharray": stroke, d: line.join("") });
  return draw(
    "g", { "data-of": model }, under, over,
    ...marks.map(({ value, i }) => draw("path", { class: `f${style}`, d: mark, transform: `translate(${at(i, value)})` })),
  );
}

// Each curve is named at its lowest point, unless another name is already there.
function labelLowest(picture, spec, x, y) {
  const taken = [];
  for (const one of spec.series) {
    const points = one.ys.map((value, i) => [value, i]).filter(([value]) => known(value));
    if (!points.length || spec.plain) continue;
    const value = Math.min(...points.map(([one]) => one));
    const lowest = points.filter(([one]) => one - value < 0.005);
    const i = lowest[Math.floor(lowest.length / 2)][1];
    const at = Math.min(y(value) + 20, y(spec.low) - 8);
    if (taken.some((other) => Math.abs(other - at) < 16)) continue;
    taken.push(at);
    const anchor = spec.xs[i] < 0.15 ? "start" : spec.xs[i] > 0.85 ? "end" : "middle";
    const text = `${labels[one.model]} ${spec.number(value, true)}`;
    picture.append(draw("text", { class: `low f${look(one.model)}`, "data-of": one.model, x: x(spec.xs[i]), y: at, "text-anchor": anchor, text }));
  }
}

// Every place of a chart can be pointed at, reached by arrow keys, and opened.
function hitAreas(figure, spec, x, box, tall) {
  const readout = figure.querySelector(".readout");
  const areas = spec.xs.map((share, i) => {
    const left = i ? x((spec.xs[i - 1] + share) / 2) : x(0);
    const right = i < spec.xs.length - 1 ? x((share + spec.xs[i + 1]) / 2) : x(1);
    const said = spec.series.filter((one) => known(one.ys[i])).map((one) => `${labels[one.model]} ${spec.number(one.ys[i], true)}${between(one.bands && one.bands[i])}`);
    const text = `${spec.name(i)}: ${said.join("; ") || "no answers"}`;
    const area = draw("rect", { class: "hit", role: spec.open ? "button" : "img", "aria-label": text, x: left, y: box.top, width: Math.max(1, right - left), height: tall - box.top - box.bottom });
    tellOf(area, readout, text);
    if (spec.open) area.addEventListener("click", () => spec.open(i));
    return area;
  });
  roving(areas, 1, spec.open);
  return areas;
}

const SHARES = { low: 0, high: 1, rules: [0, 0.2, 0.4, 0.6, 0.8, 1], number: (value, exact) => (exact ? fixed(value) : value.toFixed(1)) };

// Which panel a figure draws: its kind, and what its axis or its groups are by.
const PANELS = {
  curve: ["curve", "position"], grid: ["grid"], "by-length": ["curve", "length"], "by-depth": ["curve", "depth"],
  lengths: ["curve", "length"], perplexity: ["curve", "tokens"], groups: ["bars"], histogram: ["histogram"],
};

// The panels of a figure, as [number of the model, panel].
function panelsOf(figure, task) {
  const [kind, by = figure.dataset.by] = PANELS[figure.dataset.chart];
  const mine = (panel) => panel.kind === kind && (!by || panel.by === by);
  return answered(task).map(([model, one]) => [model, one.panels.find(mine)]).filter(([, panel]) => panel);
}

const seriesOf = (given) => given.map(([model, panel]) => ({ model, ys: panel.values, bands: panel.intervals }));
const openAt = (task, name, matches) => (task.items.length && matches ? (i) => openAnswers(task, name(i), (item) => matches(item, i)) : null);

function positionChart(figure, task, given) {
  const longest = given.map(([, panel]) => panel).reduce((one, other) => (other.values.length > one.values.length ? other : one));
  const count = longest.values.length;
  const width = longest.places[1] - longest.places[0];
  const items = Math.max(answered(task)[0][1].positions || 0, longest.places[count]);
  const name = (i) => `places ${longest.places[i] + 1} to ${Math.min(items, longest.places[i + 1])} of ${items} (${percent(i / count)} to ${percent((i + 1) / count)})`;
  lineChart(figure, {
    ...SHARES,
    title: `${task.title}: share of right answers by place in the context`,
    below: "place in the context: start to end",
    xs: longest.values.map((_, i) => (i + 0.5) / count),
    ticks: [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => [share, percent(share)]),
    series: seriesOf(given),
    weak: task.weak,
    name,
    open: openAt(task, name, (item, i) => Math.floor(item.p / width) === i),
  });
}

// The axis of scores that do not go from 0 to 1: a judge's go from 0 to 10.
const scaled = ([low, high]) => ({ low, high, rules: roundValues(low, high), number: (value, exact) => (exact ? fixed(value) : String(value)) });

// Values of a few named places: lengths, depths, groups. Groups of several models may differ.
function placesChart(figure, task, given) {
  const first = given[0][1];
  const names = [...new Set(given.flatMap(([, panel]) => panel.names))];
  const at = (panel, values) => names.map((name) => { const i = panel.names.indexOf(name); return i < 0 ? null : values[i]; });
  const xs = names.map((_, i) => (names.length === 1 ? 0.5 : 0.03 + (0.94 * i) / (names.length - 1)));
  const every = Math.ceil(names.length / 8);
  const below = first.kind === "bars" ? first.by : first.by === "depth" ? `${first.axis}: start to end` : first.axis;
  const scale = first.kind === "bars" && answered(task).map(([, one]) => one.scale).find(known);
  const letters = (wide) => Math.max(4, Math.floor(wide / Math.min(names.length, 8) / 8)); // of about 8 px
  const matches = { length: (item, i) => item.l === first.places[i], depth: (item, i) => Math.abs(item.d - first.places[i]) < 1e-3 };
  lineChart(figure, {
    ...(scale ? scaled(scale) : SHARES),
    title: `${task.title}: mean score by ${below}`,
    below,
    fit: (label, wide) => (label.length > letters(wide) ? `${label.slice(0, letters(wide) - 1)}…` : label),
    xs,
    ticks: xs.map((x, i) => [x, i % every ? "" : names[i]]),
    series: given.map(([model, panel]) => ({ model, ys: at(panel, panel.values), bands: at(panel, panel.intervals) })),
    name: (i) => names[i],
    open: openAt(task, (i) => names[i], first.kind === "curve" && matches[first.by]),
  });
}

// Three to seven round values between two.
function roundValues(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 3));
  const step = [5, 2, 1].map((part) => part * power).find((one) => one <= (high - low) / 3);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function perplexityChart(figure, task, given) {
  const { places: edges, axis } = given[0][1];
  const all = given.flatMap(([, panel]) => panel.values).filter(known);
  const room = Math.max(0.02, (Math.max(...all) - Math.min(...all)) * 0.1);
  const [low, high] = [Math.min(...all) - room, Math.max(...all) + room];
  const last = edges[edges.length - 1];
  lineChart(figure, {
    title: `${task.title}: perplexity by ${axis}; lower is better`,
    below: axis,
    low,
    high,
    rules: roundValues(Math.exp(low), Math.exp(high)).map(Math.log),
    number: (nll) => Number(Math.exp(nll).toPrecision(3)).toString(),
    plain: true,
    xs: edges.slice(1).map((edge, i) => (edge + edges[i]) / 2 / last),
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, lengthName(Math.round(share * last))]),
    series: seriesOf(given),
    name: (i) => `tokens ${edges[i]} to ${edges[i + 1]}, perplexity`,
    open: null,
  });
}

// How scores are distributed: the share of answers in each part of their scale.
function histogramChart(figure, task, given) {
  const { low, high, counts } = given[0][1];
  const edge = (i) => Number((low + ((high - low) * i) / counts.length).toPrecision(3));
  const series = given.map(([model, panel]) => {
    const total = panel.counts.reduce((sum, count) => sum + count, 0) || 1;
    return { model, ys: panel.counts.map((count) => count / total) };
  });
  const most = Math.max(0.05, ...series.flatMap((one) => one.ys)) * 1.1;
  lineChart(figure, {
    title: `${task.title}: share of answers by score`,
    below: "score",
    low: 0,
    high: most,
    rules: [0, ...roundValues(0, most).filter((value) => value > 0)],
    number: percent,
    plain: true,
    xs: counts.map((_, i) => (i + 0.5) / counts.length),
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, String(edge(share * counts.length))]),
    series,
    name: (i) => `${edge(i)} to ${edge(i + 1)}`,
    open: null,
  });
}
// Heat maps: a table a model, each cell a button; for two models, what changed.

const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const CHANGE = ["#b34700", "#e08a4f", "#f3c8a8", "#f4f4f4", "#a9cfe8", "#4c9bcd", "#00568a"]; // worse, same, better

function mix(stops, share) {
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const [from, to] = [stops[Math.floor(place)], stops[Math.ceil(place)]];
  const part = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) => Math.round(part(from, i) + (part(to, i) - part(from, i)) * (place % 1)));
}

function paint(cell, [red, green, blue]) {
  cell.style.background = `rgb(${red} ${green} ${blue})`;
  cell.style.color = 0.299 * red + 0.587 * green + 0.114 * blue > 118 ? "#000" : "#fff";
}

// A table with lengths to the right and depths downwards; cell(column, row) gives {text, colour, label}.
function heatTable(task, grid, title, cell, readout) {
  const unit = grid.unit;
  const head = make("tr", {}, make("th", { text: "depth ↓", scope: "col" }), ...grid.lengths.map((length) => make("th", { text: lengthName(length), scope: "col" })));
  const buttons = [];
  const rows = grid.depths.map((depth, row) => {
    const cells = grid.lengths.map((length, column) => {
      const { text, colour, label } = cell(column, row);
      const where = `${lengthName(length)} ${unit}, ${percent(depth)} deep`;
      const button = make("button", { type: "button", text, "aria-label": `${where}: ${label}` });
      if (colour) paint(button, colour);
      const matches = (item) => item.l === length && Math.abs(item.d - depth) < 1e-3;
      if (task.items.length) button.addEventListener("click", () => openAnswers(task, where, matches));
      tellOf(button, readout, `${where}: ${label}`);
      buttons.push(button);
      return make("td", {}, button);
    });
    return make("tr", {}, make("th", { text: percent(depth), scope: "row" }), ...cells);
  });
  roving(buttons, grid.lengths.length);
  const above = make("tr", {}, make("td"), make("th", { text: `length in ${unit} →`, colspan: grid.lengths.length, scope: "colgroup" }));
  return make("div", { class: "heat" }, make("table", {}, make("caption", { text: title }), make("thead", {}, above, head), make("tbody", {}, ...rows)));
}

function scaleBar(stops, left, right) {
  const bar = make("i", { "aria-hidden": "true" });
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return make("div", { class: "scale" }, left, bar, right);
}

function heatMaps(figure, task, given) {
  const readout = figure.querySelector(".readout");
  const maps = given.map(([model, grid]) => {
    const map = heatTable(task, grid, labels[model], (column, row) => {
      const value = grid.cells[column][row];
      return { text: fixed(value), colour: known(value) && mix(CIVIDIS, value), label: `${labels[model]} ${fixed(value)}${between(grid.intervals?.[column]?.[row])}` };
    }, readout);
    map.dataset.of = model;
    map.append(scaleBar(CIVIDIS, "0 none found", "1 all found"));
    return map;
  });
  if (given.length === 2) maps.push(changeMap(task, given, readout));
  figure.querySelector(".heats").replaceChildren(...maps);
}

function changeMap(task, [[first, before], [last, after]], readout) {
  const map = heatTable(task, after, `change: ${labels[last]} minus ${labels[first]}`, (column, row) => {
    const [old, now] = [before.cells[column][row], after.cells[column][row]];
    if (!known(old) || !known(now)) return { text: "–", colour: null, label: "no answers to compare" };
    return { text: signed(now - old), colour: mix(CHANGE, 0.5 + (now - old) / 2), label: `${signed(now - old)}, from ${fixed(old)} to ${fixed(now)}` };
  }, readout);
  map.append(scaleBar(CHANGE, "−1 worse", "+1 better"));
  return map;
}
// Single answers in a dialog: filtered by the place that was opened, and by who was right.

const PAGE = 40;
const panel = { task: null, matches: null, count: PAGE };
const dialog = document.getElementById("answers");

const right = (value) => known(value) && value >= 1;
const wrong = (value) => known(value) && value < 1;

// The choices of the list "Show": all, wrong ones of any model, and of two models what one made of the other's.
function choices(task) {
  const models = answered(task).map(([model]) => model);
  const found = [
    ["all", "all answers", () => true],
    ["wrong", models.length > 1 ? "wrong by any model" : "wrong ones only", (item) => (item.v || []).some(wrong)],
  ];
  if (models.length === 2) {
    const [first, last] = models;
    const moved = (up) => (item) => item.v && known(item.v[first]) && known(item.v[last]) && up * (item.v[last] - item.v[first]) > 0;
    found.push(["better", `better in ${labels[last]} than in ${labels[first]}`, moved(1)]);
    found.push(["worse", `worse in ${labels[last]} than in ${labels[first]}`, moved(-1)]);
  }
  return found;
}

function openAnswers(task, where, matches, which = "all") {
  Object.assign(panel, { task, matches, count: PAGE });
  document.getElementById("answers-title").textContent = where ? `${task.title}: ${where}` : `${task.title}: all places`;
  const select = document.getElementById("which");
  select.replaceChildren(...choices(task).map(([value, text]) => make("option", { value, text })));
  select.value = which;
  const { all, kept, wrong: bad, kept_wrong: keptBad } = task.kept;
  document.getElementById("answers-note").textContent = kept < all
    ? `This page holds ${kept} of the ${all} answers, spread evenly: ${keptBad} of the ${bad} that a model got less than fully right, and ${kept - keptBad} others. The predictions files have all.`
    : `This page holds all ${all} answers.`;
  listAnswers(true);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function listAnswers(opened) {
  const task = panel.task;
  const chosen = choices(task).find(([value]) => value === document.getElementById("which").value)[2];
  const found = task.items.filter((item) => panel.matches(item) && chosen(item));
  document.getElementById("answers-count").textContent = found.length ? `${found.length} answer${found.length > 1 ? "s" : ""} here` : "none of those kept in this page";
  const rows = found.slice(0, panel.count).map((item) => answerRow(task, item));
  if (opened && rows.length) rows[0].open = true;
  document.getElementById("answers-list").replaceChildren(...rows);
  document.getElementById("answers-more").classList.toggle("hidden", found.length <= panel.count);
}

const scoreWords = (value) => (!known(value) ? "not counted" : right(value) ? "right" : value <= 0 ? "wrong" : `score ${fixed(value)}`);
const kindOf = (value) => (right(value) ? "ok" : wrong(value) ? "no" : "");

function tick(item, model) {
  const value = item.v && item.v[model];
  const sign = right(value) ? "✓" : wrong(value) ? (value > 0 ? "◐" : "✗") : "·";
  const name = alone ? "" : `${labels[model]} `;
  return make("span", { class: `tick ${kindOf(value)}` }, name, make("b", { text: sign, role: "img", "aria-label": scoreWords(value) }));
}

function answerRow(task, item) {
  const models = answered(task).map(([model]) => model);
  const ask = make("span", { class: "ask", dir: "auto", text: item.q || placeWords(task, item) || "answer" });
  const row = make("details", { class: "item" }, make("summary", {}, ...models.map((model) => tick(item, model)), ask));
  // The body is made when it is first opened: a list may be long.
  row.addEventListener("toggle", () => {
    if (row.open && row.children.length === 1) row.append(answerBody(task, item, models));
  });
  return row;
}

function placeWords(task, item) {
  const words = [];
  if (known(item.l)) words.push(`context of ${known(item.d) ? lengthName(item.l) : item.l}`);
  if (known(item.d)) words.push(`${percent(item.d)} deep`);
  if (known(item.s)) words.push(`context ${item.s + 1}`);
  const places = answered(task)[0][1].positions;
  if (known(item.p) && !known(item.d)) words.push(`place ${item.p + 1}${places ? ` of ${places}` : ""}`);
  if (known(item.a)) words.push(`evidence at ${percent(item.a)}`);
  return words.join(", ");
}

// The excerpt with its evidence, which stands between « and », marked.
function marked(text) {
  const parts = text.split(/«([^»]*)»/);
  return parts.map((part, i) => (i % 2 ? make("mark", { text: part }) : part));
}

function answerBody(task, item, models) {
  const list = make("dl", {});
  const add = (name, ...content) => list.append(make("dt", { text: name }), make("dd", {}, ...content));
  if (placeWords(task, item)) add("Where it stands", placeWords(task, item));
  if (item.x) add("Excerpt of the prompt", make("div", { class: "text excerpt", dir: "auto" }, ...marked(item.x)));
  add("Right answer", make("div", { class: "text gold", dir: "auto", text: item.g || "not in the predictions file" }));
  return make("div", {}, list, make("div", { class: "said" }, ...models.map((model) => answerOf(item, model))));
}

function answerOf(item, model) {
  const value = item.v && item.v[model];
  const text = item.y && item.y[model];
  const none = !known(text) || (item.n && item.n[model]);
  const ended = item.f && item.f[model] ? ", cut at the most tokens an answer may have" : "";
  const title = make("h4", {}, `${labels[model]}: `, make("span", { class: "score", text: scoreWords(value) }), ended);
  const words = none ? "no answer" : text.trim() === "" ? "an empty answer" : text;
  return make("div", { class: kindOf(value) }, title, make("div", { class: "text pred", dir: "auto", text: words }));
}

function startAnswers() {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("which").addEventListener("change", () => { panel.count = PAGE; listAnswers(false); });
  document.getElementById("answers-more").addEventListener("click", () => { panel.count += PAGE; listAnswers(false); });
  document.querySelectorAll("button.look").forEach((button) => {
    button.addEventListener("click", () => openAnswers(report.tasks[button.dataset.task], "", () => true, "wrong"));
  });
}
// Tables that sort by a column, and the start of everything.

function cellValue(row, column) {
  const { dataset, textContent } = row.cells[column];
  if (dataset.value === undefined) return textContent.trim().toLowerCase();
  return dataset.value === "" ? null : Number(dataset.value);
}

// Numbers by size, texts by letters, what is missing last either way.
function compare(one, other, down) {
  if (one === null || other === null) return (one === null) - (other === null);
  const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
  return down ? -order : order;
}

function sortBy(table, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th[aria-sort]").forEach((one) => one.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [cellValue(row, heading.cellIndex), row]);
  rows.sort(([one], [other]) => compare(one, other, down));
  body.append(...rows.map(([, row]) => row));
}

function startTables() {
  document.querySelectorAll("th[aria-sort] > button").forEach((button) => {
    button.addEventListener("click", () => sortBy(button.closest("table"), button.parentElement));
  });
}

const CHARTS = {
  curve: positionChart, grid: heatMaps, "by-length": placesChart, "by-depth": placesChart, lengths: placesChart,
  perplexity: perplexityChart, groups: placesChart, histogram: histogramChart,
};

let width = 0; // what charts were drawn for: they are drawn anew where it changes
function drawCharts() {
  width = document.body.clientWidth;
  document.querySelectorAll("figure[data-chart]").forEach((figure) => {
    const task = report.tasks[figure.dataset.task];
    CHARTS[figure.dataset.chart](figure, task, panelsOf(figure, task));
  });
  hideModels();
}

function startCharts() {
  drawCharts();
  document.querySelectorAll("input[data-model]").forEach((box) => box.addEventListener("change", hideModels));
  window.addEventListener("resize", () => { if (document.body.clientWidth !== width) drawCharts(); });
}

startTheme();
startTables();
startAnswers();
startCharts();
