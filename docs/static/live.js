/**
 * Live: what noise does, and the paper's Figure 3, on the mixture ⅕ N((−5, −5), I) + ⅘ N((5, 5), I).
 *
 * The build puts the studio's mixture.js and draw.js above this code, in one plain script, so that
 * pages opened from a file show the figures too. An element <div class="live" data-figure="mixing">
 * becomes a figure.
 */

const target = gaussianMixture([[-5, -5], [5, 5]], 1, [0.2, 0.8]);
const LIMIT = 10;
const PARTICLES = 600;
const STEPS = 50; // at each level
const LEVELS = Array.from({ length: 20 }, (_, i) => 20 * (1 / 20) ** (i / 19));
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Return the colours of the page as it is shown now. */
function pageColours() {
  const chosen = document.body.dataset.theme;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return COLOURS[chosen === "dark" || (chosen !== "light" && dark) ? "dark" : "light"];
}

/** Call a function when the page changes between light and dark. */
function onTheme(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
}

/** Add an element with these properties. */
function add(parent, tag, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
}

function addCanvas(parent, label) {
  const canvas = add(parent, "canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Draw the smoothed density with its score, and particles. */
function drawPlane(canvas, sigma, particles, colour) {
  const colours = pageColours();
  const { context, width, height } = fitCanvas(canvas, window.devicePixelRatio || 1);
  const frame = makeFrame([-LIMIT, LIMIT], [-LIMIT, LIMIT], { width, height });
  const side = spaced(-LIMIT, LIMIT, 90);
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, width, height);
  drawDensity(context, frame, densityOnLattice(target, sigma, side, side), side, side, colours);
  const points = arrowPoints(frame, 14);
  const score = mixtureScore(target, points, sigma);
  drawArrows(context, frame, points, score, width / 24, colours.arrow);
  drawParticles(context, frame, particles, colours[colour], 2.5);
  drawAxes(context, frame, colours);
}

/** What noise does: it brings samples to where there were none. */
function density(root) {
  const canvas = addCanvas(add(root, "div", { className: "canvases" }), "density, score, samples");
  const controls = add(root, "div", { className: "controls" });
  const label = add(controls, "label", { textContent: "noise σ " });
  const slider = add(label, "input", { type: "range", min: -1, max: 1.3, step: 0.01, value: -1 });
  const shown = add(controls, "output");

  function draw() {
    const sigma = 10 ** Number(slider.value);
    const x = sampleMixture(target, PARTICLES, seededRandom(1), sigma);
    drawPlane(canvas, sigma, x, "first");
    const seen = new Set();
    for (let at = 0; at < x.length; at += 2) {
      const [i, j] = [x[at], x[at + 1]].map(Math.floor);
      if (Math.max(Math.abs(i + 0.5), Math.abs(j + 0.5)) < LIMIT) seen.add(`${i} ${j}`);
    }
    const share = Math.round((100 * seen.size) / (4 * LIMIT * LIMIT));
    shown.textContent = `σ = ${sigma.toFixed(2)}: ${share} % of the unit cells have a sample`;
  }
  slider.addEventListener("input", draw);
  onTheme(draw);
  new ResizeObserver(draw).observe(canvas);
}

/** Return the share of particles that are nearer to the small mode. */
function smallShare(x) {
  let count = 0;
  for (let at = 0; at < x.length; at += 2) count += x[at] + x[at + 1] < 0 ? 1 : 0;
  return count / (x.length / 2);
}

/** Figure 3: plain and annealed Langevin dynamics from the same start. */
function mixing(root) {
  const canvases = add(root, "div", { className: "canvases" });
  const panels = ["plain", "annealed"].map((name) => addCanvas(canvases, `${name} Langevin dynamics`));
  const controls = add(root, "div", { className: "controls" });
  const button = add(controls, "button", { type: "button", textContent: "Run" });
  const shown = add(controls, "output");
  let clouds, chains, sigmas, steps, timer, ended;

  function restart() {
    const uniform = seededRandom(2).uniform;
    const start = Float64Array.from({ length: 2 * PARTICLES }, () => 16 * uniform() - 8);
    clouds = [start, Float64Array.from(start)];
    sigmas = [0, LEVELS[0]];
    steps = 0;
    ended = false;
    const total = STEPS * LEVELS.length;
    const options = { random: seededRandom(3), steps: total, alpha: 0.05 };
    chains = [
      langevin(target, clouds[0], 0, options),
      annealedLangevin(target, clouds[1], LEVELS, {
        random: seededRandom(4), steps: STEPS, epsilon: 0.1, convention: "paper",
      }),
    ];
  }
  function advance(count) {
    for (let i = 0; i < count && !ended; i++) {
      const states = chains.map((chain) => chain.next());
      ended = states.some((state) => state.done);
      if (ended) break;
      steps += 1;
      sigmas = states.map((state) => state.value.sigma);
    }
  }
  function draw() {
    panels.forEach((panel, k) => drawPlane(panel, sigmas[k], clouds[k], k ? "second" : "first"));
    const [plain, annealed] = clouds.map((x) => smallShare(x).toFixed(2));
    shown.textContent =
      `step ${steps}, σ = ${sigmas[1].toFixed(2)}: weight of the small mode ` +
      `${plain} plain, ${annealed} annealed; truly 0.20`;
  }
  function tick() {
    advance(5);
    draw();
    if (ended) stop();
    else timer = requestAnimationFrame(tick);
  }
  function stop() {
    cancelAnimationFrame(timer);
    timer = undefined;
    button.textContent = ended ? "Run again" : "Run";
  }
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (ended) restart();
    if (calm.matches) {
      advance(Infinity);
      draw();
      return stop();
    }
    button.textContent = "Pause";
    timer = requestAnimationFrame(tick);
  });
  restart();
  onTheme(draw);
  new ResizeObserver(draw).observe(panels[0]);
}

for (const root of document.querySelectorAll(".live")) {
  ({ density, mixing })[root.dataset.figure](root);
}
