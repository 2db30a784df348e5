// The section of noise levels: the picture's σ, the ladder, where it comes from, and its diagnosis.

import { geometricLevels, makeLadder, round4, smallestStable } from "./plane_ladder.js";
import { isLaddered, usualSteps } from "./plane_settings.js";
import * as ui from "./ui.js";

const EXAMINE = "Diagnose";

/**
 * Return the section; `onsigma()` is called as the slider moves, `onladder()` as steps change, and
 * `whenLoaded` calls a function once the distribution has come.
 */
export function makeLevels({ settings, run, say, whenLoaded, onsigma, onladder }) {
  const { values, change } = settings;
  let job = null; // the diagnosis that runs
  let suggested = null;
  let paper = null;
  let range = [0.2, 32];
  let slider = makeSlider();

  const ladder = makeLadder({ onchange(levels) { change({ ladder: levels }); show(); } });
  const count = ui.number({
    label: "Levels", min: 2, max: 64, value: 10,
    onchange(n) {
      if (Number.isNaN(n) || values.ladder.length < 2) return;
      change({ ladder: geometricLevels(values.ladder[0], values.ladder.at(-1), n) });
      show();
    },
  });
  const suggestButton = ui.button({
    label: "Suggest a ladder", title: "By the rules of Song & Ermon (2020)",
    onclick: () => whenLoaded(() => suggested && suggest()),
  });
  const paperButton = ui.button({ label: "Figure 3's ladder", onclick: () => whenLoaded(() => paper && take(paper)) });
  const examineButton = ui.button({ label: EXAMINE, onclick: () => (job ? cancel() : whenLoaded(examine)) });

  /** Show the ladders of a distribution; `fresh` takes its own except for the settings that are `fixed`. */
  function offer(header, fresh, fixed) {
    ({ suggested, paper } = header);
    paperButton.hidden = !paper;
    if (fresh) {
      const start = paper ? "square" : "prior";
      take(paper ?? suggested, { start, sigma: (paper ?? suggested).ladder.at(-1) }, fixed);
    } else rescale();
  }

  function suggest() {
    take(suggested);
    say(Object.entries(suggested.reasons).map(([name, reason]) => `${name}: ${reason}`).join(". "));
  }

  /** Take a ladder with its ε and steps; with `more`, settings and steps that suit the distribution. */
  function take({ ladder: levels, steps, epsilon, convention }, more = null, fixed = {}) {
    const patch = { ladder: [...levels], epsilon, convention, ...more };
    for (const side of ["first", "second"]) {
      if (more || isLaddered(values[side])) patch[`${side}_steps`] = usualSteps(values[side], steps);
    }
    change(Object.fromEntries(Object.entries(patch).filter(([name]) => !(name in fixed))));
    rescale();
    onladder();
  }

  function makeSlider() {
    return ui.slider({
      label: "Noise level σ of the picture", min: range[0], max: range[1], log: true, value: values.sigma,
      oninput(sigma) { change({ sigma: round4(sigma) }); onsigma(); },
    });
  }

  function rescale() {
    if (values.ladder.length < 2) return;
    const [highest, lowest] = [values.ladder[0], values.ladder.at(-1)];
    const limit = smallestStable(values.epsilon, values.convention) || lowest; // ε may be wrong
    // wide enough for the limit, unless the levels would be crowded for it
    const [left, right] = [Math.max(limit / 1.4, lowest / 25), Math.min(limit * 1.4, highest * 25)];
    range = [Math.min(lowest / 5, left), Math.max(highest * 1.6, right)];
    const old = slider;
    const focused = document.activeElement === old.input;
    slider = makeSlider();
    old.element.replaceWith(slider.element);
    if (focused) slider.input.focus();
    show();
  }

  function show() {
    if (values.ladder.length < 2) return;
    ladder.show({ ladder: values.ladder, range, epsilon: values.epsilon, convention: values.convention });
    count.value = values.ladder.length;
  }

  function examine() {
    examineButton.textContent = "Stop diagnosing";
    const mine = job = run("plane.diagnose", settings.diagnosis(), {
      frame: ({ text, verdicts }) => mine === job && ui.dialog(
        "Diagnosis of annealed Langevin dynamics on this ladder",
        ui.h("p", {}, verdicts.length ? verdicts.join(" ") : "No instability, bias, lag, wrong weight or wrong score was found."),
        ui.h("pre", { tabindex: 0, "aria-label": "Diagnosis" }, text),
      ),
      status({ status, message }) {
        if (mine !== job) return;
        if (status === "running") say("Diagnosing");
        if (status === "done") end();
        if (status === "error") end(message);
      },
    });
  }

  function end(error = "") {
    job = null;
    examineButton.textContent = EXAMINE;
    say(error, Boolean(error));
  }

  function cancel() {
    job.cancel();
    end();
  }

  const element = ui.h("section", { class: "stack tight" },
    ui.h("h3", {}, "Noise levels"),
    slider.element, ladder.element,
    ui.h("div", { class: "row" }, count.element, suggestButton, paperButton, examineButton));
  const levelSteps = () => (paper ?? suggested)?.steps ?? 100;
  return { element, offer, rescale, levelSteps };
}
