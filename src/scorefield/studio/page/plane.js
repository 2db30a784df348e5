// The plane: a distribution, its score at any σ, and particles under two samplers side by side.

import { gaussianMixture } from "./mixture.js";
import { calm } from "./pixels.js";
import { makeLevels } from "./plane_levels.js";
import { hasWeights, makePanel } from "./plane_panel.js";
import { makePlayer } from "./plane_player.js";
import { makePoints } from "./plane_points.js";
import { SAMPLERS, TARGETS, isLaddered, makeSettings, usualSteps } from "./plane_settings.js";
import { makeTraining } from "./plane_training.js";

const SIDES = { first: "First sampler", second: "Second sampler" };
const TITLES = Object.fromEntries(SAMPLERS);
const WHY = "Press Run both. At σ = 1 the score near a mode does not depend on the weight of the other, so plain Langevin dynamics leaves particles in the mode that they start next to. At σ = 20, where annealed dynamics starts, the modes are one: drag the slider of σ to see the arrows turn towards the larger mode.";
const LOOK_AFTER = 150; // milliseconds in which the slider of σ rests

function mount(root, state, tools) {
  const { ui, run, theme } = tools;
  const { h } = ui;
  const settings = makeSettings(state, (patch) => { tools.setState(patch); compare(); });
  const { values, change } = settings;
  const scene = { target: null, version: 0, limit: 10 };
  const waiting = new Set(); // calls that need the distribution
  let loading = null; // the job that brings the distribution
  let edited = {}; // settings that the distribution does not change when it comes
  let job = null;
  let ran = null; // {settings, state} of the particles
  let cancel = null; // ends what the button has started
  let timer = null;

  // ── Distribution ──────────────────────────────────────────────────────────────────────────────

  /** Ask for the distribution; a `fresh` one brings its own ladder, and all settings but the `fixed` ones. */
  function loadTarget(fresh, fixed = {}) {
    loading?.cancel();
    loading = null;
    edited = { ...fixed };
    stop();
    waiting.clear();
    trainer.reset();
    if (values.target === "points" && values.points.length === 0) {
      showTarget(null, 10);
      say("Click or drag in a picture. By keys: Tab to it, move with the arrows, Enter adds a point.");
      return;
    }
    const mine = loading = run("plane.target", settings.target(), {
      frame(header, { means, weights }) {
        if (mine !== loading) return; // another was chosen meanwhile
        loading = null;
        const rows = Array.from(weights, (_, k) => [means[2 * k], means[2 * k + 1]]);
        levels.offer(header, fresh, edited);
        const calls = [...waiting];
        showTarget(gaussianMixture(rows, header.variance, Array.from(weights)), header.limit);
        if (values.trained) trainer.look();
        if (calls.length) calls.forEach((call) => call());
        else if (fixed.time != null) begin(fixed.time);
      },
      status({ status, message }) {
        if (mine !== loading || status !== "error") return;
        loading = null;
        stop();
        waiting.clear();
        say(message, true);
      },
    });
  }

  /** Call a function now, or once the distribution has come with its ladder. */
  function whenLoaded(call) {
    if (loading) waiting.add(call);
    else call();
  }

  function showTarget(target, limit) {
    Object.assign(scene, { target, limit, version: scene.version + 1 });
    levels.element.hidden = !target;
    stop();
    waiting.clear();
    player.forget();
    trainer.draw();
  }

  /** Show drawn points at once, before the studio has their ladder. */
  function showPoints() {
    const rows = Array.from({ length: values.points.length / 2 }, (_, k) => values.points.slice(2 * k, 2 * k + 2));
    showTarget(rows.length ? gaussianMixture(rows, values.spread ** 2) : null, scene.limit);
  }

  // ── Particles ─────────────────────────────────────────────────────────────────────────────────

  /** Run both samplers and play their states, or show one of them, which the address has. */
  async function begin(frame = null) {
    stop();
    player.forget();
    runButton.textContent = "Stop";
    if (loading) {
      cancel = () => { waiting.delete(begin); rest(); };
      say("Waiting for the distribution");
      waiting.add(begin);
      return;
    }
    player.seek(frame);
    if (frame === null) change({ follow: 1 });
    ran = { settings: structuredClone(settings.sampling()), state: tools.state() };
    if (values.second_score === "network") {
      const own = cancel = () => trainer.cancel();
      say("Training the network first");
      const trained = await trainer.finish();
      if (cancel !== own) return; // stopped, and perhaps started again
      if (!trained) return rest();
    }
    const mine = job = run("plane.sample", ran.settings, {
      frame(header, arrays) {
        if (mine === job) player.add({ header, ...arrays });
      },
      status({ status, message }) {
        if (mine !== job) return;
        if (status === "queued") say("Waiting");
        if (status === "running") say("Sampling");
        if (!["done", "cancelled", "error"].includes(status)) return;
        rest(status === "error" ? message : "");
        player.close();
        if (calm() && frame === null) player.showLast();
      },
    });
    cancel = mine.cancel; // the states that have arrived stay
    if (!calm() && frame === null) player.play();
  }

  /** Say whether the particles are of the settings that the controls have. */
  function compare() {
    const old = player.count() && JSON.stringify(ran.settings) !== JSON.stringify(settings.sampling());
    note.textContent = old ? "The particles are of other settings: Run both takes the new ones." : "";
  }

  function rest(error = "") {
    job = cancel = null;
    runButton.textContent = "Run both";
    say(error, Boolean(error));
  }

  function stop() {
    cancel?.();
    rest();
  }

  // ── Drawing ───────────────────────────────────────────────────────────────────────────────────

  function draw() {
    const shown = player.shown();
    legend.hidden = !hasWeights(scene.target);
    for (const side of Object.keys(SIDES)) {
      const report = shown?.header[side];
      const follows = values.follow && report;
      const sigma = follows ? report.sigma : values.sigma;
      const own = { ...scene, sigma, theme: theme(), x: shown?.[side], cursor: points.cursor() };
      if (side === "second" && values.second_score === "network") {
        own.arrows = (follows ? shown.second_arrows : trainer.arrows()) ?? [];
      }
      panels[side].draw(own);
      panels[side].tell(own, report);
    }
  }

  function redraw() {
    draw();
    trainer.draw();
  }

  function lookAtSlider() {
    change({ follow: player.count() ? 0 : 1 });
    player.pause();
    draw();
    clearTimeout(timer);
    timer = setTimeout(() => trainer.look(), LOOK_AFTER);
  }

  // ── Controls ──────────────────────────────────────────────────────────────────────────────────

  const { element: line, say } = ui.status();
  const note = h("output", { class: "muted", "aria-label": "Settings" });
  const legend = h("p", { class: "muted small" }, "Bars are the shares of the particles in the numbered modes, with 95 % intervals; lines across them are the true weights. Numbers are red where the truth is outside.");
  const runButton = ui.button({ label: "Run both", kind: "primary", onclick: () => (cancel ? cancel() : begin()) });
  const panels = Object.fromEntries(Object.entries(SIDES).map(([side, title]) => [side, makePanel(side, title)]));
  const player = makePlayer({
    speed: values.speed,
    onshow: draw,
    onuse: () => change({ follow: 1 }),
    onmove: (time, speed) => change({ time, speed }),
  });
  const points = makePoints({
    settings, say, draw, limit: () => scene.limit, onmove: showPoints, onend: () => loadTarget(true),
  });
  const levels = makeLevels({
    settings, run, say, whenLoaded, onsigma: lookAtSlider, onladder: fillControls,
  });
  const trainer = makeTraining({
    run, copy: tools.copy, settings, whenLoaded, scene: () => ({ ...scene, theme: theme() }), onshow: draw,
  });

  function edit(patch) {
    Object.assign(edited, patch);
    change(patch);
  }

  const choose = (name, label, options, after) => ui.select({
    label, options, value: values[name], onchange(value) { edit({ [name]: value }); after?.(); },
  });
  const whole = (name, label, min, max) => ui.number({
    label, min, max, value: values[name], onchange: (value) => edit({ [name]: value }),
  });

  function makeSide(side) {
    const steps = whole(`${side}_steps`, "Steps", 1, 2000);
    const sampler = ui.select({
      label: "Method", options: SAMPLERS, value: values[side],
      onchange(value) {
        const same = isLaddered(values[side]) === isLaddered(value);
        edit({ [side]: value });
        if (!same) change({ [`${side}_steps`]: usualSteps(value, levels.levelSteps()) });
        fillControls();
      },
    });
    const score = side === "second" && choose(
      "second_score", "Score", [["exact", "Exact, by the formula"], ["network", "Learned, by the network"]],
      () => { stop(); player.forget(); fillControls(); },
    );
    const element = ui.group(SIDES[side], sampler.element, score ? score.element : [], steps.element);
    element.classList.add(side);
    return { sampler, steps, element };
  }

  const target = choose("target", "Distribution", TARGETS, () => { fillControls(); say(); loadTarget(true); });
  const why = h("p", { class: "muted" }, WHY);
  const sides = { first: makeSide("first"), second: makeSide("second") };
  const particles = whole("n", "Particles", 20, 4000);
  const seed = whole("seed", "Seed", 0, 2 ** 53 - 1);
  const start = choose("start", "Start", [["square", "Uniform in a square"], ["prior", "Gaussian, first level"]], () => fillControls());
  const warning = h("p", { class: "muted", hidden: true });
  const epsilon = ui.number({
    label: "Step size ε", min: 1e-9, max: 1e4, step: "any", value: values.epsilon,
    onchange(value) { edit({ epsilon: value }); levels.rescale(); },
  });
  const convention = choose("convention", "ε counts as in the authors'", [
    ["paper", "paper: x + ε/2·s + √ε·z"], ["official", "code: x + ε·s + √(2ε)·z"],
  ], () => levels.rescale());

  function nameOf(side, own) {
    const learned = side === "second" && own.second_score === "network";
    return `${TITLES[own[side]] ?? own[side]}${learned ? ", learned score" : ""}`;
  }

  function fillControls() {
    const draws = values.target === "points";
    points.element.hidden = !draws;
    why.hidden = values.target !== "modes";
    // from a square they do not reach the right weights, and would look wrong
    const noisy = Object.keys(SIDES).map((side) => values[side]).filter((name) => !isLaddered(name));
    warning.hidden = values.start === "prior" || noisy.length === 0;
    if (noisy.length) warning.textContent = `${TITLES[noisy[0]]} expects to start from the first level's noise: choose the Gaussian.`;
    for (const { canvas } of Object.values(panels)) {
      canvas.classList.toggle("drawing", draws);
      canvas.tabIndex = draws ? 0 : -1;
    }
    for (const [side, { sampler, steps }] of Object.entries(sides)) {
      sampler.value = values[side];
      steps.value = values[`${side}_steps`];
      steps.element.querySelector("label").textContent = isLaddered(values[side]) ? "Steps at each level" : "Levels";
      panels[side].rename(nameOf(side, values));
    }
    for (const [name, control] of Object.entries({ start, epsilon, convention })) control.value = values[name];
  }

  root.append(
    h("p", { class: "muted" }, "The score points to where the density rises. Particles follow it, with noise: see which samplers find the right weights of the modes."),
    why,
    h("div", { class: "view plane" },
      h("div", { class: "controls" },
        ui.group("Distribution", target.element, points.element),
        sides.first.element, sides.second.element,
        ui.group("Langevin steps", epsilon.element, convention.element),
        ui.group("Particles", h("div", { class: "pair" }, particles.element, seed.element), start.element, warning),
      ),
      h("div", { class: "stack" },
        h("div", { class: "transport" }, runButton, player.controls),
        line, note,
        h("div", { class: "panels" }, panels.first.element, panels.second.element),
        legend,
        levels.element,
        trainer.element,
      ),
    ),
  );

  for (const { canvas } of Object.values(panels)) points.listen(canvas);
  const resized = new ResizeObserver(redraw);
  resized.observe(root);
  document.addEventListener("theme", redraw, { signal: tools.signal });
  tools.signal.addEventListener("abort", () => {
    player.pause();
    clearTimeout(timer);
    resized.disconnect();
  });
  fillControls();
  loadTarget(values.ladder.length < 2, settings.addressed);

  return {
    settings: () => ({ job: "plane.sample", settings: player.count() ? ran.settings : settings.sampling() }),
    replay: {
      empty: "There are no particles yet, which are what it shows: press Run both.",
      state: () => ({ ...ran.state, follow: 1, time: values.time ?? 0, speed: values.speed }),
      count: player.count,
      keep() {
        for (const [side, panel] of Object.entries(panels)) panel.nameReplay(nameOf(side, ran.settings));
        const [time, follow] = [player.time(), values.follow];
        values.follow = 1;
        return () => { values.follow = follow; player.show(time); };
      },
      show(i) {
        player.show(i);
        return Object.keys(SIDES).map((side) => `σ ${player.shown().header[side].sigma.toPrecision(3)}`).join(", ");
      },
    },
  };
}

export default { name: "plane", title: "Plane", mount };
