// Asks the server what is new, again and again, and shows it. Whatever comes from a run is put in as text, never as HTML.
"use strict";

const EVERY = 1500, MOST_AT_FIRST = 8;
const key = location.hash.slice(1);
const $ = (id) => document.getElementById(id);
const runs = new Map(); // by number: {facts, shown, index, generation, have, curves, node}
const chosen = new Map(); // metric to whether its curve is shown
let newestPicture = true, pictureStep = null, pictureSteps = [], drawnFor = "";

// The server

const address = (call, values) => `api/${call}?${new URLSearchParams({ ...values, key })}`;

async function ask(call, values = {}, method = "GET") {
  const answer = await fetch(address(call, values), { method, cache: "no-cache" });
  const content = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(content.said), { said: content.said });
  return content;
}

async function look() {
  try {
    const found = await ask("runs");
    take(found);
    await Promise.all([...runs.values()].filter((run) => run.shown).map(readLog));
    show(found);
    say(found.length ? "" : "No run yet: genhub train digits-ddpm, in the folder where genhub watch runs, starts one.");
  } catch (error) {
    say(error.said || "No answer: genhub watch has ended. What is shown is what it said last.", true);
    if (!error.said && !(error instanceof TypeError)) throw error;
  } finally {
    setTimeout(look, EVERY);
  }
}

function say(text, lost = false) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").classList.toggle("lost", lost);
}

function take(found) {
  const numbers = new Set(found.map((facts) => facts.run));
  for (const number of [...runs.keys()].filter((each) => !numbers.has(each))) {
    runs.get(number).node.remove();
    runs.delete(number);
  }
  const first = runs.size === 0;
  const newest = new Set([...found].sort((a, b) => (b.written || 0) - (a.written || 0)).slice(0, MOST_AT_FIRST).map((facts) => facts.run));
  for (const facts of found) {
    if (!runs.has(facts.run)) {
      const shown = first ? newest.has(facts.run) : [...runs.values()].filter((run) => run.shown).length < MOST_AT_FIRST;
      runs.set(facts.run, { shown, index: facts.run, generation: 0, have: 0, curves: new Map(), seconds: 0 });
      runs.get(facts.run).node = card(runs.get(facts.run));
      $("runs").append(runs.get(facts.run).node);
    }
    runs.get(facts.run).facts = facts;
    for (const name of facts.metrics) if (!chosen.has(name)) chosen.set(name, facts.chosen.includes(name));
  }
}

// All log lines that are new. A log that was written anew has another generation, and is read from its start.
async function readLog(run) {
  const { generation, lines } = run.facts.log;
  while (run.generation !== generation || run.have < lines) {
    const part = await ask("log", { run: run.facts.run, generation: run.generation, since: run.have }).catch((error) => {
      if (error.said) return null; // the run was deleted meanwhile
      throw error;
    });
    if (part === null) return;
    if (part.generation !== run.generation || part.since !== run.have) {
      Object.assign(run, { generation: part.generation, have: 0, curves: new Map(), seconds: 0 });
    }
    if (!part.lines.length || part.generation !== generation) return;
    run.have += part.lines.length;
    for (const line of part.lines) {
      if (Number.isFinite(line.seconds)) run.seconds = line.seconds; // a line of figures has none
      for (const [name, value] of Object.entries(line)) {
        if (name === "step" || !Number.isFinite(value)) continue;
        if (!run.curves.has(name)) run.curves.set(name, []);
        run.curves.get(name).push({ step: line.step, seconds: run.seconds, value });
      }
    }
  }
}

// Parts of the page

function element(name, values = {}, ...children) {
  const node = Object.assign(document.createElement(name), values);
  node.append(...children);
  return node;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
}

function card(run) {
  const box = element("input", { type: "checkbox", checked: run.shown });
  box.onchange = async () => { run.shown = box.checked; await readLog(run); show(); };
  const node = element("article", { className: "run" }, element("label", {}, box, swatch(run.index), element("span", { className: "name" })),
    element("p", { className: "doing" }), element("progress"), element("p", { className: "said" }), element("p", { className: "notes" }));
  const button = element("button", { type: "button", className: "stop", textContent: "Stop, and save" });
  button.onclick = () => stop(run, button);
  node.append(button);
  return node;
}

async function stop(run, button) {
  if (!confirm(`Stop ${run.facts.name}? It finishes the step, saves a checkpoint and ends; the same command goes on from there.`)) return;
  button.disabled = true;
  try {
    await ask("stop", { run: run.facts.run }, "POST");
  } catch (error) {
    alert(error.said || "No answer: genhub watch has ended.");
  }
  button.disabled = false;
}

function duration(seconds) {
  const all = Math.round(seconds), hours = Math.floor(all / 3600), minutes = Math.floor(all / 60) % 60, rest = all % 60;
  const parts = hours ? [hours, "h", String(minutes).padStart(2, "0"), "min"] : minutes ? [minutes, "min", String(rest).padStart(2, "0"), "s"] : [rest, "s"];
  return parts.join("\u00a0");
}

const COUNT = new Intl.NumberFormat("en");
const SAID = { elsewhere: "not known" };

function showCard({ node, facts }) {
  const part = (name) => node.querySelector(name);
  const live = facts.state === "running" || facts.state === "stopping";
  node.className = `run ${facts.state}`;
  set(part(".name"), facts.name);
  const ago = facts.written === null ? "" : `last written ${duration(Math.max(0, Date.now() / 1000 - facts.written))} ago`;
  const words = [`step ${COUNT.format(facts.step)}${facts.steps ? ` of ${COUNT.format(facts.steps)}` : ""}`,
    live && facts.rows_per_second !== null ? `${COUNT.format(Number(facts.rows_per_second.toPrecision(3)))} rows/s` : "",
    facts.seconds_left !== null ? `${duration(facts.seconds_left)} left` : "",
    facts.state === "elsewhere" ? ago : ""];
  part(".doing").replaceChildren(element("span", { className: "state", textContent: SAID[facts.state] || facts.state }),
    ` · ${words.filter(Boolean).join(" · ")}`);
  Object.assign(part("progress"), { max: facts.steps || 1, value: Math.min(facts.step, facts.steps || 0), hidden: !facts.steps });
  part("progress").setAttribute("aria-label", "steps done");
  set(part(".said"), facts.said + (facts.how_to_stop ? `; to stop it there: ${facts.how_to_stop}` : ""));
  set(part(".notes"), facts.notes.join("; "));
  part(".stop").hidden = !facts.can_stop;
}

const shownRuns = () => [...runs.values()].filter((run) => run.shown);

function show() {
  for (const run of runs.values()) showCard(run);
  const now = JSON.stringify([shownRuns().map(({ facts, have, generation }) => [facts.run, have, generation, facts.pictures.length, facts.metrics.length]), [...chosen]]);
  if (now !== drawnFor) { // else a pointer on a chart, or a hand on the slider, would be disturbed
    showMetrics();
    showCharts();
    showPictures();
    drawnFor = now;
  }
  showFigures();
  showRecipes();
}

function showMetrics() {
  const known = new Set([...$("metric-list").querySelectorAll("input")].map((box) => box.value));
  for (const [name, on] of chosen) {
    if (known.has(name)) continue;
    const box = element("input", { type: "checkbox", value: name, checked: on });
    box.onchange = () => { chosen.set(name, box.checked); show(); };
    $("metric-list").append(element("label", {}, box, ` ${name}`));
  }
  $("curves-section").hidden = !chosen.size;
}

function showCharts() {
  const axis = $("axis").value, weight = Number($("smoothing").value), logarithmic = $("log").checked;
  const names = [...chosen].filter(([, on]) => on).map(([name]) => name);
  const charts = new Map([...$("charts").children].map((figure) => [figure.dataset.metric, figure]));
  for (const [name, figure] of charts) if (!names.includes(name)) figure.remove();
  for (const name of names) {
    if (!charts.has(name)) {
      const figure = element("figure", { className: "chart" }, element("h3", { textContent: name }), element("figcaption"));
      Object.assign(figure.dataset, { metric: name, number: [...chosen.keys()].indexOf(name) });
      charts.set(name, figure);
      $("charts").append(figure);
    }
    const measured = shownRuns().some((run) => run.facts.measured.includes(name)), smooth = weight > 0 && !measured;
    const series = shownRuns().map((run) => {
      const points = [...(run.curves.get(name) || [])].sort((a, b) => a[axis] - b[axis]);
      const values = points.map((point) => point.value), averages = smooth ? smoothed(values, weight) : values;
      return { name: run.facts.name, index: run.index,
        points: points.map((point, at) => ({ x: point[axis], y: averages[at], raw: point.value })) };
    });
    drawChart(charts.get(name), name, series, { logarithmic, smooth, unit: axis });
  }
}

function showPictures() {
  const with_ = shownRuns().filter((run) => run.facts.pictures.length);
  pictureSteps = [...new Set(with_.flatMap((run) => run.facts.pictures))].sort((a, b) => a - b);
  $("pictures-section").hidden = !pictureSteps.length;
  if (!pictureSteps.length) return;
  const slider = $("picture-step");
  let at = newestPicture ? pictureSteps.length - 1 : pictureSteps.findLastIndex((step) => step <= pictureStep);
  at = Math.max(0, at);
  Object.assign(slider, { max: pictureSteps.length - 1, value: at, disabled: pictureSteps.length < 2 });
  pictureStep = pictureSteps[at];
  slider.setAttribute("aria-valuetext", `step ${pictureStep}`);
  $("picture-value").textContent = COUNT.format(pictureStep) + (newestPicture ? ", the newest" : "");
  const figures = new Map([...$("pictures").children].map((figure) => [Number(figure.dataset.run), figure]));
  for (const [number, figure] of figures) if (!with_.some((run) => run.facts.run === number)) figure.remove();
  for (const run of with_) {
    let figure = figures.get(run.facts.run);
    if (!figure) {
      figure = element("figure", {}, element("img"), element("figcaption"));
      figure.dataset.run = run.facts.run;
      $("pictures").append(figure);
    }
    const step = run.facts.pictures.findLast((each) => each <= pictureStep), image = figure.querySelector("img");
    image.hidden = step === undefined;
    const source = step === undefined ? "" : address("picture", { run: run.facts.run, step });
    if (source && image.getAttribute("src") !== source) image.src = source;
    image.alt = step === undefined ? "" : `drawn by ${run.facts.name} at step ${step}`;
    figure.querySelector("figcaption").replaceChildren(swatch(run.index), ` ${run.facts.name}, ${step === undefined ? "no picture yet" : `step ${COUNT.format(step)}`}`);
  }
}

function table(node, head, rows) {
  const text = JSON.stringify([head, rows]);
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  const cell = (value, kind) => element(kind, { textContent: value, className: /^[\d.,]+( ±|$)/.test(value) ? "number" : "" });
  node.replaceChildren(element("thead", {}, element("tr", {}, ...head.map((value) => cell(value, "th")))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value) => cell(value, "td"))))));
}

function showFigures() {
  const rows = shownRuns().flatMap((run) => run.facts.figures.map((figures) => [run.facts.name, figures]));
  $("figures-section").hidden = !rows.length;
  const names = [...new Set(rows.flatMap(([, figures]) => Object.keys(figures.values)))];
  const ways = [...new Set(rows.map(([, figures]) => figures.way))].sort((a, b) => a - b);
  table($("figures"), ["run", "step", "measured", "by", ...names.map((name) => name.replaceAll("_", " "))],
    rows.map(([name, one]) => [name, COUNT.format(one.step), letters(ways.indexOf(one.way)),
      [one.extractor, `${COUNT.format(one.rows)} rows, seed ${one.seed}`, ...Object.entries(one.options).map((pair) => pair.join("="))].join(", "),
      ...names.map((each) => one.values[each] || "")]));
}

const letters = (number) => (number < 26 ? String.fromCharCode(65 + number) : `${number + 1}`);

function showRecipes() {
  const shown = shownRuns().filter((run) => Object.keys(run.facts.recipe).length);
  const keys = [...new Set(shown.flatMap((run) => Object.keys(run.facts.recipe)))];
  const rows = keys.map((key) => [key, ...shown.map((run) => run.facts.recipe[key] ?? "–")]).filter(([, ...values]) => new Set(values).size > 1);
  $("recipes-section").hidden = shown.length < 2;
  table($("recipes"), ["key", ...shown.map((run) => run.facts.name)],
    rows.length ? rows : [["none: the recipes are the same but for the run's folder", ...shown.map(() => "")]]);
}

$("axis").onchange = $("log").onchange = showCharts;
$("smoothing").oninput = () => { $("smoothing-value").textContent = $("smoothing").value; showCharts(); };
$("picture-step").oninput = () => {
  const at = Number($("picture-step").value);
  newestPicture = at === pictureSteps.length - 1;
  pictureStep = pictureSteps[at];
  showPictures();
};
addEventListener("resize", showCharts);
look();
