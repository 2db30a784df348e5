// A panel of the plane: density, score and particles at one σ, and the weights of the modes.

import {
  COLOURS, arrowPoints, drawArrows, drawAxes, drawDensity, drawNumbers, drawParticles, drawShares, fitCanvas,
  makeFrame, spaced,
} from "./draw.js";
import { densityOnLattice, mixtureScore } from "./mixture.js";
import { format, h } from "./ui.js";

const LATTICE = 128;
const COARSE_LATTICE = 96; // of a distribution of many modes, which takes longer
const MANY_MODES = 100;
const ARROWS = 15;
const MOST_WEIGHTS = 12; // modes whose weights are shown

/** Return true if the weights of a distribution's modes are shown. */
export const hasWeights = (target) => target != null && target.n <= MOST_WEIGHTS;

/** Return the square of the plane on a canvas of that size. */
export function squareFrame(limit, size) {
  return makeFrame([-limit, limit], [-limit, limit], { width: size, height: size });
}

/** Return the context of a fitted canvas, its side and the frame of the square on it. */
export function fitSquare(canvas, limit) {
  const { context, width } = fitCanvas(canvas, devicePixelRatio);
  context.clearRect(0, 0, width, width);
  return { context, size: width, frame: squareFrame(limit, width) };
}

/** Draw the exact density at one σ. */
export function drawTarget(context, frame, target, sigma, colours) {
  const points = target.n > MANY_MODES ? COARSE_LATTICE : LATTICE;
  const xs = spaced(frame.left, frame.right, points);
  const density = densityOnLattice(target, sigma, xs, xs);
  drawDensity(context, frame, density, xs, xs, colours);
}

/** Draw a score on a lattice by arrows of one length; by default the exact one. */
export function drawScore(context, frame, colour, { target, sigma, arrows }) {
  const middles = arrowPoints(frame, ARROWS);
  const length = (0.62 * frame.width) / ARROWS;
  drawArrows(context, frame, middles, arrows ?? mixtureScore(target, middles, sigma), length, colour);
}

/** Return a panel; `side` is "first" or "second", which chooses its colour. */
export function makePanel(side, title) {
  const name = h("h3", {}, title);
  const sigma = h("output", { "aria-label": `${title}: σ` });
  const steps = h("output", { "aria-label": `${title}: steps` });
  const canvas = h("canvas", { class: "square", "aria-label": title });
  const bars = h("canvas", { class: "bars", "aria-label": `${title}: weights of the modes` });
  const table = h("table", { "aria-label": `${title}: modes` });
  const caption = h("figcaption", {}, "σ = ", sigma, " ", steps);
  const weights = h("div", { class: "weights" }, bars, h("div", { class: "scroll" }, table));
  const element = h("figure", { class: `panel ${side}` }, name, canvas, caption, weights);
  let background = null;
  let key = "";

  function paintBackground(scene, frame, size) {
    const wanted = [scene.version, scene.sigma, scene.theme, size, devicePixelRatio, !scene.arrows].join();
    if (wanted === key) return;
    key = wanted;
    background = new OffscreenCanvas(canvas.width, canvas.height);
    const context = background.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const colours = COLOURS[scene.theme];
    if (scene.target) drawTarget(context, frame, scene.target, scene.sigma, colours);
    if (scene.target && !scene.arrows) drawScore(context, frame, colours.arrow, scene);
    drawAxes(context, frame, colours);
  }

  /** Draw a scene: {target, version, sigma, limit, theme, x, cursor}, and arrows if they are learned. */
  function draw(scene) {
    const { context, size, frame } = fitSquare(canvas, scene.limit);
    if (size === 0) return;
    paintBackground(scene, frame, size);
    context.drawImage(background, 0, 0, size, size);
    const colours = COLOURS[scene.theme];
    if (scene.arrows?.length) drawScore(context, frame, colours.arrow, scene);
    if (scene.x) drawParticles(context, frame, scene.x, colours[side], Math.max(2, size / 200));
    if (hasWeights(scene.target) && scene.target.n > 1) drawNumbers(context, frame, scene.target.mean, colours);
    if (scene.cursor) {
      const [x, y] = [frame.toX(scene.cursor[0]), frame.toY(scene.cursor[1])];
      context.strokeStyle = colours.ink;
      context.lineWidth = 1.5;
      context.strokeRect(x - 8, y, 16, 0);
      context.strokeRect(x, y - 8, 0, 16);
    }
    sigma.textContent = format(scene.sigma);
    // counted for tests and for the measurement of frames a second
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
  }

  /** Show the modes' shares and what else a frame's header says of this side. */
  function tell(scene, report) {
    const shown = report && report.evaluations > 0 ? `after ${report.evaluations} evaluations` : "";
    steps.textContent = report?.lost ? `${shown}; ${report.lost} particles left the plane` : shown;
    weights.hidden = !hasWeights(scene.target);
    if (weights.hidden) return;
    const truth = [...scene.target.weights];
    const modes = report?.modes ?? [];
    const { context, width, height } = fitCanvas(bars, devicePixelRatio);
    context.clearRect(0, 0, width, height);
    const highest = Math.max(...truth, ...modes.map((mode) => mode.high));
    const frame = makeFrame([0, 1], [0, 1.05 * highest], { width, height });
    drawShares(context, frame, modes, truth, COLOURS[scene.theme][side], COLOURS[scene.theme]);
    const heads = ["Mode", "Truth", "Share", "95 %"].map((head) => h("th", {}, head));
    const rows = truth.map((weight, k) => {
      const mode = modes[k];
      const label = `${title}: mode ${k + 1}`;
      const share = h("output", { "aria-label": `${label}, share` }, mode?.share.toFixed(3) ?? "–");
      const interval = h("output", { "aria-label": `${label}, 95 %` }, mode ? `${mode.low.toFixed(3)}–${mode.high.toFixed(3)}` : "–");
      const inside = mode && mode.low <= weight && weight <= mode.high;
      const cells = [k + 1, weight.toFixed(3), share, interval].map((cell) => h("td", {}, cell));
      return h("tr", { class: mode ? (inside ? "inside" : "outside") : null }, cells);
    });
    table.replaceChildren(h("tr", {}, heads), ...rows);
  }

  const rename = (text) => { name.textContent = text; };
  /** Name what the pictures of a replay show. */
  function nameReplay(text) {
    canvas.dataset.caption = text;
    bars.dataset.caption = `${text}: weights of the modes`;
  }
  return { element, canvas, draw, tell, rename, nameReplay };
}
