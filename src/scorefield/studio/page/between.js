// Samples between two seeds, a section of Images.

import { latest } from "./latest.js";
import { calm, drawGrid, follow } from "./pixels.js";

/** Return a section; `settings` returns those of Images, and `check` is called when they change. */
export function makeBetween({ ui, tools, state, settings }) {
  const { h } = ui;
  const work = latest(tools.run);
  let shown = null; // settings of the path that is drawn, as text

  const other = ui.number({
    label: "Other seed", min: 0, max: 2 ** 53 - 1, value: state.other ?? 1, onchange: () => start(),
  });
  const path = h("canvas", { class: "pixels wide", hidden: true, "aria-label": "Samples between two seeds" });
  const status = ui.status();
  const go = ui.button({ label: "Interpolate", onclick: () => start() });
  const copy = ui.button({
    label: "Copy path as code", kind: "quiet",
    onclick: () => tools.copy({ job: "images.between", settings: own() }),
  });
  const inputs = [other.input, go, copy];
  const element = h("section", { class: "stack" },
    h("h3", {}, "Between two seeds"),
    h("p", { class: "muted" }, "The noise turns from that of one seed into that of another; every point on the way is a sample."),
    h("div", { class: "row end" }, other.element, go, copy), path, status.element);

  const own = () => ({ ...settings(), n: 9, other: other.value });

  /** Clear a path that is not of the settings; return true if there can be one. */
  function check() {
    const refused = settings().label === "all";
    for (const input of inputs) input.disabled = refused;
    const old = shown != null && shown !== JSON.stringify(own());
    if (old) {
      work.forget();
      path.hidden = true;
      shown = null;
    }
    if (refused) status.say("A path is of one class: choose one above.");
    else if (old) status.say("The settings have changed: Interpolate draws their path.");
    else if (shown == null) status.say("");
    return !refused;
  }

  function start() {
    tools.setState({ other: other.value });
    if (!check()) return;
    shown = JSON.stringify(own());
    work.start("images.between", own(), {
      frame(header, arrays) {
        if (calm() && !header.last) return;
        path.hidden = false;
        drawGrid(path, arrays.x, 720, header.n);
      },
      status: follow(status, "Interpolating"),
    });
  }

  return { element, check, start, cancel: work.cancel };
}
