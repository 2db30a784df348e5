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
  let measured = null; // measurement of the errors that are compared
  const compared = new Map(); // the last errors of each method on it
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
  const heading = h("h3");
  const rows = h("tbody");
  const comparison = h("div", { class: "stack", hidden: true },
    h("div", { class: "scroll" }, h("table", { "aria-label": "Methods compared" },
      h("thead", {}, h("tr", {}, ["Method", "Error of the mean", "of single completions"].map((title) => h("th", { scope: "col" }, title)))),
      rows)),
    h("p", { class: "muted small" }, "Errors on one image do not show which method is biased: the bias next to a name was measured where the exact posterior is known."));
  const element = h("section", { class: "stack next", hidden: true, "aria-label": "Completions" },
    heading, note, results, progress,
    h("div", { class: "thumbs" },
      h("figure", {}, mean, h("figcaption", {}, "Their mean")),
      h("figure", {}, spread, h("figcaption", {}, "Their standard deviation, from 0 (dark) to ", brightest, " (yellow): the model is sure where it is dark")),
      itself),
    errors, comparison);

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
    if (header.errors) rank(header.errors);
    if (header.keep || !calm()) draw(frame);
  }

  /** Put the errors of the method next to those of others on the same measurement. */
  function rank(figures) {
    const measurement = JSON.stringify(coming.measurement);
    if (measurement !== measured) compared.clear();
    measured = measurement;
    compared.set(coming.method, figures.map(short));
    comparison.hidden = compared.size < 2;
    rows.replaceChildren(...[...compared].map(([method, own]) => (
      h("tr", {}, [method, ...own].map((cell) => h("td", {}, cell))))));
  }

  function draw(frame) {
    element.hidden = false;
    request = coming;
    const { n: total, method } = request.settings;
    heading.textContent = `Completions by ${method}`;
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
