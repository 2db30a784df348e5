// The view of runs: what was trained, with its curves and samples, and trainings to start and stop.

import { copyButton } from "./code.js";
import { drawCurves } from "./curves.js";

const UNITS = ["seconds", "minutes", "hours", "steps"];
const BUSY = ["starting", "training", "evaluating", "stopping"];
const STATES = {
  starting: "starting", training: "training", finished: "finished", stopped: "stopped",
  evaluating: "being evaluated", stopping: "being stopped", failed: "failed", unreadable: "cannot be read", elsewhere: "trained by another process",
};

export default {
  name: "runs",
  title: "Runs",

  mount(root, state, { ui, setState, copy, signal }) {
    let timer = null;
    let newest = null; // refreshing of the page, which alone may draw
    let chosen = state.run ?? null;
    let step = state.step ?? null; // of the grid that is shown; null is the newest
    let suggested = ""; // name of the run, unless another one was typed
    let last = null; // description of the chosen run

    const preset = ui.select({
      label: "Preset", options: [state.preset ?? "vectors"], value: state.preset,
      onchange(value) {
        setState({ preset: value });
        describePreset();
        if (name.value === suggested) suggestName();
      },
    });
    const name = ui.text({
      label: "Name of the run", value: state.name ?? "", required: true, maxlength: 64,
      pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*", title: "letters, digits, dots, - and _",
      onchange: (value) => setState({ name: value }),
    });
    const amount = ui.number({
      label: "Train for", min: 1, max: 1e6, step: "any", value: state.amount ?? 1,
      onchange: (value) => setState({ amount: value }),
    });
    const unit = ui.select({
      label: "Unit", options: UNITS, value: state.unit ?? "minutes",
      onchange: (value) => setState({ unit: value }),
    });
    const source = ui.h("output", { class: "muted small", "aria-label": "Its data" });
    let presets = {}; // of each preset, {data, included}
    const start = ui.button({ label: "Start training", kind: "primary", onclick: begin });
    const status = ui.status();
    const list = ui.h("div", { class: "stack" });
    const detail = ui.h("div", { class: "stack" });

    root.append(
      ui.h("p", { class: "muted" }, "Models that were trained in this folder, and a place to train another."),
      ui.h("div", { class: "view" },
        ui.h("div", { class: "controls" },
          ui.group("New training", preset.element, source, name.element,
            ui.h("div", { class: "pair" }, amount.element, unit.element),
            ui.h("div", { class: "row" }, start,
              ui.button({ label: "Copy as code", kind: "quiet", onclick: () => copy(settings()) }))),
          status.element),
        ui.h("div", { class: "stack" }, list, detail)),
    );

    const table = ui.h("tbody");
    const columns = ["Run", "State", "Steps", "Loss", "Held out"];
    list.append(ui.h("div", { class: "scroll" },
      ui.h("table", { "aria-label": "Runs", class: "wide" },
        ui.h("thead", {}, ui.h("tr", {}, columns.map((title) => ui.h("th", { scope: "col" }, title)))),
        table)));

    const canvas = ui.h("canvas", { "aria-label": "Loss and held-out loss over the steps", class: "chart" });
    const heading = ui.h("h3");
    const numbers = ui.h("div", { class: "row muted" });
    const buttons = ui.h("div", { class: "row" });
    const report = makeReportHint();
    const grid = ui.h("img", { class: "grid", alt: "" });
    const scrubber = ui.slider({
      label: "Samples at step", min: 0, max: 1, step: 1, value: 0,
      show: (i) => (last?.samples?.[i] ? String(stepOf(last.samples[i])) : "none"),
      oninput: (i) => { showGrid(i); setState({ step }); },
    });
    const samples = ui.h("figure", { class: "stack" }, scrubber.element, grid);
    const curve = ui.h("figure", {}, canvas,
      ui.h("figcaption", {}, "Loss of training batches (thin) and held-out loss (dots), on a logarithmic scale where all are positive. The dashed line is at the samples below."));
    detail.append(heading, numbers, buttons, report.element, curve, samples);
    detail.hidden = true;

    function makeReportHint() { // a line with the command, which can be copied
      let command = null;
      const element = ui.h("div", { class: "row muted" });
      return {
        element,
        show(text) {
          element.hidden = !text;
          if (text === command) return; // the button may have the focus
          command = text;
          const copyCommand = copyButton("Copy command", text, "quiet");
          element.replaceChildren(ui.h("span", {}, "No report yet: ", ui.h("code", {}, text), " writes one"), copyCommand);
        },
      };
    }

    function settings() {
      return {
        job: "runs.train",
        settings: { name: name.value, preset: preset.value, amount: amount.value, unit: unit.value },
      };
    }

    async function call(address, options) {
      const answer = await fetch(address, options);
      if (!answer.ok) throw new Error((await answer.text()).trim());
      return answer.json();
    }

    async function act(work, message) {
      try {
        status.say(message);
        const run = await work();
        status.say("");
        return run;
      } catch (error) {
        status.say(error.message, true);
        return null;
      } finally {
        await refresh();
      }
    }

    async function begin() {
      if (![name, amount].every((control) => control.input.reportValidity())) return;
      const asked = settings().settings;
      if (await act(() => call("runs", { method: "POST", body: JSON.stringify(asked) }), "Starting …")) {
        choose(asked.name);
        if (name.value === asked.name) suggestName();
      }
    }

    function steer(action) {
      const doing = { stop: "Stopping …", resume: "Resuming …", evaluate: "Starting the evaluation …" };
      act(() => call(`runs/${last.name}/${action}`, { method: "POST" }), doing[action]);
    }

    function choose(run) {
      chosen = run;
      step = null;
      setState({ run, step: null });
      refresh();
    }

    function describePreset() {
      const { data, included } = presets[preset.value];
      source.textContent = `Data: ${data}${included ? "" : ", which must be downloaded first; name their folder in the copied command by --data.options.root=FOLDER"}`;
    }

    let names = [];
    function suggestName() {
      const base = preset.value;
      let number = 1;
      while (names.includes(number === 1 ? base : `${base}-${number}`)) number += 1;
      name.value = suggested = number === 1 ? base : `${base}-${number}`;
      setState({ name: null });
    }

    async function refresh() {
      clearTimeout(timer);
      const own = newest = {};
      const isOld = () => own !== newest || signal.aborted;
      let busy = false;
      try {
        const answer = await call("runs");
        if (isOld()) return;
        const { runs } = answer;
        presets = answer.presets;
        if (preset.input.length !== Object.keys(presets).length) {
          const value = state.preset ?? "vectors";
          preset.fill(Object.keys(presets));
          preset.value = value;
          describePreset();
        }
        names = runs.map((run) => run.name);
        if (!name.value) suggestName();
        busy = runs.some((run) => BUSY.includes(run.state));
        start.disabled = busy;
        start.title = busy ? "One training or evaluation at a time" : "";
        if (!names.includes(chosen)) chosen = names[0] ?? null;
        drawList(runs);
        const run = await describe(runs.find(({ name }) => name === chosen));
        if (isOld()) return;
        last = run;
        drawDetail();
      } catch (error) {
        if (isOld()) return;
        status.say(error.message, true);
      }
      timer = setTimeout(refresh, busy ? 1000 : 5000);
    }

    /** Return a run with its curves, or its summary where they cannot be read. */
    async function describe(run = null) {
      if (!run || run.state === "starting" || run.state === "unreadable") return run;
      return call(`runs/${run.name}`).catch(() => run);
    }

    function drawList(runs) {
      if (!runs.length) {
        ui.update(table, [ui.h("tr", {}, ui.h("td", { colspan: columns.length, class: "muted" },
          "No runs yet: choose a preset and start a training."))]);
        return;
      }
      const focused = document.activeElement?.dataset?.run;
      ui.update(table, runs.map((run) => ui.h("tr", { "aria-selected": String(run.name === chosen) },
        ui.h("td", {}, ui.h("button", {
          type: "button", class: "quiet link", "data-run": run.name, onclick: () => choose(run.name),
        }, run.name)),
        ui.h("td", { title: run.error || null }, STATES[run.state]),
        ui.h("td", {}, progress(run)),
        ui.h("td", {}, run.loss == null ? "–" : ui.format(run.loss)),
        ui.h("td", {}, run.heldout == null ? "–" : ui.format(run.heldout)))));
      if (focused) table.querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
    }

    const progress = (run) => (run.steps ? `${run.step} of ${run.steps}` : String(run.step));

    function drawDetail() {
      detail.hidden = !last;
      if (!last) return;
      heading.textContent = last.name;
      const figures = [
        ["State", STATES[last.state]], ["Steps", progress(last)],
        ["Loss", last.loss == null ? "–" : ui.format(last.loss)],
        ["Held-out loss", last.heldout == null ? "–" : ui.format(last.heldout)],
        ...(last.budget ? [["Time limit", `${ui.format(last.budget)} s`]] : []),
      ];
      numbers.replaceChildren(...figures.map(([title, value]) => ui.h("span", {},
        `${title} `, ui.h("output", { "aria-label": title }, value))));
      const atRest = ["stopped", "finished"].includes(last.state);
      ui.update(buttons, [
        BUSY.includes(last.state) && last.state !== "stopping" && ui.button({ label: "Stop", onclick: () => steer("stop") }),
        last.state === "stopped" && ui.button({ label: "Resume", onclick: () => steer("resume") }),
        atRest && ui.button({
          label: last.report ? "Make the report again" : "Make a report", onclick: () => steer("evaluate"),
        }),
        last.report && ui.h("a", { href: `runs/${last.name}/report.html`, target: "_blank", rel: "noopener" }, "Open the report"),
        atRest && last.images && openLink(last.name),
        last.error && ui.h("span", { class: "status error", role: "alert" }, last.error),
      ].filter(Boolean));
      report.show(atRest && !last.report && last.command);
      curve.hidden = !last.curve?.length;
      const grids = last.samples ?? [];
      samples.hidden = !grids.length;
      if (grids.length) {
        scrubber.input.max = grids.length - 1;
        scrubber.input.hidden = grids.length === 1;
        const at = step == null ? -1 : grids.findIndex((file) => stepOf(file) === Number(step));
        setGrid(at < 0 ? grids.length - 1 : at);
      }
      redraw();
    }

    function openLink(name) {
      const own = `?run=${name}`;
      const onclick = () => { // the page has this run already, which may have been trained on since
        if (location.search === own) addEventListener("hashchange", () => location.reload(), { once: true });
      };
      return ui.h("a", { href: `${own}#/images`, onclick }, "Open in Images and Restore");
    }

    function showGrid(i) {
      step = i === last.samples.length - 1 ? null : stepOf(last.samples[i]);
      setGrid(i);
      redraw();
    }

    function setGrid(i) {
      scrubber.value = i;
      const address = `runs/${last.name}/samples/${last.samples[i]}`;
      if (grid.getAttribute("src") !== address) grid.setAttribute("src", address);
      grid.alt = `Samples of ${last.name} at step ${stepOf(last.samples[i])}`;
    }

    function redraw() {
      if (last && !curve.hidden) drawCurves(canvas, last.curve, last.curve_heldout, samples.hidden ? null : shownStep());
    }

    const shownStep = () => stepOf(last.samples[scrubber.value]);

    const replay = {
      count: () => (detail.hidden || (curve.hidden && samples.hidden) ? 0 : Math.max(1, last.samples?.length ?? 0)),
      keep() {
        const before = step;
        return () => { step = before; drawDetail(); };
      },
      async show(i) {
        if (samples.hidden) return last.name;
        showGrid(i);
        await grid.decode().catch(() => {
          throw new Error(`${grid.alt} cannot be read: check that the run still has the file and that the studio is running`);
        });
        return `${last.name}, step ${shownStep()}`;
      },
    };
    document.addEventListener("theme", redraw, { signal });
    const sizes = new ResizeObserver(redraw);
    sizes.observe(curve);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      sizes.disconnect();
    });
    refresh();
    return { settings: () => (last?.asked ? { job: "runs.train", settings: last.asked } : settings()), replay };
  },
};

const stepOf = (file) => Number(file.replace(".png", ""));
