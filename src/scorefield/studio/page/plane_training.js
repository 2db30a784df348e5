// A network trained on the spot: its arrows on the exact ones, the map of its error, and the loss.

import { COLOURS, arrowPoints, drawArrows, drawAxes, drawCurve, drawHeat, fitCanvas, makeFrame } from "./draw.js";
import { drawField, fitSquare } from "./plane_panel.js";
import * as ui from "./ui.js";

const { h } = ui;
const ARROWS = 15;
const CELLS = 48;
const LOSS_HEIGHT = 96;

/** Return the section; `scene()` is what the panels show, `settings()` those of the job. */
export function makeTraining({ run, copy, scene, settings }) {
  const field = h("canvas", { class: "square", "aria-label": "Learned score on the exact score" });
  const map = h("canvas", { class: "square", "aria-label": "Map of the error" });
  const curve = h("canvas", { class: "curve", "aria-label": "Loss" });
  const step = h("output", { "aria-label": "Training step" }, "0");
  const loss = h("output", { "aria-label": "Loss now" }, "–");
  const level = h("output", { "aria-label": "Noise level of the learned score" });
  const error = h("output", { "aria-label": "Relative error of the score" }, "–");
  const { element: line, say } = ui.status();
  const button = ui.button({ label: "Train a network", onclick: () => (job ? stop() : start()) });
  const code = ui.button({ label: "Copy training as code", kind: "quiet", onclick: () => copy({ job: "plane.train", settings: settings() }) });
  let job = null;
  let shown = null; // {header, arrays}
  let losses = [];

  function start() {
    const own = settings();
    // a training with other settings starts again
    const { sigma, ...rest } = own;
    const key = JSON.stringify(rest);
    if (key !== start.key) losses = [];
    start.key = key;
    button.textContent = "Stop";
    const mine = job = run("plane.train", own, {
      frame(header, arrays) {
        if (mine !== job) return;
        shown = { header, arrays };
        if (header.step > 0 && header.step > (losses.at(-1)?.[0] ?? 0)) losses.push([header.step, header.loss]);
        draw();
      },
      status({ status, message, place }) {
        if (mine !== job) return;
        if (status === "queued") say(`Waiting: place ${place} in the queue`);
        if (status === "running") say("Training");
        if (["done", "cancelled", "error"].includes(status)) {
          job = null;
          button.textContent = "Train a network";
          say(status === "error" ? message : status === "done" ? "Trained" : "Stopped", status === "error");
        }
      },
    });
  }

  function stop() {
    job?.cancel();
  }

  /** Look at another σ: a training that runs goes on there, one that has ended is looked at. */
  function look() {
    if (!shown) return draw();
    const old = job;
    job = null; // frames of the old job are not for this σ
    old?.cancel();
    if (old || shown.header.keep) start();
    else draw();
  }

  /** Forget what was learned of another distribution. */
  function reset() {
    const old = job;
    job = null;
    old?.cancel();
    shown = null;
    losses = [];
    button.textContent = "Train a network";
    for (const output of [loss, error]) output.textContent = "–";
    step.textContent = "0";
    say();
    draw();
  }

  function draw() {
    section.hidden = !scene().target;
    body.hidden = !shown;
    if (!shown) return;
    const { target, limit, theme } = scene();
    const colours = COLOURS[theme];
    const sigma = settings().sigma;
    const { context, frame } = fitSquare(field, limit);
    if (frame.width === 0 || !target) return;
    drawField(context, frame, target, sigma, colours);
    const points = arrowPoints(frame, ARROWS);
    drawArrows(context, frame, points, shown.arrays.arrows, (0.62 * frame.width) / ARROWS, colours.second);
    drawAxes(context, frame, colours);
    const heat = fitSquare(map, limit);
    drawHeat(heat.context, heat.frame, shown.arrays.errors, CELLS);
    step.textContent = String(shown.header.step);
    level.textContent = ui.format(sigma);
    loss.textContent = shown.header.step ? ui.format(shown.header.loss) : "–";
    error.textContent = shown.header.error.toFixed(3);
    drawLoss(colours);
  }

  function drawLoss(colours) {
    const { context, width } = fitCanvas(curve, devicePixelRatio);
    context.clearRect(0, 0, width, LOSS_HEIGHT);
    if (losses.length < 2) return;
    const logs = losses.map(([x, y]) => [x, Math.log10(y)]);
    const values = logs.map(([, y]) => y);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const frame = makeFrame([0, settings().iterations], [low - 0.05, high + 0.05], { width, height: LOSS_HEIGHT });
    drawCurve(context, frame, logs, colours.first);
  }

  const body = h("div", { class: "stack", hidden: true },
    h("div", { class: "panels" },
      h("figure", { class: "panel" }, field, h("figcaption", {}, "Learned score (orange) on the exact one (grey) at σ = ", level, ". Relative error: ", error)),
      h("figure", { class: "panel" }, map, h("figcaption", {}, "Error of the learned score, relative to the exact one: ", h("span", { class: "scale", role: "img", "aria-label": "Colour scale from 3 % to 300 %" }), " 3 % to 300 %")),
    ),
    h("figure", {}, curve, h("figcaption", {}, "Loss, on a logarithmic scale. Step ", step, ", loss ", loss)),
  );
  const section = h("section", { class: "stack" },
    h("h3", {}, "A network in place of the formula"),
    h("p", { class: "muted" }, "Train a small network by denoising score matching between the ends of the ladder, and see where its score is right: where the data with noise are."),
    h("div", { class: "row" }, button, code, line), body);
  const unmount = () => { job?.cancel(); job = null; };
  return { element: section, draw, look, reset, unmount };
}
