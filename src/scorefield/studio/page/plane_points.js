// Points drawn with the mouse or by keys, each of which is a Gaussian of the distribution.

import { round4 } from "./plane_ladder.js";
import { squareFrame } from "./plane_panel.js";
import * as ui from "./ui.js";

const MOST = 400;
const SPACING = 0.04; // along a line drawn with the mouse, of half the side of the square

/**
 * Return the editor of `settings`' points on canvases.
 *
 * `onmove()` is called while points are drawn, `onend()` when the distribution is ready for its
 * ladder, and `draw()` when only the cursor has moved.
 */
export function makePoints({ settings, limit, say, onmove, onend, draw }) {
  let cursor = null;
  const { values, change } = settings;
  const isOn = () => values.target === "points";

  const spread = ui.slider({
    label: "Width of each point's Gaussian", min: 0.05, max: 3, log: true, value: values.spread,
    oninput(value) { change({ spread: round4(value) }); onmove(); },
  });
  spread.input.addEventListener("change", onend);
  const undoButton = ui.button({ label: "Undo", onclick: () => replace(values.points.slice(0, -2)) });
  const clearButton = ui.button({ label: "Clear", onclick: () => replace([]) });
  const element = ui.h("div", { class: "stack" },
    spread.element, ui.h("div", { class: "row" }, undoButton, clearButton));

  function replace(points) {
    change({ points });
    onmove();
    onend();
  }

  function add([x, y]) {
    if (values.points.length >= 2 * MOST) return say(`There are ${MOST} points, which is the most`, true);
    change({ points: [...values.points, Math.round(100 * x) / 100, Math.round(100 * y) / 100] });
    onmove();
  }

  function place(canvas, event) {
    const { left, top } = canvas.getBoundingClientRect();
    const frame = squareFrame(limit(), canvas.clientWidth);
    const [x, y] = [left + canvas.clientLeft, top + canvas.clientTop];
    return [frame.fromX(event.clientX - x), frame.fromY(event.clientY - y)];
  }

  function press(event) {
    if (!isOn()) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    cursor ??= [0, 0];
    if (step) {
      const inside = (value) => Math.min(limit(), Math.max(-limit(), value));
      cursor = cursor.map((value, i) => inside(value + (step[i] * limit()) / 20));
      draw();
    } else if (event.key === "Enter") {
      add(cursor);
      onend();
    } else if (event.key === "Backspace") replace(values.points.slice(0, -2));
    else return;
    event.preventDefault();
  }

  function listen(canvas) {
    canvas.addEventListener("pointerdown", (event) => {
      if (!isOn()) return;
      canvas.setPointerCapture(event.pointerId);
      add(cursor = place(canvas, event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!isOn() || !canvas.hasPointerCapture(event.pointerId)) return;
      const [x, y] = place(canvas, event);
      const seen = Math.max(Math.abs(x), Math.abs(y)) <= limit(); // the pointer may leave the picture
      if (seen && Math.hypot(x - cursor[0], y - cursor[1]) >= SPACING * limit()) add(cursor = [x, y]);
    });
    canvas.addEventListener("pointerup", () => isOn() && onend());
    canvas.addEventListener("keydown", press);
    canvas.addEventListener("blur", () => { cursor = null; draw(); });
  }

  return { element, listen, cursor: () => cursor };
}
