// Images: samples that anneal, one of them from noise to image, paths between seeds, and cost.

import { makeBetween } from "./between.js";
import { makeChosen } from "./chosen.js";
import { costs } from "./costs.js";
import { latest } from "./latest.js";
import { calm, drawGrid, follow, keepState, layout, moveCursor, pixelAt, roomIn } from "./pixels.js";

const WIDE = 560;

export default {
  name: "images",
  title: "Images",
  description: "images.about",
  mount(root, state, tools, about) {
    const { ui, run } = tools;
    const { h } = ui;
    let frames = []; // states, each {sigma, step, …, x, denoised}
    let request = null; // {settings, state} of these states
    let at = 0; // the state that is shown
    let chosen = /^\d+$/.test(state.chosen) ? Number(state.chosen) : null;
    let following = true; // the newest state is shown, unless the scrubber was moved meanwhile
    let playing = null;
    let goal = Number(state.sigma) || null; // the noise level to show at the end
    const planning = latest(run);
    const sampling = latest(run);
    const short = (value, digits = 3) => ui.format(Number(value.toPrecision(digits)));

    const countCalls = ({ evaluations, calls }) => `${ui.format(evaluations)} evaluations of the score`
      + (calls === evaluations ? "" : `, ${ui.format(calls)} calls of the network with guidance`);

    const keep = (patch) => { goal = null; tools.setState({ ...patch, sigma: null }); sample(); };
    const status = ui.status();
    const note = h("output", { class: "muted", "aria-label": "Settings" });
    const sampler = ui.select({
      label: "Sampler", options: Object.keys(about.samplers),
      value: about.samplers[state.sampler] ? state.sampler : about.sampler,
      onchange: (value) => {
        steps.value = about.samplers[value];
        keep({ sampler: value, steps: null });
      },
    });
    const steps = ui.number({
      label: "Steps", min: 1, max: 10000, value: state.steps ?? about.samplers[sampler.value],
      onchange: (value) => keep({ steps: value === about.samplers[sampler.value] ? null : value }),
    });
    const seed = ui.number({
      label: "Seed", min: 0, max: 2 ** 53 - 1, value: state.seed ?? 0,
      onchange: (value) => keep({ seed: value }),
    });
    const count = ui.number({
      label: "Images", min: 1, max: 256, value: state.n ?? 16, onchange: (value) => keep({ n: value }),
    });
    const label = ui.select({
      label: "Class", value: state.label,
      options: [...(about.free ? [["", "any"]] : []), ...about.classes, ["all", "all, in order"]],
      onchange: (value) => keep({ label: value || null }),
    });
    const guidance = ui.slider({
      label: "Guidance", min: 0, max: 8, step: 0.25, value: state.guidance ?? 1,
    });
    guidance.input.addEventListener("change", () => keep({ guidance: guidance.value }));
    const again = ui.button({ label: "Sample", kind: "primary", onclick: () => keep({}) });
    const next = ui.button({
      label: "Next seed", onclick: () => { seed.value += 1; keep({ seed: seed.value }); },
    });
    const stop = ui.button({
      label: "Stop", onclick: () => [sampling, one, between].forEach((part) => part.cancel()),
    });
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
      oninput(i) {
        pause();
        at = Math.min(i, frames.length - 1);
        following = at === frames.length - 1;
        draw();
        keepLevel();
      },
    });
    const play = ui.button({
      label: "Play", onclick: () => { if (playing) { pause(); keepLevel(); } else replay(); },
    });
    const facts = h("output", { class: "muted", "aria-label": "State" });

    const samples = h("section", { class: "stack", "aria-label": "Samples" },
      h("div", { class: "canvas-box" }, grid, cursor),
      h("div", { class: "scrub" }, scrubber.element, shown.element, play), facts, note);
    const one = makeChosen({ ui, run, wide: WIDE });
    const between = makeBetween({ ui, tools, state, settings });
    const figures = costs(ui, tools);

    root.append(
      h("p", { class: "muted" }, "Noise becomes samples of the model, state by state. Click on one for its path and its nearest training images."),
      h("div", { class: "view images" },
        h("div", { class: "controls" },
          sampler.element, label.element, guidance.element,
          h("div", { class: "row end" }, steps.element, seed.element, count.element),
          h("div", { class: "row" }, again, next, stop), cost, status.element),
        h("div", { class: "stack sections" },
          samples,
          one.element,
          between.element,
          figures.element)),
    );

    function settings() {
      const all = {
        sampler: sampler.value, steps: steps.value, seed: seed.value, n: count.value,
        label: label.value || null, guidance: label.value && about.free ? guidance.value : 1,
      };
      if (sampler.value === about.sampler) delete all.sampler; // with the run's own options
      if (steps.value === about.samplers[sampler.value]) delete all.steps;
      return all;
    }

    function sample() {
      pause();
      adapt();
      const asked = settings();
      const mine = { settings: asked, state: tools.state() };
      figures.here({ seconds: null });
      between.check();
      let started = false;
      following = true;
      planning.start("images.plan", asked, {
        frame(header) {
          cost.textContent = `${countCalls(header)} an image`;
          const { evaluations, calls } = header;
          figures.here({ sampler: sampler.value, calls, guided: calls !== evaluations });
        },
      });
      sampling.start("images.sample", asked, {
        frame(header, arrays) {
          if (!started) { // a job that is refused leaves the samples before it
            frames = [];
            request = mine;
            compare();
          }
          started = true;
          const { sigma } = frames[at] ?? header;
          add({ ...header, ...arrays });
          if (!following || playing) scrubTo(sigma);
          else if (!calm() || header.last) { at = frames.length - 1; draw(); }
          if (header.last) finish(header);
        },
        status: follow(status, "Sampling", compare),
      });
    }

    function isOld() { // the samples are of other settings than those of the controls
      return request !== null && JSON.stringify(request.settings) !== JSON.stringify(settings());
    }

    function compare() {
      note.textContent = isOld() ? "These are of other settings: Sample takes the new ones." : "";
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
      else one.element.hidden = true;
    }

    function draw() {
      const frame = frames[at];
      if (!frame) return;
      scrubber.value = at;
      drawGrid(grid, frame[shown.value], roomIn(samples, WIDE));
      placeCursor();
      const each = frame.seconds / frame.n;
      facts.textContent = `State ${frame.step} of ${frame.of}, σ = ${short(frame.sigma)}, `
        + `${countCalls(frame)}, ${short(each)} s an image with ${frame.n} at once`;
      if (chosen != null && chosen < frame.n) one.draw(frame, chosen);
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
      one.inspect(frames, chosen, about.data ? request.settings : null);
      draw();
    }

    function adapt() { // guidance goes towards a class
      guidance.input.disabled = !label.value;
      guidance.input.title = label.value ? "" : "Choose a class first: guidance goes towards it";
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
        if (at >= frames.length - 1) { pause(); keepLevel(); } else at += 1;
      }, Math.max(40, 3000 / frames.length));
    }

    function pause() {
      clearInterval(playing);
      playing = null;
      play.textContent = "Play";
    }

    label.element.hidden = !about.classes.length;
    guidance.element.hidden = !about.classes.length || !about.free; // it goes away from no class
    figures.show(about.frontier, about.run);
    addEventListener("resize", draw, { signal: tools.signal });
    tools.signal.addEventListener("abort", pause);
    sample();
    if (state.other != null) between.start();

    return {
      settings: () => ({ job: "images.sample", settings: request?.settings ?? settings() }),
      replay: {
        state: () => (isOld() ? request.state : tools.state()),
        count: () => frames.length,
        keep() {
          const place = at;
          return () => { at = place; draw(); };
        },
        show(i) {
          at = i;
          draw();
          return `σ ${short(frames[i].sigma)}`;
        },
      },
    };
  },
};
