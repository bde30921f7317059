"use strict";

// Tables: a click on a head sorts, a second one turns the order round; empty cells stay at the end.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
      const numeric = keyed.every(([value]) => value === "" || !isNaN(value));
      const order = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
      keyed.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : down ? order(b, a) : order(a, b)));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

// The patients' index: text, probability range and failures narrow it down.
function filtered(index) {
  const field = (name) => index.querySelector(`[data-filter="${name}"]`);
  const rows = [...index.querySelectorAll("tbody tr")];
  const words = rows.map((row) => row.textContent.toLowerCase());
  const narrow = () => {
    const text = field("text").value.trim().toLowerCase();
    const low = field("low").value === "" ? -Infinity : Number(field("low").value);
    const high = field("high").value === "" ? Infinity : Number(field("high").value);
    let count = 0;
    rows.forEach((row, place) => {
      const probability = row.dataset.probability === "" ? NaN : Number(row.dataset.probability);
      const inside = (low === -Infinity && high === Infinity) || (probability >= low && probability <= high);
      const shown = inside && words[place].includes(text) && (!field("failed").checked || row.classList.contains("failed"));
      row.hidden = !shown;
      count += shown;
    });
    index.querySelector("[data-count]").textContent = `${count} of ${rows.length} patients`;
  };
  index.querySelectorAll("[data-filter]").forEach((input) => input.addEventListener("input", narrow));
  narrow();
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

// What lies where along the slices: tumour areas, used slices, sequences, and a cursor.
function strip(view) {
  const height = 40;
  const svg = drawn("svg", { class: "strip", viewBox: `0 0 ${view.total} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": "slices along the axis" });
  const most = Math.max(1, ...view.wt);
  const floor = height - 6;
  for (const [areas, colour] of [[view.wt, "#35d0ff"], [view.et, "#ffb000"]]) {
    const points = areas.flatMap((area, slice) => { const y = floor - (area / most) * (floor - 14); return [`${slice},${y}`, `${slice + 1},${y}`]; });
    svg.append(drawn("polygon", { points: `0,${floor} ${points.join(" ")} ${view.total},${floor}`, fill: colour, opacity: 0.45 }));
  }
  view.kept.forEach((slice) => svg.append(drawn("rect", { x: slice, y: floor, width: 1, height: 6, fill: "#f2f5f7", opacity: 0.75 })));
  const each = Math.min(3, 13 / Math.max(1, view.sequences.length));
  view.sequences.forEach(({ slices, probability }, row) => {
    const colour = probability < 0.5 ? "#5b9bea" : "#ff6a45";
    const bar = drawn("rect", { x: slices[0], y: 1 + row * each, width: slices[1] - slices[0] + 1, height: each * 0.75, fill: colour, opacity: 0.35 + 1.3 * Math.abs(probability - 0.5) });
    const title = drawn("title", {});
    title.textContent = `sequence ${row + 1}: ${probability.toFixed(3)}`;
    bar.append(title);
    svg.append(bar);
  });
  const cursor = drawn("rect", { y: 0, width: Math.max(1, view.total / 150), height, fill: "#ffffff", opacity: 0.55 });
  svg.append(cursor);
  return { svg, cursor };
}

function loaded(uri) {
  if (!uri) return null;
  const image = new Image();
  image.src = uri;
  return image;
}

// Viewers of a patient's series; pictures are decoded when they come into sight for the first time.
function viewers(root) {
  if (root.dataset.ready) return;
  root.dataset.ready = "yes";
  const layer = (name) => root.querySelector(`[data-layer="${name}"]`);
  const strength = (name) => (root.querySelector(`[data-opacity="${name}"]`)?.value ?? 0) / 100;
  const together = root.querySelector("[data-together]");
  const all = [];
  for (const view of JSON.parse(root.querySelector('script[type="application/json"]').textContent)) {
    const [width, height] = view.tile;
    const side = Math.max(width, height);
    const canvas = element("canvas", { width: side * 2, height: side * 2 });
    const stage = element("div", { class: "stage", tabindex: 0, role: "slider", "aria-label": `${view.mri_type}, slice`, "aria-valuemin": 1, "aria-valuemax": view.total }, canvas);
    Object.entries(view.letters).forEach(([edge, letter]) => stage.append(element("b", { class: edge }, letter)));
    const place = element("span", { class: "place" });
    const slider = element("input", { type: "range", min: 0, max: view.slices.length - 1, "aria-label": `${view.mri_type}, slice` });
    const { svg, cursor } = strip(view);
    const figure = element("figure", { class: "viewer" }, element("figcaption", {}, element("strong", {}, view.caption), place), stage, slider, svg);
    root.querySelector(".grid").append(figure);
    const context = canvas.getContext("2d");
    const used = new Set(view.kept);
    const layers = { image: loaded(view.image), wt: loaded(view.wt_sheet), et: loaded(view.et_sheet), heat: loaded(view.heat_sheet) };
    const one = { view, at: view.start };
    one.draw = () => {
      const x = (one.at % view.columns) * width, y = Math.floor(one.at / view.columns) * height;
      const put = (image, alpha, mode) => {
        if (!image || !image.complete || !image.naturalWidth) return;
        context.globalAlpha = alpha;
        context.globalCompositeOperation = mode;
        context.drawImage(image, x, y, width, height, side - width, side - height, width * 2, height * 2);
      };
      context.globalAlpha = 1;
      context.globalCompositeOperation = "source-over";
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      put(layers.image, 1, "source-over");
      if (layer("heat")?.checked) put(layers.heat, strength("heat"), "screen");
      for (const name of ["wt", "et"]) if (layer(name).checked) put(layers[name], strength("masks"), "source-over");
    };
    one.go = (at, alone) => {
      one.at = Math.min(Math.max(at, 0), view.slices.length - 1);
      const slice = view.slices[one.at];
      figure.dataset.slice = slice;
      slider.value = one.at;
      stage.setAttribute("aria-valuenow", slice + 1);
      cursor.setAttribute("x", slice);
      place.textContent = `slice ${slice + 1} of ${view.total}${used.has(slice) ? (view.classified ? ", used" : ", kept") : ""}`;
      place.classList.toggle("used", used.has(slice));
      one.draw();
      if (alone || !together?.checked) return;
      for (const other of all) if (other !== one && other.view.plane === view.plane) other.nearest(view.positions[one.at], "positions", true);
    };
    one.nearest = (value, values, alone) => {
      let best = 0;
      view[values].forEach((found, at) => { if (Math.abs(found - value) < Math.abs(view[values][best] - value)) best = at; });
      one.go(best, alone);
    };
    let turned = 0;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      turned += event.deltaMode ? event.deltaY * 20 : event.deltaY;
      const steps = Math.trunc(turned / 20);
      turned -= steps * 20;
      if (steps) one.go(one.at + Math.sign(steps) * Math.min(Math.abs(steps), 3));
    }, { passive: false });
    stage.addEventListener("keydown", (event) => {
      const moves = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
      if (!(event.key in moves)) return;
      event.preventDefault();
      one.go(one.at + moves[event.key]);
    });
    slider.addEventListener("input", () => one.go(Number(slider.value)));
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      one.nearest(Math.floor(((event.clientX - box.left) / box.width) * view.total), "slices");
    };
    svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); point(event); });
    svg.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    Object.values(layers).forEach((image) => image?.addEventListener("load", one.draw));
    all.push(one);
    one.go(view.start, true);
  }
  // series of one study lie in one space: those of a plane start, and scroll, at the same position in mm
  if (together?.checked) new Map([...all].reverse().map((one) => [one.view.plane, one])).forEach((one) => one.go(one.at));
  root.querySelectorAll("[data-layer], [data-opacity]").forEach((input) => input.addEventListener("input", () => all.forEach((one) => one.draw())));
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("[data-index]").forEach(filtered);
document.querySelectorAll("[data-viewers]").forEach((root) => {
  const closed = root.closest("details:not([open])");
  if (closed) closed.addEventListener("toggle", () => viewers(root));
  else viewers(root);
});
