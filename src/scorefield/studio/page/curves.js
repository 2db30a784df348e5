// The curves of a training on a canvas.

import { roundTicks } from "./draw.js";
import { formatTicks } from "./ui.js";

const LOG_DIGITS = [[1], [1, 3], [1, 2, 5]]; // first digits of the numbers on a logarithmic axis
const MOST_TICKS = 5;

/** Return some round numbers between two, for an axis that is logarithmic or not. */
export function axisTicks(low, high, log) {
  const first = Math.floor(Math.log10(low));
  const powers = log ? Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, k) => first + k) : [];
  for (const digits of LOG_DIGITS) {
    const ticks = powers.flatMap((power) => digits.map((digit) => digit * 10 ** power))
      .filter((tick) => low <= tick && tick <= high);
    const stride = Math.ceil(ticks.length / MOST_TICKS);
    if (ticks.length > 2) return ticks.filter((_, i) => i % stride === 0);
  }
  return roundTicks(low, high, MOST_TICKS);
}

/**
 * Draw the losses of batches as a line, the held-out losses as dots with a line, and a mark at a
 * step, if it is not null.
 */
export function drawCurves(canvas, batches, heldout, mark) {
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name).trim();
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const scale = devicePixelRatio || 1;
  if (!width) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const all = [...batches, ...heldout];
  const values = all.map(([, loss]) => loss);
  const log = Math.min(...values) > 0;
  const bend = log ? Math.log10 : (v) => v;
  let low = bend(Math.min(...values));
  let high = bend(Math.max(...values));
  const margin = 0.06 * (high - low) || 0.5;
  low -= margin;
  high += margin;
  const end = Math.max(...all.map(([step]) => step), 1);
  const [left, right, top, bottom] = [52, 12, 10, 26];
  const px = (step) => left + ((width - left - right) * step) / end;
  const py = (loss) => top + (height - top - bottom) * (1 - (bend(loss) - low) / (high - low));
  pen.font = `12px ${style.fontFamily}`;
  pen.lineWidth = 1;
  const ticks = axisTicks(...[low, high].map((level) => (log ? 10 ** level : level)), log);
  const texts = formatTicks(ticks);
  for (const [i, loss] of ticks.entries()) {
    pen.strokeStyle = colour("--line");
    pen.beginPath();
    pen.moveTo(left, py(loss));
    pen.lineTo(width - right, py(loss));
    pen.stroke();
    pen.fillStyle = colour("--muted");
    pen.textAlign = "right";
    pen.fillText(texts[i], left - 6, py(loss) + 4);
  }
  pen.textAlign = "left";
  pen.fillText("0", left, height - 8);
  pen.textAlign = "right";
  pen.fillText(`${end} steps`, width - right, height - 8);
  const line = (points, name, thickness) => {
    pen.strokeStyle = colour(name);
    pen.lineWidth = thickness;
    pen.beginPath();
    points.forEach(([step, loss]) => pen.lineTo(px(step), py(loss)));
    pen.stroke();
  };
  if (mark != null) {
    pen.strokeStyle = colour("--muted");
    pen.setLineDash([3, 4]);
    pen.beginPath();
    pen.moveTo(px(mark), top);
    pen.lineTo(px(mark), height - bottom);
    pen.stroke();
    pen.setLineDash([]);
  }
  line(batches, "--accent", 1);
  line(heldout, "--second", 2);
  pen.fillStyle = colour("--second");
  for (const [step, loss] of heldout) {
    pen.beginPath();
    pen.arc(px(step), py(loss), 3, 0, 2 * Math.PI);
    pen.fill();
  }
}
