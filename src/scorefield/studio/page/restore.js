// Restore: an image, what is known of it, and completions as they form.

import {
  calm, drawImage, drawMap, follow, layout, moveCursor, pixelAt, putImage, resize,
} from "./pixels.js";
import { download } from "./replay.js";

const HIDDEN = [0, 114, 178]; // the colour of what is painted over
const TASKS = {
  inpaint: "Inpaint: missing pixels", colorize: "Colourise: a grey image",
  "super-resolve": "Super-resolve: a small image", deblur: "Deblur: a blurred image",
  fourier: "Fourier: some frequencies", radon: "Radon: projections",
};
const MASKS = { // what is known at (x, y), by task; the mean of frequencies is in the centre
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
const SHARED = ["random", "random rows", "low ones"]; // masks of which a share is known
const LONGEST_MASK = 2000; // characters of the address

function inside(i, length) {
  return i >= Math.floor(length / 4) && i < Math.ceil((3 * length) / 4);
}

function scramble(i) { // the same random mask each time
  let z = Math.imul(i + 1, 0x9e3779b1);
  z = Math.imul(z ^ (z >>> 15), 0x85ebca6b);
  return ((z ^ (z >>> 13)) >>> 0) / 2 ** 32;
}

export default {
  name: "restore",
  title: "Restore",
  mount(root, state, tools) {
    const { ui, run } = tools;
    const { h } = ui;
    let about = null;
    let image = null; // of the image or its spectrum, [height, width, channels]
    let known = null; // of its pixels or frequencies, row by row
    let maskName = null; // of a mask that is not painted
    let upload = null; // {upload, file}
    let spot = [0, 0];
    let painting = false;
    const jobs = {};
    const short = (value) => ui.format(Number(value.toPrecision(3)));

    const status = ui.status();
    const heldout = ui.number({
      label: "Held-out image", min: 0, value: state.heldout ?? 0,
      onchange: (value) => { upload = null; tools.setState({ heldout: value }); adapt(); load(); },
    });
    const file = h("input", { type: "file", accept: "image/*,.npy", "aria-label": "Your own image", onchange: () => send(file.files[0]) });
    const drop = h("div", {
      class: "drop", ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
      ondragleave: () => drop.classList.remove("over"),
      ondrop: (event) => { event.preventDefault(); drop.classList.remove("over"); send(event.dataTransfer.files[0]); },
    }, h("p", { class: "muted" }, "Or drop an image here, or choose one; it is cut and scaled to the model's size. An .npy file of a measurement is taken as it is."), file);
    const keep = (name) => (value) => tools.setState({ [name]: value });
    const task = ui.select({
      label: "Operator", options: [], onchange: (value) => {
        tools.setState({ task: value, mask: null });
        if (MASKS[value]) fill(Object.keys(MASKS[value])[0]);
        adapt();
        load();
      },
    });
    const again = (name) => (value) => { tools.setState({ [name]: value }); load(); };
    const factor = ui.select({ label: "Pixels a side that became one", options: [], onchange: again("factor") });
    const sigma = ui.slider({ label: "Blur in pixels", min: 0.25, max: 8, step: 0.25, value: state.sigma ?? 1 });
    sigma.input.addEventListener("change", () => again("sigma")(sigma.value));
    const angles = ui.number({ label: "Angles", min: 1, max: 360, value: state.angles ?? 8, onchange: again("angles") });
    const noise = ui.number({
      label: "Noise of the measurement", min: 0, max: 10, step: "any", value: state.noise ?? "",
      optional: true, onchange: again("noise"),
    });
    const measuredAlready = ui.checkbox({
      label: "It is a measurement already", onchange: () => load(),
    });
    const brush = ui.select({ label: "Brush", options: [["hide", "hides"], ["show", "shows"]] });
    const size = ui.slider({ label: "Brush size", min: 1, max: 9, step: 1, value: 1 });
    const shareOf = ui.slider({ label: "Share that is known", min: 0.05, max: 0.95, step: 0.05, value: state.share ?? 0.5 });
    shareOf.input.addEventListener("change", () => {
      tools.setState({ share: shareOf.value });
      change(SHARED.includes(maskName) ? maskName : SHARED.find((name) => MASKS[task.value][name]));
    });
    const presets = h("div", { class: "row" });
    const masks = ui.group("Mask", presets, shareOf.element, brush.element, size.element);
    const method = ui.select({ label: "Method", options: [], onchange: (value) => { tools.setState({ method: value }); adapt(); } });
    const bias = h("output", { class: "muted small", "aria-label": "Measured bias" });
    const n = ui.number({ label: "Completions", min: 1, max: 64, value: state.n ?? 8, onchange: keep("n") });
    const steps = ui.number({ label: "Steps", min: 1, max: 10000, value: state.steps ?? "", optional: true, onchange: keep("steps") });
    const particles = ui.number({ label: "Particles in a filter", min: 1, max: 256, value: state.particles ?? 32, onchange: keep("particles") });
    const filters = ui.number({ label: "Filters", min: 1, max: 64, value: state.filters ?? 4, onchange: keep("filters") });
    steps.input.placeholder = "auto";
    const label = ui.select({ label: "Class", options: [], onchange: (value) => tools.setState({ label: value || null }) });
    const guidance = ui.slider({ label: "Guidance", min: 0, max: 8, step: 0.25, value: state.guidance ?? 1, oninput: keep("guidance") });
    const seed = ui.number({ label: "Seed", min: 0, max: 2 ** 53 - 1, value: state.seed ?? 0, onchange: again("seed") });
    const go = ui.button({ label: "Restore", kind: "primary", onclick: () => restore() });
    go.disabled = true; // until it is known what can be restored
    const stop = ui.button({ label: "Stop", onclick: () => jobs.run?.cancel() });
    const save = ui.button({
      label: "Save the measurement", kind: "quiet", onclick: () => saveFiles(),
      title: "Save the files that the copied command reads",
    });

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
    const others = Object.entries({
      image: "The image", projections: "Its projections, a row for each angle",
      measured: "What the measurement says",
    }).map(([name, text]) => {
      const canvas = h("canvas", { class: "pixels", "aria-label": text });
      return { name, canvas, figure: h("figure", { hidden: true }, canvas, h("figcaption", {}, text)) };
    });
    const paintFigure = h("figure", {}, h("div", { class: "canvas-box" }, paint, cursor), h("figcaption", {}, share));
    const results = h("canvas", { class: "pixels", "aria-label": "Completions" });
    const mean = h("canvas", { class: "pixels", "aria-label": "Mean of the completions" });
    const spread = h("canvas", { class: "pixels", "aria-label": "Standard deviation of the completions" });
    const brightest = h("output", { "aria-label": "Largest deviation" });
    const progress = h("output", { class: "muted", "aria-label": "State" });
    const errors = h("output", { "aria-label": "Errors" });
    const outcome = h("section", { class: "stack", hidden: true, "aria-label": "Completions" },
      h("h3", {}, "Completions"), results, progress,
      h("div", { class: "thumbs" },
        h("figure", {}, mean, h("figcaption", {}, "Their mean")),
        h("figure", {}, spread, h("figcaption", {}, "Standard deviation; yellow is ", brightest))),
      errors);

    root.append(
      h("h2", {}, "Restore"),
      h("p", { class: "muted" }, "Say what is known of an image; the model samples images that agree with it."),
      h("div", { class: "view" },
        h("div", { class: "controls" },
          ui.group("Image", heldout.element, drop, measuredAlready.element),
          ui.group("Measurement", task.element, factor.element, sigma.element, angles.element, noise.element),
          masks,
          ui.group("Method", method.element, bias, label.element, guidance.element,
            h("div", { class: "row end" }, n.element, steps.element, particles.element,
              filters.element, seed.element))),
        h("div", { class: "stack sections" },
          h("section", { class: "stack", "aria-label": "Image" },
            h("div", { class: "thumbs" }, paintFigure, others.map((other) => other.figure)),
            h("div", { class: "row" }, go, stop, save), status.element),
          outcome)));

    function fill(name) {
      const [, height, width] = about.shape;
      const shown = MASKS[task.value][name] ?? (() => true);
      maskName = name;
      known = Array.from({ length: height * width }, (_, i) => (
        shown(i % width, Math.floor(i / width), { width, height, share: shareOf.value })));
    }

    function encode() {
      const [, height, width] = about.shape;
      return Array.from({ length: height }, (_, y) => {
        const bits = known.slice(y * width, (y + 1) * width).map(Number).join("");
        return BigInt(`0b${bits}`).toString(16).padStart(Math.ceil(width / 4), "0");
      }).join(" ");
    }

    function decode(text) {
      const [, height, width] = about.shape;
      const rows = text.split(/[ .]/);
      const good = rows.length === height && rows.every((row) => /^[0-9a-f]+$/.test(row));
      const bits = good && rows.flatMap((row) => [...BigInt(`0x${row}`).toString(2).padStart(width, "0")]);
      if (bits && bits.length === height * width) known = bits.map((bit) => bit === "1");
      else fill(Object.keys(MASKS[task.value])[0]);
    }

    function change(name) { // to a mask by name, or as it was painted
      if (name) fill(name);
      else maskName = null;
      const text = name ?? encode().replaceAll(" ", ".");
      tools.setState({ mask: text.length <= LONGEST_MASK ? text : null });
      drawPaint();
      if (task.value === "fourier") load();
    }

    function drawPaint() {
      if (!image || !known) return;
      const [height, width] = image.shape;
      resize(paint, width, height, 320);
      putImage(paint, image);
      const pen = paint.getContext("2d");
      const pixels = pen.getImageData(0, 0, width, height);
      known.forEach((shown, i) => !shown && pixels.data.set(HIDDEN, 4 * i));
      pen.putImageData(pixels, 0, 0);
      const count = known.filter(Boolean).length;
      const noun = task.value === "fourier" ? "frequencies" : "pixels";
      share.textContent = `${count} of ${known.length} ${noun} are known; blue ones are not`;
    }

    function touch(x, y) {
      const [height, width] = image.shape;
      const from = Math.floor((size.value - 1) / 2);
      for (let v = y - from; v < y - from + size.value; v++) {
        for (let u = x - from; u < x - from + size.value; u++) {
          if (u >= 0 && v >= 0 && u < width && v < height) known[v * width + u] = brush.value === "show";
        }
      }
      drawPaint();
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
      if (step) spot = [0, 1].map((i) => Math.min(Math.max(spot[i] + step[i], 0), image.shape[1 - i] - 1));
      else { touch(...spot); change(); }
      moveCursor(cursor, paint, ...spot, 1, 1);
    }

    async function send(chosen) {
      if (!chosen) return;
      status.say("Uploading");
      const answer = await fetch("upload", { method: "POST", body: chosen });
      if (!answer.ok) { status.say(await answer.text(), true); return; }
      upload = { ...(await answer.json()), file: chosen.name };
      measuredAlready.value = chosen.name.toLowerCase().endsWith(".npy");
      adapt();
      load();
    }

    function measurement() {
      const all = { task: task.value, seed: seed.value };
      if (upload) Object.assign(all, upload, { measured: measuredAlready.value });
      else all.heldout = heldout.value;
      if (MASKS[task.value]) all.mask = encode();
      if (task.value === "super-resolve") all.factor = Number(factor.value);
      if (task.value === "deblur") all.sigma = sigma.value;
      if (task.value === "radon") all.angles = angles.value;
      if (noise.value !== null) all.noise = noise.value;
      return all;
    }

    function settings() {
      const all = {
        ...measurement(), n: n.value, method: method.value, label: label.value || null, guidance: guidance.value,
      };
      if (steps.value !== null) all.steps = steps.value;
      if (about.methods[method.value].particles) Object.assign(all, { particles: particles.value, filters: filters.value });
      return all;
    }

    function load() {
      if (!about) return;
      if (!upload && !about.heldout) { status.say("The run has no held-out images: drop one of your own."); return; }
      jobs.image?.cancel();
      const mine = jobs.image = run("restore.image", measurement(), {
        frame(header, arrays) {
          if (jobs.image !== mine) return;
          image = arrays.painted;
          paintFigure.hidden = !image;
          drawPaint();
          for (const { name, canvas, figure } of others) {
            figure.hidden = !arrays[name];
            if (arrays[name]) drawImage(canvas, arrays[name], 320);
          }
        },
        status: follow(status, "Reading the image"),
      });
    }

    function restore() {
      jobs.run?.cancel();
      const total = n.value;
      outcome.hidden = false;
      errors.textContent = progress.textContent = "";
      const mine = jobs.run = run("restore.run", settings(), {
        frame(header, arrays) {
          if (jobs.run !== mine || (calm() && !header.keep)) return;
          drawCompletions(header, arrays, total);
        },
        status: follow(status, "Restoring"),
      });
    }

    function drawCompletions(header, arrays, total) {
      const [height, width] = arrays.x.shape.slice(1);
      const grid = layout(total, height, width, total > 8 ? 8 : Math.min(total, 4));
      resize(results, grid.width, grid.height, 720);
      if (header.step <= 1) results.getContext("2d").clearRect(0, 0, results.width, results.height);
      header.places.forEach((place, i) => putImage(results, arrays.x, i, ...grid.place(place)));
      drawImage(mean, arrays.mean, 160);
      brightest.textContent = short(drawMap(spread, arrays.spread, 160));
      progress.textContent = `State ${header.step} of ${header.of}, σ = ${short(header.sigma)}, `
        + `${short(header.seconds)} s`;
      if (header.errors) {
        const [ofMean, single] = header.errors.map(short);
        errors.textContent = `Root mean square error of the mean ${ofMean}, of single completions ${single}.`;
      }
    }

    function adapt() {
      const kind = task.value === "inpaint" ? "mask" : "matrix";
      factor.element.hidden = task.value !== "super-resolve";
      sigma.element.hidden = task.value !== "deblur";
      angles.element.hidden = task.value !== "radon";
      measuredAlready.element.hidden = !upload;
      masks.hidden = !MASKS[task.value];
      noise.input.placeholder = short(about.noise[task.value]);
      if (MASKS[task.value]) {
        presets.replaceChildren(...Object.keys(MASKS[task.value]).map((name) => ui.button({
          label: name[0].toUpperCase() + name.slice(1), onclick: () => change(name),
        })), ui.button({ label: "Clear", onclick: () => { known.fill(true); change(); } }));
        const noun = task.value === "fourier" ? "spectrum" : "image";
        paint.setAttribute("aria-label", `The ${noun} and its mask: drag to paint, or arrow keys and space`);
      }
      const names = Object.entries(about.methods).filter(([, one]) => one.biases[kind]);
      const before = method.value || state.method;
      method.fill(names.map(([name, one]) => [name, `${name}: bias ${Math.round(100 * one.biases[kind].largest)} %`]));
      method.value = names.some(([name]) => name === before) ? before : "mmps";
      const one = about.methods[method.value];
      particles.element.hidden = filters.element.hidden = !one.particles;
      const { mean: shift, least, most } = one.biases[kind];
      bias.textContent = `On a mixture in 64 dimensions with a ${kind}, means err by up to ${shift} exact deviations, `
        + `deviations are ${least} to ${most} of the exact ones. ${one.calls} evaluations a ${one.particles ? "particle" : "completion"}.`
        + (one.noiseless ? " For measurements without noise." : "");
      drawPaint();
    }

    function saveFiles() {
      run("restore.files", measurement(), {
        frame(header, arrays) {
          for (const [name, bytes] of Object.entries(arrays)) download(name, bytes, "application/octet-stream");
        },
        status: follow(status, "Writing the measurement"),
      });
    }

    status.say("Reading the model");
    run("restore.about", {}, {
      frame(header) {
        about = header;
        go.disabled = false;
        heldout.input.max = Math.max(0, header.heldout - 1);
        heldout.element.hidden = !header.heldout;
        task.fill(header.tasks.map((name) => [name, TASKS[name]]));
        task.value = header.tasks.includes(state.task) ? state.task : header.tasks[0];
        factor.fill(header.factors.map(String));
        if (state.factor) factor.value = state.factor;
        label.fill([["", "any"], ...header.classes.map((name) => [name, name])]);
        if (state.label) label.value = state.label;
        label.element.hidden = guidance.element.hidden = !header.classes.length;
        if (MASKS[task.value]?.[state.mask]) fill(state.mask);
        else if (MASKS[task.value]) decode(state.mask ?? "");
        adapt();
        load();
      },
      status: (message) => message.status === "error" && status.say(message.message, true),
    });

    return {
      settings: () => ({ job: "restore.run", settings: about ? settings() : {} }),
      unmount() {
        for (const job of Object.values(jobs)) job.cancel?.();
      },
    };
  },
};
