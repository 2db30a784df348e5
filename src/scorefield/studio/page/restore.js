// Restore: an image, what is known of it, and completions as they form.

import { latest } from "./latest.js";
import { makeMask } from "./mask.js";
import { makeOutcome } from "./outcome.js";
import { drawImage, follow } from "./pixels.js";
import { download } from "./replay.js";

const TASKS = {
  inpaint: "Inpaint: missing pixels", colorize: "Colourise: a grey image",
  "super-resolve": "Super-resolve: a small image", deblur: "Deblur: a blurred image",
  fourier: "Fourier: some frequencies", radon: "Radon: projections",
};

export default {
  name: "restore",
  title: "Restore",
  description: "restore.about",
  mount(root, state, tools, about) {
    const { ui, run } = tools;
    const { h } = ui;
    let upload = state.upload == null ? null : { upload: state.upload, file: state.file ?? "image.png" };
    let another = false; // image is chosen than the one that is shown
    let newest = null; // choice of an image: an upload that ends after another choice is not taken
    const reading = latest(run);
    const restoring = latest(run);
    // a reload samples again what is shown, if it is of the settings
    const setState = (patch) => tools.setState({ ...patch, restored: outcome.compare(settings()) ? 1 : null });
    const short = (value) => ui.format(Number(value.toPrecision(3)));

    const status = ui.status();
    const heldout = ui.number({
      label: "Held-out image", min: 0, max: Math.max(0, about.heldout - 1), value: state.heldout ?? 0,
      onchange: (value) => { setState({ heldout: value }); take(null); },
    });
    const file = h("input", { type: "file", accept: "image/*,.npy", "aria-label": "Your own image", onchange: () => send(file.files[0]) });
    const taken = h("output", { "aria-label": "Uploaded" });
    const back = ui.button({ label: "Back to the held-out image", kind: "quiet", onclick: () => take(null) });
    const drop = h("div", {
      class: "drop", ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
      ondragleave: () => drop.classList.remove("over"),
      ondrop: (event) => { event.preventDefault(); drop.classList.remove("over"); send(event.dataTransfer.files[0]); },
    }, h("p", { class: "muted" }, "Or drop an image here, or choose one; it is cut and scaled to the model's size. An .npy file of a measurement is taken as it is."), file, taken, back);
    const keep = (name) => (value) => setState({ [name]: value });
    const task = ui.select({
      label: "Operator", options: about.tasks.map((name) => [name, TASKS[name]]), value: state.task,
      onchange(value) {
        setState({ task: value });
        mask.open(value, about.shape.slice(1));
        adapt();
        load();
      },
    });
    const again = (name) => (value) => { setState({ [name]: value }); load(); };
    const factor = ui.select({
      label: "Pixels a side that became one", options: about.factors.map(String), value: state.factor,
      onchange: again("factor"),
    });
    const sigma = ui.slider({ label: "Blur in pixels", min: 0.25, max: 8, step: 0.25, value: state.sigma ?? 1 });
    sigma.input.addEventListener("change", () => again("sigma")(sigma.value));
    const angles = ui.number({ label: "Angles", min: 1, max: 360, value: state.angles ?? 8, onchange: again("angles") });
    const noise = ui.number({
      label: "Noise of the measurement", min: 0, max: 10, step: "any", value: state.noise ?? "",
      optional: true, onchange: again("noise"),
    });
    const measuredAlready = ui.checkbox({
      label: "It is a measurement already", value: state.measured != null,
      onchange: (value) => { setState({ measured: value ? 1 : null }); load(); },
    });
    const mask = makeMask({
      ui, state, setState,
      onchange: () => task.value === "fourier" && load(), // which measures what is known
    });
    const method = ui.select({ label: "Method", options: [], onchange: (value) => { setState({ method: value }); adapt(); } });
    const bias = h("output", { class: "muted small", "aria-label": "Measured bias" });
    const n = ui.number({ label: "Completions", min: 1, max: 64, value: state.n ?? 8, onchange: keep("n") });
    const steps = ui.number({ label: "Steps", min: 1, max: 10000, value: state.steps ?? "", optional: true, onchange: keep("steps") });
    const particles = ui.number({ label: "Particles in a filter", min: 1, max: 256, value: state.particles ?? 32, onchange: keep("particles") });
    const filters = ui.number({ label: "Filters", min: 1, max: 64, value: state.filters ?? 4, onchange: keep("filters") });
    steps.input.placeholder = "auto";
    const label = ui.select({
      label: "Class", options: [...(about.free ? [["", "any"]] : []), ...about.classes], value: state.label,
      onchange(value) { setState({ label: value || null }); adapt(); },
    });
    const guidance = ui.slider({ label: "Guidance", min: 0, max: 8, step: 0.25, value: state.guidance ?? 1, oninput: keep("guidance") });
    const seed = ui.number({ label: "Seed", min: 0, max: 2 ** 53 - 1, value: state.seed ?? 0, onchange: again("seed") });
    const go = ui.button({ label: "Restore", kind: "primary", onclick: () => restore() });
    const stop = ui.button({ label: "Stop", onclick: () => restoring.cancel() });
    const save = ui.button({
      label: "Save the measurement", kind: "quiet", onclick: () => saveFiles(),
      title: "Save the files that the copied command reads",
    });

    const others = Object.entries({
      image: "The image", projections: "Its projections, a row for each angle",
      measured: "What the measurement says",
    }).map(([name, text]) => {
      const canvas = h("canvas", { class: "pixels", "aria-label": text });
      return { name, canvas, figure: h("figure", { hidden: true }, canvas, h("figcaption", {}, text)) };
    });
    const outcome = makeOutcome(ui);

    root.append(
      h("p", { class: "muted" }, "Paint over what is unknown of an image, or choose another operator; the model samples images that agree with the rest."),
      h("div", { class: "view restore" },
        h("div", { class: "controls" },
          ui.group("Image", heldout.element, drop, measuredAlready.element),
          ui.group("Measurement", task.element, factor.element, sigma.element, angles.element, noise.element),
          mask.controls,
          ui.group("Method", method.element, bias, label.element, guidance.element,
            h("div", { class: "row end" }, n.element, steps.element, particles.element,
              filters.element, seed.element))),
        h("div", { class: "stack sections" },
          h("section", { class: "stack", "aria-label": "Image" },
            h("div", { class: "thumbs" }, mask.figure, others.map((other) => other.figure)),
            h("div", { class: "row" }, go, stop, save), status.element),
          outcome.element)));

    async function send(chosen) {
      if (!chosen) return;
      const own = newest = {};
      status.say("Uploading");
      const { ok, text } = await sendFile(chosen);
      if (own !== newest) return;
      if (ok) take({ ...JSON.parse(text), file: chosen.name });
      else status.say(text, true);
    }

    function take(image) { // an upload, or null for a held-out image
      newest = null;
      upload = image;
      measuredAlready.value = image != null && image.file.toLowerCase().endsWith(".npy");
      const measured = measuredAlready.value ? 1 : null;
      setState({ upload: image?.upload, file: image?.file, measured });
      another = true;
      adapt();
      load();
    }

    function measurement() {
      const all = { task: task.value, seed: seed.value };
      if (upload) Object.assign(all, upload, { measured: measuredAlready.value });
      else all.heldout = heldout.value;
      if (!mask.controls.hidden) all.mask = mask.encode();
      if (task.value === "super-resolve") all.factor = Number(factor.value);
      if (task.value === "deblur") all.sigma = sigma.value;
      if (task.value === "radon") all.angles = angles.value;
      if (noise.value !== null) all.noise = noise.value;
      return all;
    }

    function settings() {
      const all = {
        ...measurement(), n: n.value, method: method.value, label: label.value || null,
        guidance: label.value && about.free ? guidance.value : 1,
      };
      if (steps.value !== null) all.steps = steps.value;
      if (about.methods[method.value].particles) Object.assign(all, { particles: particles.value, filters: filters.value });
      return all;
    }

    function load() {
      if (!upload && !about.heldout) { status.say("The run has no held-out images: drop one of your own."); return; }
      reading.start("restore.image", measurement(), {
        frame(header, arrays) {
          another = false;
          show(arrays);
        },
        status: follow(status, "Reading the image", (end) => end === "error" && another && show({})),
      });
    }

    function show(arrays) {
      mask.show(arrays.painted);
      for (const { name, canvas, figure } of others) {
        figure.hidden = !arrays[name];
        if (arrays[name]) drawImage(canvas, arrays[name], 320);
      }
    }

    function restore() {
      const request = {
        settings: settings(), measurement: measurement(), state: tools.state(),
        method: method.input.selectedOptions[0].text,
      };
      let started = false; // by a frame: a job that is refused leaves the completions before it
      restoring.start("restore.run", request.settings, {
        frame(header, arrays) {
          if (!started) outcome.begin(request);
          started = true;
          outcome.add(header, arrays);
          setState({});
        },
        status: follow(status, "Restoring"),
      });
    }

    function adapt() {
      const kind = task.value === "inpaint" ? "mask" : "matrix";
      factor.element.hidden = task.value !== "super-resolve";
      sigma.element.hidden = task.value !== "deblur";
      angles.element.hidden = task.value !== "radon";
      measuredAlready.element.hidden = !upload;
      taken.textContent = upload ? `Chosen: ${upload.file}` : "";
      back.hidden = !upload || !about.heldout;
      noise.input.placeholder = short(about.noise[task.value]);
      guidance.input.disabled = !label.value;
      guidance.input.title = label.value ? "" : "Choose a class first: guidance goes towards it";
      const names = Object.entries(about.methods).filter(([, one]) => one.biases[kind]);
      const before = method.value || state.method;
      method.fill(names.map(([name, one]) => [name, `${name}: bias ${Math.round(100 * one.biases[kind].largest)} %`]));
      method.value = names.some(([name]) => name === before) ? before : "mmps";
      const one = about.methods[method.value];
      particles.element.hidden = filters.element.hidden = !one.particles;
      const { mean: shift, least, most } = one.biases[kind];
      bias.textContent = `Bias on a mixture in 64 dimensions with a ${kind}: means are wrong by up to ${shift} exact deviations, and `
        + `deviations are ${least} to ${most} of the exact ones. ${one.calls} evaluations a ${one.particles ? "particle" : "completion"}.`
        + (one.noiseless ? " For measurements without noise." : "");
    }

    function saveFiles() { // of the code that is copied
      run("restore.files", outcome.request()?.measurement ?? measurement(), {
        frame(header, arrays) {
          for (const [name, bytes] of Object.entries(arrays)) download(name, bytes, "application/octet-stream");
        },
        status: follow(status, "Writing the measurement"),
      });
    }

    heldout.element.hidden = !about.heldout;
    label.element.hidden = !about.classes.length;
    guidance.element.hidden = !about.classes.length || !about.free; // it goes away from no class
    mask.open(task.value, about.shape.slice(1));
    adapt();
    load();
    if (state.restored != null) restore();

    return {
      replay: outcome.replay,
      settings: () => ({ job: "restore.run", settings: outcome.request()?.settings ?? settings() }),
    };
  },
};

/** Send a file to the studio; return {ok, text}, and in the text of a failure what to do. */
async function sendFile(file) {
  try {
    const answer = await fetch("upload", { method: "POST", body: file });
    return { ok: answer.ok, text: await answer.text() };
  } catch (error) {
    const text = `${file.name} was not uploaded (${error.message}): check that it is a file and that the studio is running, and choose it again`;
    return { ok: false, text };
  }
}
