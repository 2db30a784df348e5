// The plane: a distribution, its score at any σ, and particles under two samplers side by side.

import { gaussianMixture } from "./mixture.js";
import { geometricLevels, makeLadder, round4 } from "./plane_ladder.js";
import { makePanel, squareFrame } from "./plane_panel.js";
import { makeTraining } from "./plane_training.js";

const DEFAULTS = {
  target: "modes", points: [], spread: 0.5, sigma: 1,
  n: 1280, seed: 0, start: "square", ladder: [], epsilon: 0.1, convention: "paper",
  first: "langevin", first_steps: 100, second: "annealed_langevin", second_steps: 100,
  iterations: 1000,
};
const TARGETS = [
  ["modes", "Two modes (Figure 3)"], ["circle", "Eight modes on a circle"],
  ["checkerboard", "Checkerboard"], ["rings", "Rings"], ["spirals", "Spirals"],
  ["points", "Draw your own"],
];
const SAMPLERS = [
  ["langevin", "Langevin, plain"], ["annealed_langevin", "Langevin, annealed"],
  ["underdamped", "Langevin, underdamped"], ["consistent", "Consistent annealed"],
  ["euler", "Euler (DDIM)"], ["heun", "Heun"], ["ancestral", "Ancestral"],
  ["reverse_diffusion", "Reverse diffusion"], ["churn", "Churn"], ["dpm_solver", "DPM-Solver++"],
  ["dpm_solver_sde", "DPM-Solver++ SDE"], ["dpm_solver_3", "DPM-Solver++ 3M"], ["unipc", "UniPC"],
  ["adams_bashforth", "Adams–Bashforth"], ["predictor_corrector", "Predictor–corrector"],
  ["adaptive", "Adaptive"],
];
const LADDERED = ["langevin", "annealed_langevin", "underdamped"];
const SAMPLER_STEPS = 18;
const PLAY_SECONDS = 4;
const SLOWEST = 4; // frames a second of a sampler of few steps
const FASTEST = 30;
const SPACING = 0.04; // of points along a line drawn with the mouse, of half the side
const SPEEDS = [[0.25, "¼ ×"], [0.5, "½ ×"], [1, "1 ×"], [2, "2 ×"], [4, "4 ×"]];

/** Return the settings in an address; what is missing or no number is the default. */
function readState(state) {
  const read = (name, text) => {
    const standard = DEFAULTS[name];
    if (Array.isArray(standard)) return text.split(",").map(Number).filter(Number.isFinite);
    if (typeof standard === "number") return Number.isFinite(Number(text)) ? Number(text) : standard;
    return text;
  };
  const own = Object.entries(state).filter(([name]) => name in DEFAULTS);
  return { ...structuredClone(DEFAULTS), ...Object.fromEntries(own.map(([name, text]) => [name, read(name, text)])) };
}

function mount(root, state, tools) {
  const { ui, run, setState, theme } = tools;
  const { h } = ui;
  const settings = readState(state);
  const scene = { target: null, version: 0, limit: 10, side: 8 };
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  let suggested = null;
  let paper = null;
  let frames = [];
  let position = 0; // of the frame that is shown
  let playing = false;
  let job = null;
  let cursor = null;
  let timer = null;

  // ── Settings ──────────────────────────────────────────────────────────────────────────────────

  function change(patch) {
    Object.assign(settings, patch);
    const texts = Object.entries(patch).map(([name, value]) => {
      const text = Array.isArray(value) ? value.join(",") : value;
      return [name, String(text) === String(DEFAULTS[name]) ? null : text];
    });
    setState(Object.fromEntries(texts));
  }

  const pick = (...names) => Object.fromEntries(names.map((name) => [name, settings[name]]));
  const about = () => pick("target", "points", "spread");
  const sampling = () => ({
    ...about(),
    ...pick("n", "seed", "start", "ladder", "epsilon", "convention", "first", "first_steps", "second", "second_steps"),
  });
  const training = () => {
    const [highest, lowest] = [settings.ladder[0], settings.ladder.at(-1)];
    const sigma = Math.min(highest, Math.max(lowest, settings.sigma));
    return { ...about(), ...pick("iterations", "seed"), sigma, sigma_max: highest, sigma_min: lowest };
  };

  // ── Distribution ──────────────────────────────────────────────────────────────────────────────

  /**
   * Ask for the distribution and its ladder; `fresh` takes the ladder that belongs to it, but
   * leaves the settings that are `fixed`.
   */
  function loadTarget(fresh, fixed = {}) {
    if (settings.target === "points" && settings.points.length === 0) {
      forgetParticles();
      Object.assign(scene, { target: null, version: scene.version + 1, limit: 10 });
      say("Click or drag in a picture. By keys: Tab to it, move with the arrows, Enter adds a point.");
      trainer.reset();
      return draw();
    }
    run("plane.target", about(), {
      frame(header, { means, weights }) {
        ({ suggested, paper } = header);
        const rows = Array.from(weights, (_, k) => [means[2 * k], means[2 * k + 1]]);
        const target = gaussianMixture(rows, header.variance, Array.from(weights));
        Object.assign(scene, { target, version: scene.version + 1, limit: header.limit, side: header.start });
        if (fresh) takeLadder(paper ?? suggested, true, fixed);
        else showLadder(true);
        paperButton.hidden = !paper;
        trainer.reset();
        forgetParticles();
      },
      status: ({ status, message }) => status === "error" && say(message, true),
    });
  }

  /** Take a ladder with its steps and ε; with `all`, also what suits the distribution. */
  function takeLadder({ ladder, steps, epsilon, convention }, all, fixed = {}) {
    const patch = { ladder: [...ladder], epsilon, convention };
    for (const side of ["first", "second"]) {
      if (LADDERED.includes(settings[side])) patch[`${side}_steps`] = steps;
      else if (all) patch[`${side}_steps`] = SAMPLER_STEPS;
    }
    if (all) Object.assign(patch, { start: paper ? "square" : "prior", sigma: ladder.at(-1) });
    change(Object.fromEntries(Object.entries(patch).filter(([name]) => !(name in fixed))));
    showLadder(true);
    fillControls();
  }

  function showLadder(rescale = false) {
    const { ladder, epsilon, convention } = settings;
    if (ladder.length < 2) return;
    if (rescale) {
      const range = [ladder.at(-1) / 5, ladder[0] * 1.6];
      showLadder.range = range;
      const old = sigmaSlider;
      sigmaSlider = makeSigma(range);
      old.element.replaceWith(sigmaSlider.element);
    }
    ladderControl.show({ ladder, range: showLadder.range, epsilon, convention });
    levelCount.value = ladder.length;
  }

  function makeSigma([min, max]) {
    return ui.slider({
      label: "Noise level σ of the picture", min, max, log: true, value: settings.sigma,
      oninput(sigma) {
        change({ sigma: round4(sigma) });
        pause();
        following = false;
        draw();
        lookSoon();
      },
    });
  }

  function lookSoon() {
    clearTimeout(timer);
    timer = setTimeout(() => trainer.look(), 150);
  }

  // ── Points ────────────────────────────────────────────────────────────────────────────────────

  function setPoints(points) {
    change({ points });
    if (points.length === 0) return loadTarget(true);
    const rows = Array.from({ length: points.length / 2 }, (_, k) => points.slice(2 * k, 2 * k + 2));
    scene.target = gaussianMixture(rows, settings.spread ** 2);
    scene.version++;
    forgetParticles();
  }

  function addPoint(x, y) {
    if (settings.points.length >= 800) return say("There are 400 points, which is the most", true);
    setPoints([...settings.points, Math.round(100 * x) / 100, Math.round(100 * y) / 100]);
  }

  function listenToPoints(canvas) {
    const at = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      const frame = squareFrame(scene.limit, canvas.clientWidth);
      const [x, y] = [left + canvas.clientLeft, top + canvas.clientTop];
      return [frame.fromX(event.clientX - x), frame.fromY(event.clientY - y)];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (settings.target !== "points") return;
      canvas.setPointerCapture(event.pointerId);
      cursor = at(event);
      addPoint(...cursor);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (settings.target !== "points" || !canvas.hasPointerCapture(event.pointerId)) return;
      const [x, y] = at(event);
      if (Math.hypot(x - cursor[0], y - cursor[1]) < SPACING * scene.limit) return;
      cursor = [x, y];
      addPoint(x, y);
    });
    canvas.addEventListener("pointerup", () => settings.target === "points" && loadTarget(true));
    canvas.addEventListener("keydown", (event) => {
      if (settings.target !== "points") return;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const move = moves[event.key];
      cursor ??= [0, 0];
      if (move) {
        const inside = (value) => Math.min(scene.limit, Math.max(-scene.limit, value));
        cursor = cursor.map((value, i) => inside(value + (move[i] * scene.limit) / 20));
        draw();
      } else if (event.key === "Enter") {
        addPoint(...cursor);
        loadTarget(true);
      } else if (event.key === "Backspace") undo();
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("blur", () => { cursor = null; draw(); });
  }

  function undo() {
    setPoints(settings.points.slice(0, -2));
    if (settings.points.length) loadTarget(true);
  }

  // ── Particles ─────────────────────────────────────────────────────────────────────────────────

  function sample() {
    job?.cancel();
    forgetParticles();
    following = true;
    playing = !reduced.matches;
    const mine = job = run("plane.sample", sampling(), {
      frame(header, arrays) {
        if (mine !== job) return;
        frames.push({ header, first: arrays.first, second: arrays.second });
        scrubber.max = header.frames;
        if (frames.length > 1) return;
        fillTransport();
        showFrame(0);
      },
      status({ status, message, place }) {
        if (mine !== job) return;
        if (status === "queued") say(`Waiting: place ${place} in the queue`);
        if (status === "running") say("Sampling");
        if (!["done", "cancelled", "error"].includes(status)) return;
        job = null;
        say(status === "error" ? message : "", status === "error");
        if (status === "done" && !playing) showFrame(frames.length - 1);
      },
    });
    play();
  }

  function forgetParticles() {
    job?.cancel();
    job = null;
    frames = [];
    position = 0;
    playing = false;
    following = false;
    fillTransport();
    draw();
  }

  function play() {
    playing = playing || frames.length > 0;
    if (frames.length && position >= frames[0].header.frames) position = 0;
    following = true;
    play.last = null;
    cancelAnimationFrame(play.request);
    play.request = requestAnimationFrame(advance);
    fillTransport();
  }

  function pause() {
    playing = false;
    fillTransport();
  }

  function advance(now) {
    if (!playing) return;
    play.request = requestAnimationFrame(advance);
    if (frames.length === 0) return;
    const total = frames[0].header.frames;
    const rate = Math.min(FASTEST, Math.max(SLOWEST, total / PLAY_SECONDS)) * Number(speed.value);
    const elapsed = play.last === null ? 0 : Math.min(0.1, (now - play.last) / 1000);
    play.last = now;
    const next = Math.min(position + elapsed * rate, frames.length - 1);
    if (Math.floor(next) !== Math.floor(position)) showFrame(next);
    position = next;
    if (position >= total) pause();
  }

  function showFrame(index) {
    position = index;
    scrubber.value = Math.floor(index);
    following = true;
    draw();
  }

  function fillTransport() {
    const none = frames.length === 0;
    playButton.textContent = playing ? "Pause" : "Play";
    for (const control of [playButton, saveButton, scrubber]) control.disabled = none && !playing;
  }

  /** Save the particles that are shown, with all their digits. */
  function save() {
    const { first, second } = frames[Math.floor(position)];
    const rows = ["first_x,first_y,second_x,second_y"];
    for (let i = 0; i < first.length; i += 2) {
      rows.push([first[i], first[i + 1], second[i], second[i + 1]].join(","));
    }
    const place = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "text/csv" }));
    h("a", { href: place, download: "particles.csv" }).click();
    URL.revokeObjectURL(place);
  }

  function examine() {
    const { n, ladder, epsilon, convention, seed } = settings;
    run("plane.diagnose", { ...about(), n, ladder, epsilon, convention, seed, steps: ladderSteps() }, {
      frame: ({ text, verdicts }) => ui.dialog(
        "Diagnosis of annealed Langevin dynamics on this ladder",
        h("p", {}, verdicts.length ? verdicts.join(" ") : "No instability, bias, lag, wrong weight or wrong score was found."),
        h("pre", { tabindex: 0, "aria-label": "Diagnosis" }, text),
      ),
      status: ({ status, message }) => status === "error" && say(message, true),
    });
  }

  const ladderSteps = () => {
    const side = ["second", "first"].find((name) => LADDERED.includes(settings[name]));
    return side ? settings[`${side}_steps`] : 100;
  };

  // ── Drawing ───────────────────────────────────────────────────────────────────────────────────

  let following = false; // the fields are at the particles' σ, not at the slider's
  const titles = Object.fromEntries(SAMPLERS);

  function draw() {
    const shown = frames[Math.floor(position)];
    for (const side of ["first", "second"]) {
      const report = shown?.header[side];
      const sigma = following && report ? report.sigma : settings.sigma;
      const own = { ...scene, sigma, theme: theme(), x: shown?.[side], cursor };
      panels[side].draw(own);
      panels[side].tell(own, report);
    }
  }

  function redraw() {
    draw();
    trainer.draw();
  }

  // ── Controls ──────────────────────────────────────────────────────────────────────────────────

  const { element: line, say } = ui.status();
  const panels = {
    first: makePanel("first", "First sampler"),
    second: makePanel("second", "Second sampler"),
  };
  const targetSelect = ui.select({
    label: "Distribution", options: TARGETS, value: settings.target,
    onchange(target) { change({ target }); fillControls(); say(); loadTarget(true); },
  });
  const spread = ui.slider({
    label: "Width of each point's Gaussian", min: 0.05, max: 3, log: true, value: settings.spread,
    oninput(value) { change({ spread: round4(value) }); if (settings.points.length) setPoints(settings.points); },
  });
  spread.input.addEventListener("change", () => loadTarget(true));
  const undoButton = ui.button({ label: "Undo", onclick: undo });
  const clearButton = ui.button({ label: "Clear", onclick: () => setPoints([]) });
  const drawing = h("div", { class: "stack" }, spread.element, h("div", { class: "row" }, undoButton, clearButton));

  const whole = (name, label, min, max) => ui.number({
    label, min, max, value: settings[name], onchange: (value) => change({ [name]: value }),
  });
  const n = whole("n", "Particles", 20, 4000);
  const seed = whole("seed", "Seed", 0, 2 ** 53);
  const start = ui.select({
    label: "Start", value: settings.start, onchange: (value) => change({ start: value }),
    options: [["square", "Uniform in a square"], ["prior", "Gaussian with the first level's noise"]],
  });
  const epsilon = ui.number({
    label: "Step size ε", min: 1e-9, max: 1e4, step: "any", value: settings.epsilon,
    onchange(value) { change({ epsilon: value }); showLadder(); },
  });
  const convention = ui.select({
    label: "ε counts as", value: settings.convention,
    options: [["paper", "in the paper: x + ε/2·s + √ε·z"], ["official", "in its code: x + ε·s + √(2ε)·z"]],
    onchange(value) { change({ convention: value }); showLadder(); },
  });

  function makeSide(side, label) {
    const steps = whole(`${side}_steps`, "Steps", 1, 2000);
    const sampler = ui.select({
      label: "Method", options: SAMPLERS, value: settings[side],
      onchange(value) {
        const before = LADDERED.includes(settings[side]);
        const now = LADDERED.includes(value);
        const count = now ? (paper ?? suggested)?.steps ?? 100 : SAMPLER_STEPS;
        change({ [side]: value, ...(before === now ? {} : { [`${side}_steps`]: count }) });
        fillControls();
      },
    });
    const element = ui.group(`${label} sampler`, sampler.element, steps.element);
    element.classList.add(side);
    return { sampler, steps, element };
  }
  const sides = { first: makeSide("first", "First"), second: makeSide("second", "Second") };

  function fillControls() {
    const draws = settings.target === "points";
    drawing.hidden = !draws;
    for (const { canvas } of Object.values(panels)) {
      canvas.classList.toggle("drawing", draws);
      canvas.tabIndex = draws ? 0 : -1;
    }
    for (const [side, { sampler, steps }] of Object.entries(sides)) {
      sampler.value = settings[side];
      steps.value = settings[`${side}_steps`];
      const laddered = LADDERED.includes(settings[side]);
      steps.element.querySelector("label").textContent = laddered ? "Steps at each level" : "Levels";
      panels[side].rename(titles[settings[side]] ?? settings[side]);
    }
    Object.assign(start, { value: settings.start });
    Object.assign(epsilon, { value: settings.epsilon });
    Object.assign(convention, { value: settings.convention });
  }

  let sigmaSlider = makeSigma([0.2, 32]);
  const ladderControl = makeLadder({ onchange(ladder) { change({ ladder }); showLadder(); } });
  const levelCount = ui.number({
    label: "Levels", min: 2, max: 64, value: 10,
    onchange(count) {
      change({ ladder: geometricLevels(settings.ladder[0], settings.ladder.at(-1), count) });
      showLadder();
    },
  });
  const suggestButton = ui.button({
    label: "Suggest a ladder", title: "By the rules of Song & Ermon (2020)",
    onclick() {
      takeLadder(suggested, false);
      say(Object.entries(suggested.reasons).map(([name, reason]) => `${name}: ${reason}`).join(". "));
    },
  });
  const paperButton = ui.button({ label: "Figure 3's ladder", onclick: () => takeLadder(paper, false) });
  const examineButton = ui.button({ label: "Diagnose", onclick: examine });

  const runButton = ui.button({ label: "Run both", kind: "primary", onclick: sample });
  const playButton = ui.button({ label: "Play", onclick: () => (playing ? pause() : play()) });
  const saveButton = ui.button({ label: "Save particles", onclick: save });
  const speed = ui.select({ label: "Speed", options: SPEEDS, value: 1 });
  const scrubber = h("input", { type: "range", min: 0, max: 1, value: 0, "aria-label": "Time" });
  scrubber.addEventListener("input", () => {
    pause();
    showFrame(Math.min(Number(scrubber.value), frames.length - 1));
  });

  const trainer = makeTraining({
    run, copy: tools.copy, settings: training, scene: () => ({ ...scene, theme: theme() }),
  });
  root.append(
    h("h2", {}, "Plane"),
    h("p", { class: "muted" }, "The score points to where the density rises. Particles follow it, with noise: see which samplers find the right weights of the modes."),
    h("div", { class: "view plane" },
      h("div", { class: "controls" },
        ui.group("Distribution", targetSelect.element, drawing),
        sides.first.element, sides.second.element,
        ui.group("Langevin steps", epsilon.element, convention.element),
        ui.group("Particles", h("div", { class: "pair" }, n.element, seed.element), start.element),
      ),
      h("div", { class: "stack" },
        h("div", { class: "transport" }, runButton, playButton, scrubber, speed.element, saveButton),
        line,
        h("div", { class: "panels" }, panels.first.element, panels.second.element),
        h("section", { class: "stack tight" },
          h("h3", {}, "Noise levels"),
          sigmaSlider.element, ladderControl.element,
          h("div", { class: "row" }, levelCount.element, suggestButton, paperButton, examineButton)),
        trainer.element,
      ),
    ),
  );

  listenToPoints(panels.first.canvas);
  listenToPoints(panels.second.canvas);
  const resized = new ResizeObserver(redraw);
  resized.observe(root);
  document.addEventListener("theme", redraw);
  fillControls();
  fillTransport();
  loadTarget(settings.ladder.length < 2, state);

  return {
    settings: () => ({ job: "plane.sample", settings: sampling() }),
    replay: {
      count: () => frames.length,
      show(i) {
        showFrame(i);
        return ["first", "second"].map((side) => `σ ${frames[i].header[side].sigma.toPrecision(3)}`).join(", ");
      },
    },
    unmount() {
      pause();
      job?.cancel();
      clearTimeout(timer);
      trainer.unmount();
      resized.disconnect();
      document.removeEventListener("theme", redraw);
    },
  };
}

export default { name: "plane", title: "Plane", mount };
