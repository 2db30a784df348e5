// A network trained on the spot: its arrows on the exact ones, the map of its error, and the loss.

import { COLOURS, drawAxes, drawCurve, drawHeat, fitCanvas, makeFrame } from "./draw.js";
import { calm } from "./pixels.js";
import { drawScore, drawTarget, fitSquare } from "./plane_panel.js";
import * as ui from "./ui.js";

const { h } = ui;
const CELLS = 48;
const LOSS_HEIGHT = 96;
const LOSS_LEFT = 52; // pixels for the numbers
const START = "Train a network";

/**
 * Return the section; `scene()` is what the panels show, `onshow()` draws them again, and
 * `whenLoaded` calls a function once the distribution has come.
 */
export function makeTraining({ run, copy, scene, settings, whenLoaded, onshow }) {
  const field = h("canvas", { class: "square", "aria-label": "Learned score on the exact score" });
  const map = h("canvas", { class: "square", "aria-label": "Map of the error" });
  const curve = h("canvas", { class: "curve", "aria-label": "Loss" });
  const step = h("output", { "aria-label": "Training step" }, "0");
  const loss = h("output", { "aria-label": "Loss now" }, "–");
  const level = h("output", { "aria-label": "Noise level of the learned score" });
  const error = h("output", { "aria-label": "Relative error of the score" }, "–");
  const { element: line, say } = ui.status();
  const button = ui.button({ label: START, onclick: () => (training ? cancel() : whenLoaded(start)) });
  const code = ui.button({ label: "Copy training as code", kind: "quiet", onclick: () => copy({ job: "plane.train", settings: settings.training() }) });
  const steps = ui.number({
    label: "Training steps", min: 1, max: 20000, value: settings.values.iterations,
    onchange: (value) => settings.change({ iterations: value }),
  });
  let job = null;
  let training = false; // the job trains; otherwise it only looks
  let shown = null; // {sigma, iterations, network, header, arrays}
  let waiting = []; // called with true at the end of the training, with false if there is none

  /** Return the settings that make another network; the σ that is shown does not. */
  const identity = () => JSON.stringify({ ...settings.training(), sigma: null });

  /** Train on from where the network is or, without `train`, look at it as it is. */
  function start(train = true) {
    job?.cancel();
    training = train;
    const network = identity();
    const own = { ...settings.training(), train };
    if (train) button.textContent = "Stop training";
    const mine = job = run("plane.train", own, {
      frame(header, arrays) {
        if (mine !== job) return;
        settings.change({ trained: header.step ? 1 : 0 });
        if (!train && !header.step) return; // the studio no longer has the network of the address
        shown = { sigma: own.sigma, iterations: own.iterations, network, header, arrays };
        tell();
        if (!calm()) show();
      },
      status({ status, message }) {
        if (mine !== job) return;
        if (status === "queued" && train) say("Waiting");
        if (status === "running" && train) say("Training");
        if (!["done", "cancelled", "error"].includes(status)) return;
        end(status === "done" && train);
        if (status === "error") say(message, true);
        else if (status === "done" && train) say("Trained");
        show();
      },
    });
  }

  function end(trained) {
    job = null;
    if (training) say("Stopped; train again to continue");
    training = false;
    button.textContent = START;
    for (const resolve of waiting.splice(0)) resolve(trained);
  }

  /** Train to the end; return a promise of true, or of false if it was stopped before. */
  function finish() {
    if (isTrained()) return true;
    if (!training) start();
    return new Promise((resolve) => waiting.push(resolve));
  }

  const isTrained = () => !job && shown?.header.keep && identity() === shown.network;

  /** Look at another σ; a training that runs continues there. */
  function look() {
    if (!shown && !settings.values.trained) return;
    start(training);
  }

  /** End the training at once: before the studio answers, another σ may only look at the network. */
  function cancel() {
    job?.cancel();
    end(false);
    show();
  }

  /** Forget what was learned of another distribution. */
  function reset() {
    if (shown) settings.change({ trained: 0 });
    shown = null;
    cancel();
    say();
  }

  function show() {
    draw();
    onshow();
  }

  function tell() {
    const { sigma, header } = shown;
    step.textContent = String(header.step);
    level.textContent = ui.format(sigma);
    loss.textContent = header.step ? ui.format(header.loss) : "–";
    error.textContent = header.error.toFixed(3);
  }

  function draw() {
    section.hidden = !scene().target;
    body.hidden = !shown;
    if (!shown || section.hidden) return;
    const { target, limit, theme } = scene();
    const { sigma, arrays } = shown;
    const colours = COLOURS[theme];
    const { context, frame } = fitSquare(field, limit);
    if (frame.width === 0) return;
    drawTarget(context, frame, target, sigma, colours);
    drawScore(context, frame, colours.arrow, { target, sigma });
    drawScore(context, frame, colours.second, arrays);
    drawAxes(context, frame, colours);
    const heat = fitSquare(map, limit);
    drawHeat(heat.context, heat.frame, arrays.errors, CELLS);
    drawLoss(colours);
  }

  function drawLoss(colours) {
    const { context, width } = fitCanvas(curve, devicePixelRatio);
    context.clearRect(0, 0, width, LOSS_HEIGHT);
    const { iterations, arrays: { losses } } = shown;
    if (losses.length < 4) return;
    const logs = Array.from({ length: losses.length / 2 }, (_, i) => [losses[2 * i], Math.log10(losses[2 * i + 1])]);
    const values = logs.map(([, y]) => y);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const frame = makeFrame([0, iterations], [low - 0.05, high + 0.05], { x: LOSS_LEFT, width: width - LOSS_LEFT, height: LOSS_HEIGHT });
    drawCurve(context, frame, logs, colours.first);
    context.fillStyle = colours.muted;
    context.font = "11px system-ui, sans-serif";
    const [largest, smallest] = ui.formatTicks([10 ** high, 10 ** low]);
    context.fillText(largest, 6, 14);
    context.fillText(smallest, 6, LOSS_HEIGHT - 6);
  }

  const body = h("div", { class: "stack", hidden: true },
    h("div", { class: "panels" },
      h("figure", { class: "panel" }, field, h("figcaption", {}, "Learned score (orange) on the exact one (grey) at σ = ", level, ". Relative error where the data with noise are: ", error)),
      h("figure", { class: "panel" }, map, h("figcaption", {}, "Error relative to the exact score, which is nearly zero at a mode or along a ridge, so that small errors may be bright there: ", h("span", { class: "scale", role: "img", "aria-label": "Colour scale from 3 % to 300 %" }), " 3 % to 300 %")),
    ),
    h("figure", {}, curve, h("figcaption", {}, "Loss, on a logarithmic scale. Step ", step, ", loss ", loss)),
  );
  const section = h("section", { class: "stack" },
    h("h3", {}, "A network in place of the formula"),
    h("p", { class: "muted" }, "Train a small network by denoising score matching between the ends of the ladder, and see where its score is right: where the data with noise are. The second sampler can run on it."),
    h("div", { class: "row" }, steps.element, button, code), line, body);
  return { element: section, draw, look, reset, finish, cancel, arrows: () => shown?.arrays.arrows };
}
