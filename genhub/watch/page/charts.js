// Charts of curves, as SVG. A series is {name, index, points: [{x, y, raw}]}; its index chooses colour and dashes.
"use strict";

const COLOURS = 7, DASHES = ["", "9 4", "2 4", "9 4 2 4"];
const HEIGHT = 240, LEFT = 56, RIGHT = 12, TOP = 8, BOTTOM = 26, FEW = 40, DOT = 3;

const lineStyle = (index) => ({ stroke: `var(--c${index % COLOURS})`, dashes: DASHES[index % DASHES.length] });

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function swatch(index) {
  const { stroke, dashes } = lineStyle(index);
  const line = svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, "stroke-width": 3, "stroke-dasharray": dashes });
  line.style.stroke = stroke;
  return svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, line);
}

// An exponential average, corrected for its start, as TensorBoard's.
function smoothed(values, weight) {
  let sum = 0, mass = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
function short(value) {
  const size = Math.abs(value);
  return size && (size >= 1e6 || size < 1e-3) ? value.toExponential(2).replace(/\.?0+e/, "e") : SHORT.format(value);
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const unit = power * [1, 2, 5, 10].find((each) => each * power >= rough);
  const found = [];
  for (let number = Math.ceil(low / unit - 1e-9); number * unit <= high + unit * 1e-9; number++) found.push(number * unit);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) found.push(power);
  const sparse = Math.ceil(found.length / 6);
  const inside = found.filter((power) => power >= low && power <= high && power % sparse === 0);
  return inside.length > 1 ? inside : ticks(low, high, 3);
}

function extent(values, share) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
  return [low - (high - low) * share, high + (high - low) * share];
}

// The path of a curve: of each pixel's column its first, lowest, highest and last point.
function path(points, place, key) {
  const columns = new Map();
  for (const point of points) {
    const [x, y] = [place.x(point.x), place.y(point[key])], column = Math.round(x);
    const found = columns.get(column);
    if (!found) columns.set(column, [[x, y], [x, y], [x, y], [x, y]]);
    else { if (y < found[1][1]) found[1] = [x, y]; if (y > found[2][1]) found[2] = [x, y]; found[3] = [x, y]; }
  }
  const drawn = [...columns.values()].flatMap((found) => [...new Set(found.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`))]);
  return drawn.length ? `M${drawn.join("L")}` : "";
}

// Draw a chart into a figure, anew each time; `options` are {logarithmic, smooth, unit}.
function drawChart(figure, title, series, options) {
  const width = Math.max(figure.clientWidth, 200), scale = options.logarithmic ? Math.log10 : (value) => value;
  const shown = series.map((one) => ({ ...one,
    points: one.points.filter((point) => !options.logarithmic || (point.y > 0 && point.raw > 0)) }));
  const all = shown.flatMap((one) => one.points);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  const caption = figure.querySelector("figcaption");
  figure.replaceChildren(figure.querySelector("h3"), picture, caption);
  caption.textContent = all.length ? "" : options.logarithmic ? "nothing above 0 is logged" : "nothing is logged yet";
  if (!all.length) return;

  const [left, right] = extent(all.map((point) => point.x), 0), [low, high] = extent(all.map((point) => scale(point.y)), 0.04);
  const place = {
    x: (x) => LEFT + (x - left) / (right - left) * (width - LEFT - RIGHT),
    y: (y) => TOP + (high - scale(y)) / (high - low) * (HEIGHT - TOP - BOTTOM),
  };
  const value = (at) => (options.logarithmic ? 10 ** at : at);
  for (const at of options.logarithmic ? logTicks(low, high) : ticks(low, high, 5)) {
    const y = place.y(value(at));
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(value(at))));
  }
  for (const at of ticks(left, right, Math.max(3, Math.floor(width / 100)))) {
    const x = place.x(at), last = x > width - 30; // whose number would be cut off
    picture.append(svg("text", { x: last ? width : x, y: HEIGHT - 8, "text-anchor": last ? "end" : "middle" }, short(at)));
  }
  const clip = `clip-${figure.dataset.number}`;
  const frame = { x: LEFT - DOT, y: TOP - DOT, width: width - LEFT - RIGHT + 2 * DOT, height: HEIGHT - TOP - BOTTOM + 2 * DOT };
  const curves = svg("g", { "clip-path": `url(#${clip})` });
  picture.append(svg("clipPath", { id: clip }, svg("rect", frame)), curves);
  for (const one of shown) {
    const { stroke, dashes } = lineStyle(one.index);
    for (const key of options.smooth ? ["raw", "y"] : ["y"]) {
      const line = svg("path", { d: path(one.points, place, key), class: key === "raw" ? "raw" : "curve",
        "stroke-dasharray": dashes, "data-run": one.name, "data-points": one.points.length });
      line.style.stroke = stroke;
      curves.append(line);
    }
    for (const point of one.points.length <= FEW ? one.points : []) {
      const dot = svg("circle", { cx: place.x(point.x), cy: place.y(point.y), r: DOT });
      dot.style.fill = stroke;
      curves.append(dot);
    }
  }
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  picture.append(cursor);
  const point = () => {
    const box = picture.getBoundingClientRect();
    const x = left + ((figure.pointer - box.left) * width / box.width - LEFT) / (width - LEFT - RIGHT) * (right - left);
    const near = shown.filter((one) => one.points.length).map((one) => [one, nearest(one.points, x)]);
    const at = near.map(([, point]) => point.x).reduce((best, each) => (Math.abs(each - x) < Math.abs(best - x) ? each : best));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, place.x(at));
    cursor.setAttribute("visibility", "visible");
    caption.textContent = `${options.unit} ${short(at)}: ` + near.map(([one, point]) => `${one.name} ${short(point.y)}`).join("; ");
  };
  picture.onpointermove = (event) => { figure.pointer = event.clientX; point(); };
  picture.onpointerleave = () => { figure.pointer = null; cursor.setAttribute("visibility", "hidden"); caption.textContent = ""; };
  if (figure.pointer != null) point(); // it rests on a chart that is drawn anew
}

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].x < x) low = middle + 1; else high = middle;
  }
  return low && x - points[low - 1].x < points[low].x - x ? points[low - 1] : points[low];
}
