// The mask of a restoration: known pixels or frequencies, painted by mouse or keys.

import { moveCursor, pixelAt, putImage, resize } from "./pixels.js";

const HIDDEN = [0, 114, 178]; // the colour of what is painted over
const PRESETS = { // what is known at (x, y), by task; the mean of frequencies is in the centre
  inpaint: {
    "right half": (x, y, { width }) => x < width / 2,
    centre: (x, y, { width, height }) => !(inside(x, width) && inside(y, height)),
    random: (x, y, { width, share }) => scramble(x + y * width) < share,
  },
  fourier: {
    "every third row": (x, y, { height }) => (y - Math.floor(height / 2)) % 3 === 0,
    "random rows": (x, y, { height, share }) => y === Math.floor(height / 2) || scramble(y) < share,
    "low ones": (x, y, { width, height, share }) => Math.max(
      Math.abs(x - Math.floor(width / 2)) / width, Math.abs(y - Math.floor(height / 2)) / height,
    ) <= Math.sqrt(share) / 2,
  },
};
const NAMES = { inpaint: "mask", fourier: "frequencies" }; // in the address, by task
const SHARES = { inpaint: "share", fourier: "frequency_share" }; // likewise
const SHARED = ["random", "random rows", "low ones"]; // masks of which a share is known
const LONGEST_MASK = 20_000; // characters of the address: any mask of 256 × 256

function inside(i, length) {
  return i >= Math.floor(length / 4) && i < Math.ceil((3 * length) / 4);
}

function scramble(i) { // the same random mask each time
  let z = Math.imul(i + 1, 0x9e3779b1);
  z = Math.imul(z ^ (z >>> 15), 0x85ebca6b);
  return ((z ^ (z >>> 13)) >>> 0) / 2 ** 32;
}

/**
 * Return controls and a canvas for the mask of the task that was opened last; each task keeps its
 * own. `onchange` is called when the user has changed it.
 */
export function makeMask({ ui, state, setState, onchange }) {
  const { h } = ui;
  const masks = {}; // by task, row by row: true where it is known
  const names = {}; // by task, of masks that are not painted
  const shares = {}; // by task, that are known
  let task = null;
  let height = 0;
  let width = 0;
  let image = null; // of the image or its spectrum, [height, width, channels]
  let spot = [0, 0];
  let painting = false;

  const brush = ui.select({
    label: "Brush", options: [["hide", "hides"], ["show", "shows"]], value: state.brush ?? "hide",
    onchange: (value) => setState({ brush: value }),
  });
  const size = ui.slider({
    label: "Brush size", min: 1, max: 9, step: 1, value: state.brush_size ?? 1,
    oninput: (value) => setState({ brush_size: value }),
  });
  const shareOf = ui.slider({
    label: "Share that is known", min: 0.05, max: 0.95, step: 0.05, value: 0.5,
  });
  shareOf.input.addEventListener("change", () => {
    shares[task] = shareOf.value;
    setState({ [SHARES[task]]: shareOf.value });
    const name = names[task];
    change(SHARED.includes(name) ? name : SHARED.find((shared) => PRESETS[task][shared]));
  });
  const presets = h("div", { class: "row" });
  const controls = ui.group("Mask", presets, shareOf.element, brush.element, size.element);
  const paint = h("canvas", {
    class: "pixels paint", tabindex: 0, role: "img",
    onpointerdown: (event) => { painting = true; paint.setPointerCapture(event.pointerId); stroke(event); },
    onpointermove: (event) => painting && stroke(event),
    onpointerup: () => { if (painting) { painting = false; change(); } },
    onkeydown: (event) => keys(event),
    onblur: () => { cursor.hidden = true; },
  });
  const cursor = h("div", { class: "cursor", hidden: true });
  const share = h("output", { "aria-label": "Known" });
  const lost = h("p", { class: "muted small", hidden: true }, "What is painted is too long for the address: a reload loses it.");
  const figure = h("figure", {}, h("div", { class: "canvas-box" }, paint, cursor), h("figcaption", {}, share, lost));

  function open(wanted, shape) {
    task = wanted;
    [height, width] = shape;
    image = null; // until that of this task is shown
    controls.hidden = !PRESETS[task];
    if (controls.hidden) return;
    shareOf.value = shares[task] ??= Number(state[SHARES[task]] ?? 0.5);
    presets.replaceChildren(...Object.keys(PRESETS[task]).map((name) => ui.button({
      label: name[0].toUpperCase() + name.slice(1), onclick: () => change(name),
    })), ui.button({ label: "Clear", onclick: () => { masks[task].fill(true); change(); } }));
    const noun = task === "fourier" ? "spectrum" : "image";
    paint.setAttribute("aria-label", `The ${noun} and its mask: drag to paint, or arrow keys and space`);
    const text = state[NAMES[task]] ?? "";
    masks[task] ??= PRESETS[task][text] ? fill(text) : decode(text);
    lost.hidden = addressed() !== null;
  }

  function addressed() { // the mask as the address has it, or null
    const text = names[task] ?? shorten(encode().split(" "));
    return text.length <= LONGEST_MASK ? text : null;
  }

  /** Return rows as the address has them, such as f0x6 for six that are alike. */
  function shorten(rows) {
    const groups = [];
    for (const row of rows) {
      if (groups.at(-1)?.row === row) groups.at(-1).n += 1;
      else groups.push({ row, n: 1 });
    }
    return groups.map(({ row, n }) => (n > 1 ? `${row}x${n}` : row)).join(".");
  }

  function fill(name) {
    names[task] = name;
    const about = { width, height, share: shareOf.value };
    return Array.from({ length: height * width }, (_, i) => (
      PRESETS[task][name](i % width, Math.floor(i / width), about)));
  }

  function encode() {
    return Array.from({ length: height }, (_, y) => {
      const bits = masks[task].slice(y * width, (y + 1) * width).map(Number).join("");
      return BigInt(`0b${bits}`).toString(16).padStart(Math.ceil(width / 4), "0");
    }).join(" ");
  }

  function decode(text) { // a text of another size gives the first of the presets
    const rows = text.split(".").flatMap((group) => {
      const [row, n = 1] = group.split("x");
      return Array(Math.min(Math.trunc(n) || 0, height)).fill(row);
    });
    const good = rows.length === height && rows.every((row) => /^[0-9a-f]+$/.test(row));
    const bits = good && rows.flatMap((row) => [...BigInt(`0x${row}`).toString(2).padStart(width, "0")]);
    if (bits && bits.length === height * width) return bits.map((bit) => bit === "1");
    return fill(Object.keys(PRESETS[task])[0]);
  }

  function change(name) { // to a mask by name, or as it was painted
    names[task] = name;
    if (name) masks[task] = fill(name);
    const text = addressed();
    setState({ [NAMES[task]]: text });
    lost.hidden = text !== null;
    draw();
    onchange();
  }

  function show(picture) {
    image = picture;
    figure.hidden = !image;
    draw();
  }

  function draw() {
    const known = masks[task];
    if (!image || !known) return;
    resize(paint, width, height, 320);
    putImage(paint, image);
    const pen = paint.getContext("2d");
    const pixels = pen.getImageData(0, 0, width, height);
    known.forEach((shown, i) => !shown && pixels.data.set(HIDDEN, 4 * i));
    pen.putImageData(pixels, 0, 0);
    const count = known.filter(Boolean).length;
    const noun = task === "fourier" ? "frequencies" : "pixels";
    share.textContent = `${count} of ${known.length} ${noun} are known; blue ones are not. Drag in the picture to paint.`;
  }

  function touch(x, y) {
    const from = Math.floor((size.value - 1) / 2);
    for (let v = y - from; v < y - from + size.value; v++) {
      for (let u = x - from; u < x - from + size.value; u++) {
        if (u >= 0 && v >= 0 && u < width && v < height) masks[task][v * width + u] = brush.value === "show";
      }
    }
    draw();
  }

  function stroke(event) {
    if (!image) return;
    const before = spot;
    spot = pixelAt(paint, event);
    // a fast pointer skips pixels, so those between two events are touched too
    const gap = event.type === "pointermove" ? [spot[0] - before[0], spot[1] - before[1]] : [0, 0];
    const steps = Math.max(1, ...gap.map(Math.abs));
    for (let k = 1; k <= steps; k++) touch(...spot.map((at, i) => Math.round(at - gap[i] * (1 - k / steps))));
  }

  function keys(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!image || (!step && event.key !== " ")) return;
    event.preventDefault();
    if (step) spot = [0, 1].map((i) => Math.min(Math.max(spot[i] + step[i], 0), [width, height][i] - 1));
    else { touch(...spot); change(); }
    moveCursor(cursor, paint, ...spot, 1, 1);
  }

  return { controls, figure, open, show, encode };
}
