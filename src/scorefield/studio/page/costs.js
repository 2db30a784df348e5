// The measured frontier: quality of the samples against cost, and where the page's settings stand.

/** Return a section; `show` takes what was measured, `here` changes where the page is. */
export function costs(ui, tools) {
  const { h } = ui;
  let points = [];
  let here = {}; // {sampler, calls, guided, seconds, n}, the last two of the samples on the page
  const short = (value) => ui.format(Number(value.toPrecision(3)));
  const canvas = h("canvas", { class: "plot", "aria-label": "Fréchet distance against cost" });
  const finding = h("output", { "aria-label": "You are here" });
  const note = h("p", { class: "muted" });
  const axis = ui.select({
    label: "Cost", options: [["calls", "network calls an image"], ["seconds", "seconds an image, where it was measured"]],
    value: tools.state().cost,
    onchange(value) { tools.setState({ cost: value }); draw(); },
  });
  const rows = h("tbody");
  const table = h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, ["sampler", "network calls", "Fréchet distance", "s an image"].map((name) => h("th", {}, name)))), rows)));
  const plot = h("div", { class: "stack" }, h("div", { class: "row" }, axis.element), canvas, finding, table);
  const element = h("section", { class: "stack" }, h("h3", {}, "Quality against cost"), note, plot);
  const speed = (point) => point.seconds / point.samples; // seconds an image
  const cost = (point) => (axis.value === "seconds" ? speed(point) : point.evaluations);

  function show(frontier, run) {
    points = frontier;
    plot.hidden = !points.length;
    note.replaceChildren(...(points.length
      ? [`Measured by scorefield evaluate with ${points[0].samples} samples a point, without guidance. Less is better; intervals are of 95 %, seconds those of the machine and the batches that measured.`]
      : ["Not measured yet: ", h("code", {}, `scorefield evaluate ${run ?? "RUN"} --frontier`), " measures it."]));
    rows.replaceChildren(...points.map((point) => h("tr", {},
      [point.sampler, ui.format(point.evaluations), `${ui.format(point.value)} (${ui.format(point.low)} to ${ui.format(point.high)})`, ui.format(speed(point))]
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
    const mine = placeHere();
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
    pen.fillText(axis.value === "seconds" ? "seconds an image, where it was measured" : "network calls an image", (left + wide - right) / 2, high - 4);
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
      pen.strokeStyle = pen.fillStyle = current ? colour("accent") : colour("muted");
      pen.globalAlpha = current ? 1 : 0.5;
      pen.lineWidth = current ? 2.5 : 1.5;
      line(pen, own.map((point) => [x(cost(point)), y(point.value)]));
      for (const point of own) {
        if (current) line(pen, [[x(cost(point)), y(point.low)], [x(cost(point)), y(point.high)]]);
        pen.beginPath();
        pen.arc(x(cost(point)), y(point.value), current ? 4 : 2, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
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

  /** The measured point nearest to the page's number of network calls, if it can be of its sampler. */
  function nearestPoint() {
    const own = points.filter((point) => point.sampler === here.sampler);
    const gap = (point) => Math.abs(Math.log(point.evaluations / here.calls));
    return (own.length ? own : points).reduce((a, b) => (gap(a) <= gap(b) ? a : b));
  }

  /** The page's cost on the axis; seconds are those that the measurement would have taken. */
  function placeHere() {
    if (!here.calls || axis.value === "calls") return here.calls;
    const nearest = nearestPoint();
    return (here.calls * speed(nearest)) / nearest.evaluations;
  }

  function tell(mine) {
    if (!mine) { finding.textContent = ""; return; }
    const nearest = nearestPoint();
    const { sampler, calls, guided, seconds, n } = here;
    const place = axis.value === "calls" ? `${ui.format(mine)} network calls an image`
      : `about ${short(mine)} s an image where it was measured`;
    const other = nearest.evaluations === calls ? ", which"
      : `; the nearest that was measured, ${ui.format(nearest.evaluations)} calls,`;
    const measured = nearest.sampler === sampler
      ? `${other} has a Fréchet distance of ${ui.format(nearest.value)} (${ui.format(nearest.low)} to ${ui.format(nearest.high)}).`
      : ", a sampler that has not been measured for this run.";
    finding.textContent = [
      `With ${sampler} you are at ${place}${measured}`,
      guided && "Guidance, which calls the network twice, changes the samples and was not measured.",
      seconds && `On this page an image took ${short(seconds)} s, with ${n} at once.`,
    ].filter(Boolean).join(" ");
  }

  const redraw = () => draw();
  document.addEventListener("theme", redraw, { signal: tools.signal });
  addEventListener("resize", redraw, { signal: tools.signal });
  return {
    element, show,
    here(place) { here = { ...here, ...place }; draw(); },
  };
}
