// What a restoration gives: its completions as they form, their mean and their deviation.

import { calm, drawImage, drawMap, keepState, layout, putImage, resize, roomIn } from "./pixels.js";

/**
 * Return a section. `begin(request)` starts other completions, those of {settings, state, …}, `add`
 * takes a frame of them, `compare(settings)` returns true if those that are drawn are of these
 * settings, and otherwise writes a note, and `request()` returns the request of those, or null.
 */
export function makeOutcome(ui) {
  const { h } = ui;
  let coming = null; // request of the completions that are computed
  let request = null; // and of those that are drawn: without motion they are drawn at the end
  let frames = []; // states, each {step, of, sigma, …, x, mean, spread}
  const short = (value) => ui.format(Number(value.toPrecision(3)));

  const note = h("output", { class: "muted", "aria-label": "Settings" });
  const results = h("canvas", { class: "pixels", "aria-label": "Completions" });
  const mean = h("canvas", { class: "pixels", "aria-label": "Mean of the completions" });
  const spread = h("canvas", { class: "pixels", "aria-label": "Standard deviation of the completions" });
  const truth = h("canvas", { class: "pixels", "aria-label": "The image itself" });
  const itself = h("figure", {}, truth, h("figcaption", {}, "The image itself"));
  const brightest = h("output", { "aria-label": "Largest deviation" });
  const progress = h("output", { class: "muted", "aria-label": "State" });
  const errors = h("output", { "aria-label": "Errors" });
  const element = h("section", { class: "stack next", hidden: true, "aria-label": "Completions" },
    h("h3", {}, "Completions"), note, results, progress,
    h("div", { class: "thumbs" },
      h("figure", {}, mean, h("figcaption", {}, "Their mean")),
      h("figure", {}, spread, h("figcaption", {}, "Their standard deviation, from 0 (dark) to ", brightest, " (yellow): the model is sure where it is dark")),
      itself),
    errors);

  function begin(own) {
    coming = own;
    frames = [];
  }

  function compare(settings) {
    const same = request !== null && JSON.stringify(request.settings) === JSON.stringify(settings);
    note.textContent = request && !same ? "These are of other settings: Restore samples those of the new ones." : "";
    return same;
  }

  function add(header, arrays) {
    const frame = { ...header, ...arrays };
    frames = keepState(frames, frame);
    if (header.keep || !calm()) draw(frame);
  }

  function draw(frame) {
    element.hidden = false;
    request = coming;
    const { n: total } = request.settings;
    const [height, width] = frame.x.shape.slice(1);
    const grid = layout(total, height, width, total > 8 ? 8 : Math.min(total, 4));
    resize(results, grid.width, grid.height, roomIn(element, 720));
    results.getContext("2d").clearRect(0, 0, results.width, results.height);
    frame.places.forEach((place, i) => putImage(results, frame.x, i, ...grid.place(place)));
    drawImage(mean, frame.mean, 160);
    brightest.textContent = short(drawMap(spread, frame.spread, 160));
    itself.hidden = !frame.truth;
    if (frame.truth) drawImage(truth, frame.truth, 160);
    progress.textContent = `${describe(frame)}, ${short(frame.seconds)} s`;
    const [ofMean, single] = frame.errors?.map(short) ?? [];
    errors.textContent = frame.errors
      ? `Root mean square error of the mean ${ofMean}, of single completions ${single}.` : "";
  }

  const describe = (frame) => `State ${frame.step} of ${frame.of}, σ = ${short(frame.sigma)}`;
  const replay = {
    state: () => ({ ...coming.state, restored: 1 }),
    count: () => frames.length,
    show(i) { draw(frames[i]); return describe(frames[i]); },
  };
  return { element, begin, add, compare, replay, request: () => request };
}
