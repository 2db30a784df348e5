// The ladder: noise levels as ticks on a logarithmic axis, dragged by mouse or by arrow keys, and
// the limit below which the last level makes annealed Langevin dynamics unstable.

import { format, h } from "./ui.js";

const KEY_STEP = 1.03;
const LARGE_STEP = 1.2;

/** Return a number with four digits, as the address has it. */
export const round4 = (value) => Number(value.toPrecision(4));

/** Return levels of constant ratio. */
export function geometricLevels(highest, lowest, count) {
  return Array.from({ length: count }, (_, i) => (
    round4(highest * (lowest / highest) ** (i / (count - 1)))
  ));
}

/** Return c of the limit ε < c·σ_L²: a step is stable for αλ < 2, and λ = 1/σ_L² at most. */
const stabilityFactor = (convention) => (convention === "paper" ? 4 : 2);

/** Return the last level below which a step of size ε is unstable. */
export const smallestStable = (epsilon, convention) => Math.sqrt(epsilon / stabilityFactor(convention));

/** Return the control; `onchange(ladder)` is called as a tick moves. */
export function makeLadder({ onchange }) {
  const track = h("div", { class: "ladder", role: "group", "aria-label": "Noise levels" });
  const limit = h("div", { class: "unstable hatched" });
  const verdict = h("output", { class: "status", "aria-label": "Stability" });
  const levels = h("output", { class: "muted", "aria-label": "Levels" });
  const least = h("output", { "aria-label": "Limit of the last level" });
  const legend = h("p", { class: "legend" }, h("span", { class: "hatched" }), h("span", {}, least));
  const element = h("div", { class: "stack tight" }, track, levels, legend, verdict);
  let state = { ladder: [], range: [1, 2], epsilon: 0.1, convention: "paper" };

  const place = (sigma) => {
    const [low, high] = state.range;
    return Math.min(1, Math.max(0, Math.log(sigma / low) / Math.log(high / low)));
  };
  const sigmaAt = (share) => state.range[0] * (state.range[1] / state.range[0]) ** share;

  function move(index, sigma) {
    const { ladder, range } = state;
    const above = index > 0 ? ladder[index - 1] / 1.001 : range[1];
    const below = index + 1 < ladder.length ? ladder[index + 1] * 1.001 : range[0];
    const moved = [...ladder];
    moved[index] = round4(Math.min(above, Math.max(below, sigma)));
    // four digits may round a level onto its neighbour
    if (moved[index] >= (moved[index - 1] ?? Infinity) || moved[index] <= (moved[index + 1] ?? 0)) return;
    onchange(moved);
  }

  function remove(index) {
    if (state.ladder.length > 2) onchange(state.ladder.filter((_, i) => i !== index));
  }

  function makeTick(index) {
    const tick = h("button", { type: "button", class: "tick", role: "slider" });
    tick.addEventListener("keydown", (event) => {
      const factor = {
        ArrowRight: KEY_STEP, ArrowUp: KEY_STEP, ArrowLeft: 1 / KEY_STEP, ArrowDown: 1 / KEY_STEP,
        PageUp: LARGE_STEP, PageDown: 1 / LARGE_STEP,
      }[event.key];
      if (factor) move(index, state.ladder[index] * factor);
      else if (event.key === "Delete") remove(index);
      else return;
      event.preventDefault();
    });
    tick.addEventListener("pointerdown", (event) => tick.setPointerCapture(event.pointerId));
    tick.addEventListener("pointermove", (event) => {
      if (!tick.hasPointerCapture(event.pointerId)) return;
      const { left, width } = track.getBoundingClientRect();
      move(index, sigmaAt((event.clientX - left) / width));
    });
    return tick;
  }

  /** Show {ladder, range, epsilon, convention}. */
  function show(next) {
    state = next;
    const { ladder, range, epsilon, convention } = state;
    const ticks = [...track.querySelectorAll(".tick")];
    while (ticks.length > ladder.length) ticks.pop().remove();
    while (ticks.length < ladder.length) {
      ticks.push(makeTick(ticks.length));
      track.append(ticks[ticks.length - 1]);
    }
    ladder.forEach((sigma, i) => {
      ticks[i].style.left = `${100 * place(sigma)}%`;
      ticks[i].setAttribute("aria-label", `Level ${i + 1} of ${ladder.length}`);
      ticks[i].setAttribute("aria-valuemin", range[0]);
      ticks[i].setAttribute("aria-valuemax", range[1]);
      ticks[i].setAttribute("aria-valuenow", sigma);
      ticks[i].setAttribute("aria-valuetext", `σ = ${format(sigma)}`);
      ticks[i].title = `σ = ${format(sigma)}`;
    });
    const last = ladder[ladder.length - 1];
    levels.textContent = ladder.map(format).join(" · ");
    if (!Number.isNaN(epsilon)) judge(last, range, epsilon, convention);
  }

  /** Show the limit, and on which side of it the last level is. */
  function judge(last, range, epsilon, convention) {
    const factor = stabilityFactor(convention);
    const most = factor * last ** 2;
    const sigma = smallestStable(epsilon, convention);
    limit.style.width = `${100 * place(sigma)}%`;
    least.textContent = `Unstable with this ε if the last level is below σ = ${format(sigma)}${
      sigma < range[0] ? ", which is left of this axis" : sigma > range[1] ? ", which is right of this axis" : ""}`;
    const stable = epsilon < most;
    verdict.classList.toggle("error", !stable);
    verdict.textContent = stable
      ? `Stable: ε = ${format(epsilon)} is below ${factor}σ_L² = ${format(most)}.`
      : `Unstable: ε = ${format(epsilon)} is not below ${factor}σ_L² = ${format(most)}. Lower ε, or end at a larger σ.`;
    track.classList.toggle("bad", !stable);
  }

  track.append(limit);
  return { element, show };
}
