// The measured frontier: quality of the samples against cost, and where the page's settings stand.

/** Return a section; `show` takes what was measured, `here` where the page is. */
export function costs(ui, tools) {
  const { h } = ui;
  let points = [];
  let here = {};
  const canvas = h("canvas", { class: "plot", "aria-label": "Fréchet distance against cost" });
  const finding = h("output", { "aria-label": "You are here" });
  const note = h("p", { class: "muted" });
  const axis = ui.select({
    label: "Cost", options: [["evaluations", "evaluations of the score"], ["seconds", "seconds an image"]],
    onchange: () => draw(),
  });
  const rows = h("tbody");
  const table = h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, ["sampler", "evaluations", "Fréchet distance", "s an image"].map((name) => h("th", {}, name)))), rows)));
  const plot = h("div", { class: "stack" }, h("div", { class: "row" }, axis.element), canvas, finding, table);
  const element = h("section", { class: "stack" }, h("h3", {}, "Quality against cost"), note, plot);
  const cost = (point) => (axis.value === "seconds" ? point.seconds / point.samples : point.evaluations);

  function show(frontier, run) {
    points = frontier;
    plot.hidden = !points.length;
    note.textContent = points.length
      ? `Measured with ${points[0].samples} samples a point, with 95 % intervals; less is better.`
      : `Not measured yet: scorefield evaluate ${run ?? "RUN"} --frontier measures it.`;
    rows.replaceChildren(...points.map((point) => h("tr", {},
      [point.sampler, ui.format(point.evaluations), `${ui.format(point.value)} (${ui.format(point.low)} to ${ui.format(point.high)})`, ui.format(point.seconds / point.samples)]
        .map((text) => h("td", {}, text)))));
    draw();
  }

  function draw() {
    if (!points.length || plot.hidden) return;
    const wide = Math.max(260, Math.min(720, element.clientWidth || 560));
    const high = Math.round(Math.max(240, wide * 0.5));
    const scale = devicePixelRatio || 1;
    canvas.width = wide * scale;
    canvas.height = high * scale;
    canvas.style.width = `${wide}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const [left, right, top, bottom] = [48, 16, 26, 34];
    const mine = axis.value === "seconds" ? here.seconds : here.evaluations;
    const costsOf = [...points.map(cost), ...(mine ? [mine] : [])];
    const floor = points[0].real;
    const values = [...points.map((point) => point.value), ...(floor ? [floor] : [])];
    const scaleOf = (list, from, to) => {
      const [low, top_] = [Math.log(Math.min(...list) / 1.15), Math.log(Math.max(...list) * 1.15)];
      return (v) => from + ((Math.log(v) - low) / (top_ - low)) * (to - from);
    };
    const x = scaleOf(costsOf, left, wide - right);
    const y = scaleOf(values, high - bottom, top);
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 1;
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("muted");
    const ticks = (list) => {
      const inside = [1, 2, 5].flatMap((m) => [-4, -3, -2, -1, 0, 1, 2, 3].map((e) => m * 10 ** e))
        .filter((v) => v >= Math.min(...list) / 1.15 && v <= Math.max(...list) * 1.15).sort((a, b) => a - b);
      const texts = ui.formatTicks(inside);
      return inside.map((v, i) => [v, texts[i]]);
    };
    pen.textAlign = "center";
    let edge = 0;
    for (const [v, text] of ticks(costsOf)) {
      if (x(v) - pen.measureText(text).width / 2 < edge) continue;
      edge = x(v) + pen.measureText(text).width / 2 + 8;
      pen.fillText(text, x(v), high - bottom + 16);
    }
    pen.fillText(axis.value === "seconds" ? "seconds an image" : "evaluations of the score", (left + wide - right) / 2, high - 4);
    pen.textAlign = "right";
    for (const [v, text] of ticks(values)) {
      line(pen, [[left, y(v)], [wide - right, y(v)]]);
      pen.fillText(text, left - 6, y(v) + 4);
    }
    pen.textAlign = "left";
    pen.fillText(points[0].name, 2, 14);
    if (floor) {
      pen.setLineDash([2, 4]);
      pen.strokeStyle = colour("muted");
      line(pen, [[left, y(floor)], [wide - right, y(floor)]]);
      pen.setLineDash([]);
      pen.fillText("real images", left + 4, y(floor) - 5);
    }
    const names = [...new Set(points.map((point) => point.sampler))];
    for (const name of names.filter((other) => other !== here.sampler).concat(here.sampler ?? [])) {
      const own = points.filter((point) => point.sampler === name).sort((a, b) => cost(a) - cost(b));
      const current = name === here.sampler;
      pen.strokeStyle = pen.fillStyle = current ? colour("accent") : colour("line");
      pen.lineWidth = current ? 2.5 : 1.5;
      line(pen, own.map((point) => [x(cost(point)), y(point.value)]));
      for (const point of own) {
        if (current) line(pen, [[x(cost(point)), y(point.low)], [x(cost(point)), y(point.high)]]);
        pen.beginPath();
        pen.arc(x(cost(point)), y(point.value), current ? 4 : 2, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    if (mine) {
      pen.strokeStyle = pen.fillStyle = colour("second");
      pen.lineWidth = 2;
      line(pen, [[x(mine), top], [x(mine), high - bottom]]);
      pen.textAlign = x(mine) > wide / 2 ? "right" : "left";
      pen.fillText("you are here", x(mine) + (x(mine) > wide / 2 ? -6 : 6), top - 6);
    }
    tell(mine);
  }

  function line(pen, places) {
    pen.beginPath();
    places.forEach(([left, top], i) => (i ? pen.lineTo(left, top) : pen.moveTo(left, top)));
    pen.stroke();
  }

  function tell(mine) {
    const own = points.filter((point) => point.sampler === here.sampler);
    if (!mine) finding.textContent = "";
    else if (!own.length) finding.textContent = `${here.sampler} has not been measured for this run.`;
    else {
      const nearest = own.reduce((a, b) => (
        Math.abs(Math.log(a.evaluations / here.evaluations)) <= Math.abs(Math.log(b.evaluations / here.evaluations)) ? a : b));
      const exact = nearest.evaluations === here.evaluations;
      const place = `${here.sampler} at ${ui.format(nearest.evaluations)} evaluations has a Fréchet distance of ${ui.format(nearest.value)} (${ui.format(nearest.low)} to ${ui.format(nearest.high)})`;
      const speed = here.seconds ? ` An image takes ${ui.format(Number(here.seconds.toPrecision(3)))} s here.` : "";
      finding.textContent = (exact ? `You are here: ${place}.` : `You are at ${ui.format(here.evaluations)} evaluations; the nearest that was measured: ${place}.`) + speed;
    }
  }

  const redraw = () => draw();
  document.addEventListener("theme", redraw);
  addEventListener("resize", redraw);
  return {
    element, show,
    here(place) { here = { ...(place.seconds ? {} : { seconds: here.seconds }), ...place }; draw(); },
    unmount() { document.removeEventListener("theme", redraw); removeEventListener("resize", redraw); },
  };
}
