// Images: samples that anneal, one of them from noise to image, paths between seeds, and cost.

import { costs } from "./costs.js";
import {
  calm, drawGrid, drawImage, follow, keepState, layout, moveCursor, pixelAt, putImage, resize,
} from "./pixels.js";

const PATH = 8; // states of a path that are shown
const WIDE = 560;

export default {
  name: "images",
  title: "Images",
  mount(root, state, tools) {
    const { ui, run } = tools;
    const { h } = ui;
    let about = null; // of the model
    let frames = []; // states, each {sigma, step, …, x, denoised}
    let at = 0; // the state that is shown
    let chosen = state.chosen == null ? null : Number(state.chosen);
    let playing = null;
    let goal = state.sigma == null ? null : Number(state.sigma); // the noise level to show at the end
    let pathSettings = null; // of the path that is shown, as text
    let wantsPath = state.other != null;
    const jobs = {};
    const short = (value, digits = 3) => ui.format(Number(value.toPrecision(digits)));

    const countCalls = ({ evaluations, calls }) => `${ui.format(evaluations)} evaluations of the score`
      + (calls === evaluations ? "" : `, ${ui.format(calls)} calls of the network with guidance`);

    const start = (name, job, settings, handlers) => {
      jobs[name]?.cancel();
      jobs[name] = run(job, settings, handlers);
      return jobs[name];
    };
    const only = (name, handlers) => { // frames of an older job with this name are ignored
      const mine = {};
      jobs[`${name} handlers`] = mine;
      const guard = (call) => (...values) => jobs[`${name} handlers`] === mine && call?.(...values);
      return { frame: guard(handlers.frame), status: guard(handlers.status) };
    };

    const keep = (patch) => { tools.setState({ ...patch, sigma: null }); sample(); };
    const status = ui.status();
    const sampler = ui.select({
      label: "Sampler", options: [],
      onchange: (value) => {
        steps.value = about.samplers[value];
        keep({ sampler: value, steps: null });
      },
    });
    const steps = ui.number({
      label: "Steps", min: 1, max: 10000, value: state.steps ?? 18,
      onchange: (value) => keep({ steps: value === about.samplers[sampler.value] ? null : value }),
    });
    const seed = ui.number({
      label: "Seed", min: 0, max: 2 ** 53 - 1, value: state.seed ?? 0,
      onchange: (value) => keep({ seed: value }),
    });
    const count = ui.number({
      label: "Images", min: 1, max: 256, value: state.n ?? 16, onchange: (value) => keep({ n: value }),
    });
    const label = ui.select({ label: "Class", options: [], onchange: (value) => keep({ label: value || null }) });
    const guidance = ui.slider({
      label: "Guidance", min: 0, max: 8, step: 0.25, value: state.guidance ?? 1,
    });
    guidance.input.addEventListener("change", () => keep({ guidance: guidance.value }));
    const again = ui.button({ label: "Sample", kind: "primary", onclick: () => sample() });
    const next = ui.button({
      label: "Next seed", onclick: () => { seed.value += 1; keep({ seed: seed.value }); },
    });
    const stop = ui.button({ label: "Stop", onclick: () => jobs.sample?.cancel() });
    const cost = h("output", { class: "muted", "aria-label": "Cost" });

    const grid = h("canvas", {
      class: "pixels", tabindex: 0, role: "img",
      "aria-label": "Samples: arrow keys choose one, Enter shows it",
      onclick: (event) => choose(cellAt(...pixelAt(grid, event))),
      onkeydown: (event) => move(event),
    });
    const cursor = h("div", { class: "cursor", hidden: true });
    const shown = ui.select({
      label: "Show", options: [["x", "x, with its noise"], ["denoised", "E[x₀ | x], its denoised mean"]],
      value: state.show ?? "x", onchange: (value) => { tools.setState({ show: value }); draw(); },
    });
    const scrubber = ui.slider({
      label: "Noise level σ", min: 0, max: 1, step: 1, value: 0,
      show: (i) => (frames[i] ? short(frames[i].sigma) : "–"),
      oninput: (i) => { pause(); at = i; draw(); keepLevel(); },
    });
    const play = ui.button({
      label: "Play", onclick: () => { if (playing) { pause(); keepLevel(); } else replay(); },
    });
    const facts = h("output", { class: "muted", "aria-label": "State" });

    const portrait = h("canvas", { class: "pixels", "aria-label": "The chosen sample" });
    const mean = h("canvas", { class: "pixels", "aria-label": "Its denoised view" });
    const strip = h("canvas", { class: "pixels wide", "aria-label": "Its path: above x, below E[x₀ | x]" });
    const levels = h("div", { class: "ticks" });
    const near = h("div", { class: "thumbs" });
    const distance = h("output", { class: "muted", "aria-label": "Distances" });
    const nearStatus = ui.status();
    const details = h("section", { class: "stack", hidden: true, "aria-label": "Chosen sample" },
      h("h3", {}, "The chosen sample"),
      h("div", { class: "thumbs" },
        figure(portrait, "x"), figure(mean, "E[x₀ | x]")),
      h("figure", {}, strip, levels,
        h("figcaption", {}, "Its path from noise: x above, E[x₀ | x] below, σ under each state")),
      h("h3", {}, "Nearest training images"), near, distance, nearStatus.element);

    const other = ui.number({
      label: "Other seed", min: 0, max: 2 ** 53 - 1, value: state.other ?? 1,
      onchange: (value) => { tools.setState({ other: value }); between(); },
    });
    const path = h("canvas", { class: "pixels wide", hidden: true, "aria-label": "Samples between two seeds" });
    const pathStatus = ui.status();
    const going = ui.button({ label: "Interpolate", onclick: () => { tools.setState({ other: other.value }); between(); } });
    const copyPath = ui.button({
      label: "Copy path as code", kind: "quiet",
      onclick: () => tools.copy({ job: "images.between", settings: betweenSettings() }),
    });
    const figures = costs(ui, tools);

    root.append(
      h("h2", {}, "Images"),
      h("p", { class: "muted" }, "Noise becomes samples of the model, state by state. Choose one for its path and its nearest training images."),
      h("div", { class: "view" },
        h("div", { class: "controls" },
          sampler.element, label.element, guidance.element,
          h("div", { class: "row end" }, steps.element, seed.element, count.element),
          h("div", { class: "row" }, again, next, stop), cost, status.element),
        h("div", { class: "stack sections" },
          h("section", { class: "stack", "aria-label": "Samples" },
            h("div", { class: "canvas-box" }, grid, cursor),
            h("div", { class: "scrub" }, scrubber.element, shown.element, play), facts),
          details,
          h("section", { class: "stack" },
            h("h3", {}, "Between two seeds"),
            h("p", { class: "muted" }, "The noise turns from that of one seed into that of another; every point on the way is a sample."),
            h("div", { class: "row end" }, other.element, going, copyPath), path, pathStatus.element),
          figures.element)),
    );

    function figure(canvas, text) {
      return h("figure", {}, canvas, h("figcaption", {}, text));
    }

    function settings() {
      const all = {
        sampler: sampler.value, steps: steps.value, seed: seed.value, n: count.value,
        label: label.value || null, guidance: label.value ? guidance.value : 1,
      };
      if (sampler.value === about.sampler) delete all.sampler; // with the run's own options
      if (steps.value === about.samplers[sampler.value]) delete all.steps;
      return all;
    }

    function betweenSettings() {
      return { ...settings(), n: 9, other: other.value };
    }

    function sample() {
      if (!about) return;
      pause();
      adapt();
      const asked = settings();
      figures.here({ seconds: null });
      checkPath();
      let begun = false;
      start("plan", "images.plan", asked, only("plan", {
        frame(header) {
          cost.textContent = `${countCalls(header)} an image`;
          const { evaluations, calls } = header;
          figures.here({ sampler: sampler.value, calls, guided: calls !== evaluations });
        },
      }));
      start("sample", "images.sample", asked, only("sample", {
        frame(header, arrays) {
          if (!begun) frames = [];
          begun = true;
          add({ ...header, ...arrays });
          if (!calm() || header.last) { at = frames.length - 1; draw(); }
          if (header.last) finish(header);
        },
        status: follow(status, "Sampling"),
      }));
    }

    function add(frame) {
      if (frame.last && frames.length && frames[frames.length - 1].step === frame.step) frames.pop();
      frames = keepState(frames, frame);
      scrubber.input.max = Math.max(1, frames.length - 1);
    }

    function finish(header) {
      const { sampler, calls, n } = header;
      figures.here({ sampler, calls, n, seconds: header.seconds / n });
      if (goal != null) scrubTo(goal);
      goal = null;
      if (chosen != null && chosen < header.n) inspect();
      else details.hidden = true;
    }

    function draw() {
      const frame = frames[at];
      if (!frame) return;
      scrubber.value = at;
      drawGrid(grid, frame[shown.value], WIDE);
      placeCursor();
      const each = frame.seconds / frame.n;
      facts.textContent = `State ${frame.step} of ${frame.of}, σ = ${short(frame.sigma)}, `
        + `${countCalls(frame)}, ${short(each)} s an image with ${frame.n} at once`;
      if (chosen != null && chosen < frame.n) {
        drawImage(portrait, frame.x, 160, chosen);
        drawImage(mean, frame.denoised, 160, chosen);
      }
    }

    function shape() {
      const [height, width] = frames[0].x.shape.slice(1);
      return layout(frames[0].n, height, width);
    }

    function cellAt(x, y) {
      const [height, width] = frames[0].x.shape.slice(1);
      return Math.floor(y / (height + 1)) * shape().columns + Math.floor(x / (width + 1));
    }

    function placeCursor() {
      if (chosen == null || !frames.length || chosen >= frames[0].n) { cursor.hidden = true; return; }
      const [height, width] = frames[0].x.shape.slice(1);
      moveCursor(cursor, grid, ...shape().place(chosen), width, height);
    }

    function move(event) {
      if (!frames.length) return;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -shape().columns, ArrowDown: shape().columns }[event.key];
      if (event.key === "Enter" && chosen != null) inspect();
      if (step === undefined) return;
      event.preventDefault();
      choose(chosen == null ? 0 : chosen + step);
    }

    function choose(i) {
      if (i < 0 || !frames.length || i >= frames[0].n) return;
      chosen = i;
      tools.setState({ chosen });
      draw();
      inspect();
    }

    function inspect() {
      details.hidden = false;
      drawPath();
      draw();
      if (!about.data) { distance.textContent = "The run's data are not known, so neither are its neighbours."; return; }
      start("near", "images.nearest", { ...settings(), index: chosen }, only("near", {
        frame(header, arrays) {
          if (header.keep) drawNear(header, arrays.images);
          else nearStatus.say(`Compared with ${header.compared} of ${header.of} training images`);
        },
        status: follow(nearStatus, "Comparing"),
      }));
    }

    function drawPath() {
      const few = Math.min(PATH, frames.length);
      const places = Array.from({ length: few }, (_, i) => Math.round((i * (frames.length - 1)) / Math.max(1, few - 1)));
      const [height, width] = frames[0].x.shape.slice(1);
      resize(strip, few * (width + 1) - 1, 2 * height + 1, WIDE);
      strip.getContext("2d").clearRect(0, 0, strip.width, strip.height);
      levels.replaceChildren(...places.map((place, i) => {
        putImage(strip, frames[place].x, chosen, i * (width + 1), 0);
        putImage(strip, frames[place].denoised, chosen, i * (width + 1), height + 1);
        return h("output", {}, short(frames[place].sigma, 2));
      }));
      levels.style.width = strip.style.width;
    }

    function drawNear(header, images) {
      near.replaceChildren(...header.distances.map((far, i) => {
        const canvas = h("canvas", { class: "pixels", "aria-label": `Training image ${i + 1} of the nearest` });
        drawImage(canvas, images, 96, i);
        return figure(canvas, h("output", {}, short(far)));
      }));
      const [first] = header.distances;
      distance.textContent = `The nearest of ${header.of} training images is ${short(first)} away`
        + (header.usual ? `, ${short(first / header.usual, 2)} times as far as held-out images are (median ${short(header.usual)}).` : ".");
    }

    function adapt() { // guidance goes towards a class
      guidance.input.disabled = !label.value;
      guidance.input.title = label.value ? "" : "Choose a class first: guidance goes towards it";
    }

    function checkPath() { // clear a path that is not of the settings; true if there can be one
      const refused = label.value === "all";
      going.disabled = copyPath.disabled = refused;
      const old = pathSettings != null && pathSettings !== JSON.stringify(betweenSettings());
      if (old) {
        jobs.between.cancel();
        only("between", {});
        path.hidden = true;
        pathSettings = null;
      }
      if (refused) pathStatus.say("A path is of one class: choose one above.");
      else if (old) pathStatus.say("The settings have changed: Interpolate draws their path.");
      else if (pathSettings == null) pathStatus.say("");
      return !refused;
    }

    function between() {
      wantsPath = true;
      if (!about || !checkPath()) return; // it is computed when that has arrived
      pathSettings = JSON.stringify(betweenSettings());
      start("between", "images.between", betweenSettings(), only("between", {
        frame(header, arrays) {
          if (calm() && !header.last) return;
          path.hidden = false;
          drawGrid(path, arrays.x, 720, header.n);
        },
        status: follow(pathStatus, "Interpolating"),
      }));
    }

    function scrubTo(sigma) {
      const gap = (frame) => Math.abs(frame.sigma - sigma);
      at = frames.reduce((best, frame, i) => (gap(frame) < gap(frames[best]) ? i : best), 0);
      draw();
    }

    function keepLevel() {
      tools.setState({ sigma: at === frames.length - 1 ? null : short(frames[at].sigma, 4) });
    }

    function replay() {
      if (!frames.length) return;
      play.textContent = "Pause";
      at = at >= frames.length - 1 ? 0 : at;
      playing = setInterval(() => {
        draw();
        if (at >= frames.length - 1) pause();
        else at += 1;
      }, Math.max(40, 3000 / frames.length));
    }

    function pause() {
      clearInterval(playing);
      playing = null;
      play.textContent = "Play";
    }

    status.say("Reading the model");
    run("images.about", {}, {
      frame(header) {
        about = header;
        sampler.fill(Object.keys(header.samplers));
        sampler.value = header.samplers[state.sampler] ? state.sampler : header.sampler;
        if (state.steps == null) steps.value = header.samplers[sampler.value];
        const names = header.classes.map((name) => [name, name]);
        label.fill([...(header.free ? [["", "any"]] : []), ...names, ["all", "all, in order"]]);
        if (state.label) label.value = state.label;
        label.element.hidden = guidance.element.hidden = !names.length;
        figures.show(header.frontier, header.run);
        sample();
        if (wantsPath) between();
      },
      status: (message) => message.status === "error" && ui.refuse(root, message.message),
    });

    return {
      settings: () => ({ job: "images.sample", settings: about ? settings() : {} }),
      replay: {
        count: () => frames.length,
        show(i) {
          at = i;
          draw();
          return `σ ${short(frames[i].sigma)}`;
        },
      },
      unmount() {
        pause();
        figures.unmount();
        for (const job of Object.values(jobs)) job.cancel?.();
      },
    };
  },
};
