// One sample of Images: its path from noise, its denoised view and its nearest training images.

import { latest } from "./latest.js";
import { drawImage, follow, putImage, resize } from "./pixels.js";

const PATH = 8; // states of a path that are shown

/** Return a section; `inspect` shows sample i of the states of a grid, `draw` one of these states. */
export function makeChosen({ ui, run, wide }) {
  const { h } = ui;
  const short = (value, digits = 3) => ui.format(Number(value.toPrecision(digits)));
  const search = latest(run);
  const figure = (canvas, text) => h("figure", {}, canvas, h("figcaption", {}, text));

  const portrait = h("canvas", { class: "pixels", "aria-label": "The chosen sample" });
  const mean = h("canvas", { class: "pixels", "aria-label": "Its denoised view" });
  const strip = h("canvas", { class: "pixels wide", "aria-label": "Its path: above x, below E[x₀ | x]" });
  const levels = h("div", { class: "ticks" });
  const near = h("div", { class: "thumbs" });
  const distance = h("output", { class: "muted", "aria-label": "Distances" });
  const status = ui.status();
  const element = h("section", { class: "stack next", hidden: true, "aria-label": "Chosen sample" },
    h("h3", {}, "The chosen sample"),
    h("div", { class: "thumbs" }, figure(portrait, "x"), figure(mean, "E[x₀ | x]")),
    h("figure", {}, strip, levels,
      h("figcaption", {}, "Its path from noise: x above, E[x₀ | x] below, σ under each state")),
    h("h3", {}, "Nearest training images"), near, distance, status.element);

  /** The settings are those of the grid, or null if the run's data are not known. */
  function inspect(frames, i, settings) {
    element.hidden = false;
    drawPath(frames, i);
    if (!settings) {
      distance.textContent = "The run's data are not known, so neither are its neighbours.";
      return;
    }
    near.style.visibility = "hidden"; // till those of this sample are known
    distance.textContent = "";
    search.start("images.nearest", { ...settings, index: i }, {
      frame(header, arrays) {
        if (header.keep) drawNear(header, arrays.images);
        else status.say(`Compared with ${header.compared} of ${header.of} training images`);
      },
      status: follow(status, "Comparing"),
    });
  }

  function draw(frame, i) {
    drawImage(portrait, frame.x, 160, i);
    drawImage(mean, frame.denoised, 160, i);
  }

  function drawPath(frames, i) {
    const few = Math.min(PATH, frames.length);
    const places = Array.from({ length: few }, (_, k) => Math.round((k * (frames.length - 1)) / Math.max(1, few - 1)));
    const [height, width] = frames[0].x.shape.slice(1);
    resize(strip, few * (width + 1) - 1, 2 * height + 1, wide);
    strip.getContext("2d").clearRect(0, 0, strip.width, strip.height);
    levels.replaceChildren(...places.map((place, k) => {
      putImage(strip, frames[place].x, i, k * (width + 1), 0);
      putImage(strip, frames[place].denoised, i, k * (width + 1), height + 1);
      return h("output", {}, short(frames[place].sigma, 2));
    }));
    levels.style.width = strip.style.width;
  }

  function drawNear(header, images) {
    near.style.visibility = "";
    near.replaceChildren(...header.distances.map((far, i) => {
      const canvas = h("canvas", { class: "pixels", "aria-label": `Training image ${i + 1} of the nearest` });
      drawImage(canvas, images, 96, i);
      return figure(canvas, h("output", {}, short(far)));
    }));
    status.say(); // the last of its progress may have come after the end
    const [first] = header.distances;
    distance.textContent = `The nearest of ${header.of} training images is ${short(first)} away`
      + (header.usual ? `, ${short(first / header.usual, 2)} times as far as held-out images are (median ${short(header.usual)}).` : ".");
  }

  return { element, inspect, draw, cancel: search.cancel };
}
