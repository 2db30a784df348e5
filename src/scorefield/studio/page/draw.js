/**
 * Drawing on a canvas: densities, contours, arrows, particles, axes, bars and curves.
 *
 * The file imports nothing and reads nothing but its arguments: a page includes it as a module or
 * inside one. A `frame` maps a rectangle of the plane to the pixels of a canvas.
 */

/** Colours of light and dark pages; both series are distinct to the colour-blind. */
export const COLOURS = {
  light: {
    paper: "#ffffff",
    ink: "#1d2330",
    muted: "#596273",
    line: "#d9dde4",
    first: "#0072b2",
    second: "#a35f00",
    arrow: "rgba(70, 82, 96, 0.55)",
    shades: ["#eef1f4", "#dfe5ea", "#cbd4dc"],
    contour: "#a9b5c0",
  },
  dark: {
    paper: "#14171d",
    ink: "#e6e9ef",
    muted: "#a0a9b8",
    line: "#343b48",
    first: "#56b4e9",
    second: "#e69f00",
    arrow: "rgba(170, 184, 198, 0.5)",
    shades: ["#1d272f", "#2a3945", "#3b5162"],
    contour: "#5c7286",
  },
};

/** Dark blue, grey and yellow of rising lightness, readable with any colour vision. */
const SEQUENTIAL = [
  [0, 32, 76],
  [65, 77, 107],
  [124, 123, 120],
  [188, 175, 111],
  [255, 234, 70],
];

/** Return the colour of a share from 0 to 1, as red, green and blue. */
export function sequential(share) {
  const place = Math.min(Math.max(share, 0), 1) * (SEQUENTIAL.length - 1);
  const below = Math.min(Math.floor(place), SEQUENTIAL.length - 2);
  const rest = place - below;
  return SEQUENTIAL[below].map((c, i) => Math.round(c + rest * (SEQUENTIAL[below + 1][i] - c)));
}

/** Give a canvas the pixels of its size on the page, and return its context in those of CSS. */
export function fitCanvas(canvas, ratio) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const across = Math.round(width * ratio);
  const down = Math.round(height * ratio);
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

/** Return the map between a rectangle of the plane and a rectangle of pixels, with y upwards. */
export function makeFrame([left, right], [bottom, top], { width, height, x = 0, y = 0 }) {
  const across = width / (right - left);
  const up = height / (top - bottom);
  return {
    left, right, bottom, top, x, y, width, height, across, up,
    toX: (value) => x + (value - left) * across,
    toY: (value) => y + height - (value - bottom) * up,
    fromX: (pixel) => left + (pixel - x) / across,
    fromY: (pixel) => bottom + (y + height - pixel) / up,
  };
}

/** Return n coordinates evenly spaced from low to high, with both ends. */
export function spaced(low, high, n) {
  return Float64Array.from({ length: n }, (_, i) => low + ((high - low) * i) / (n - 1));
}

/** Return the densities above which lie the shares of the mass, such as 0.5 and 0.9. */
export function massLevels(density, masses) {
  const falling = Float64Array.from(density).sort().reverse();
  const total = falling.reduce((sum, value) => sum + value, 0);
  return masses.map((mass) => {
    let sum = 0;
    let i = 0;
    while (i < falling.length - 1 && sum + falling[i] < mass * total) sum += falling[i++];
    return falling[i];
  });
}

/**
 * Return the contour of a level as segments [x₁, y₁, x₂, y₂], by marching squares.
 *
 * `values` has a row for each of ys and a column for each of xs. In a cell with two opposite
 * corners above the level, the mean of the corners decides which of them are joined.
 */
export function contour(values, xs, ys, level) {
  const segments = [];
  const columns = xs.length;
  for (let j = 0; j + 1 < ys.length; j++) {
    for (let i = 0; i + 1 < columns; i++) {
      const at = j * columns + i;
      const inside = (values[at] > level) + (values[at + 1] > level)
        + (values[at + columns] > level) + (values[at + columns + 1] > level);
      if (inside === 0 || inside === 4) continue;
      const corners = [values[at], values[at + 1], values[at + columns + 1], values[at + columns]];
      const above = corners.map((value) => value > level);
      const px = [xs[i], xs[i + 1], xs[i + 1], xs[i]];
      const py = [ys[j], ys[j], ys[j + 1], ys[j + 1]];
      const crossings = [];
      for (let edge = 0; edge < 4; edge++) {
        const next = (edge + 1) % 4;
        if (above[edge] === above[next]) continue;
        const share = (level - corners[edge]) / (corners[next] - corners[edge]);
        crossings.push([
          px[edge] + share * (px[next] - px[edge]),
          py[edge] + share * (py[next] - py[edge]),
        ]);
      }
      if (crossings.length === 4) {
        const middle = corners.reduce((sum, value) => sum + value, 0) / 4 > level;
        if (middle === above[0]) crossings.push(crossings.shift());
      }
      for (let k = 0; k < crossings.length; k += 2) {
        segments.push([...crossings[k], ...crossings[k + 1]]);
      }
    }
  }
  return segments;
}

/** Return a colour such as #0072b2 as an opaque pixel of an image. */
function opaquePixel(hex) {
  const bytes = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return new Uint32Array(Uint8Array.from([...bytes, 255]).buffer)[0];
}

/** Fill the pixels of a frame with the shade of the highest level that their value exceeds. */
function shadeRegions(context, frame, values, columns, rows, levels, shades) {
  const width = Math.ceil(frame.width);
  const height = Math.ceil(frame.height);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = shades.map(opaquePixel);
  for (let py = 0; py < height; py++) {
    const row = Math.min(((height - py - 0.5) / height) * (rows - 1), rows - 1.001);
    const j = Math.floor(row);
    const up = row - j;
    for (let px = 0; px < width; px++) {
      const column = Math.min(((px + 0.5) / width) * (columns - 1), columns - 1.001);
      const i = Math.floor(column);
      const right = column - i;
      const at = j * columns + i;
      const below = values[at] + right * (values[at + 1] - values[at]);
      const above = values[at + columns] + right * (values[at + columns + 1] - values[at + columns]);
      const value = below + up * (above - below);
      if (value <= levels[0]) continue;
      pixels[py * width + px] = colours[(value > levels[1]) + (value > levels[2])];
    }
  }
  const layer = new OffscreenCanvas(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(layer, frame.x, frame.y, frame.width, frame.height);
}

/**
 * Shade the regions that hold 99, 90 and 50 % of the mass, and draw their contours.
 *
 * xs and ys are evenly spaced over the whole frame, with its ends.
 */
export function drawDensity(context, frame, density, xs, ys, colours) {
  const levels = massLevels(density, [0.99, 0.9, 0.5]);
  shadeRegions(context, frame, density, xs.length, ys.length, levels, colours.shades);
  context.strokeStyle = colours.contour;
  context.lineWidth = 1;
  context.beginPath();
  for (const level of levels) {
    for (const [x1, y1, x2, y2] of contour(density, xs, ys, level)) {
      context.moveTo(frame.toX(x1), frame.toY(y1));
      context.lineTo(frame.toX(x2), frame.toY(y2));
    }
  }
  context.stroke();
}

/** Return the n × n points of a lattice in the middle of equal cells, as rows (x, y). */
export function arrowPoints(frame, n) {
  const points = new Float64Array(2 * n * n);
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < n; i++) {
      points[2 * (j * n + i)] = frame.left + ((i + 0.5) / n) * (frame.right - frame.left);
      points[2 * (j * n + i) + 1] = frame.bottom + ((j + 0.5) / n) * (frame.top - frame.bottom);
    }
  }
  return points;
}

/** Draw arrows of one length along the vectors at the points: of a score, directions count. */
export function drawArrows(context, frame, points, vectors, length, colour) {
  context.strokeStyle = colour;
  context.fillStyle = colour;
  context.lineWidth = 1.2;
  for (let at = 0; at < points.length; at += 2) {
    const size = Math.hypot(vectors[at], vectors[at + 1]);
    if (!(size > 0) || !Number.isFinite(size)) continue;
    const [dx, dy] = [vectors[at] / size, -vectors[at + 1] / size];
    const [x, y] = [frame.toX(points[at]), frame.toY(points[at + 1])];
    const [endX, endY] = [x + (dx * length) / 2, y + (dy * length) / 2];
    const head = length / 3.2;
    context.beginPath();
    context.moveTo(x - (dx * length) / 2, y - (dy * length) / 2);
    context.lineTo(endX - dx * head, endY - dy * head);
    context.stroke();
    context.beginPath();
    context.moveTo(endX, endY);
    context.lineTo(endX - dx * head - dy * head * 0.45, endY - dy * head + dx * head * 0.45);
    context.lineTo(endX - dx * head + dy * head * 0.45, endY - dy * head - dx * head * 0.45);
    context.fill();
  }
}

/** Draw the particles of flat rows (x, y); those that are not finite are left out. */
export function drawParticles(context, frame, x, colour, size) {
  context.fillStyle = colour;
  for (let at = 0; at < x.length; at += 2) {
    const [px, py] = [frame.toX(x[at]), frame.toY(x[at + 1])];
    if (Number.isFinite(px + py)) context.fillRect(px - size / 2, py - size / 2, size, size);
  }
}

/** Write 1, 2, … at the points of flat rows (x, y), over particles that lie there. */
export function drawNumbers(context, frame, points, colours) {
  context.font = "bold 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 4;
  context.strokeStyle = colours.paper;
  context.fillStyle = colours.ink;
  for (let at = 0; at < points.length; at += 2) {
    const place = [String(at / 2 + 1), frame.toX(points[at]), frame.toY(points[at + 1])];
    context.strokeText(...place);
    context.fillText(...place);
  }
}

/** Return round numbers from low to high, at most `most` of them. */
export function roundTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
  return ticks;
}

/** Draw the frame's outline, with numbers at round values inside its lower and left sides. */
export function drawAxes(context, frame, colours) {
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.strokeRect(frame.x + 0.5, frame.y + 0.5, frame.width - 1, frame.height - 1);
  context.fillStyle = colours.muted;
  context.font = "11px system-ui, sans-serif";
  const label = (value) => String(Math.round(value * 1000) / 1000).replace("-", "−");
  // a rim of the paper's colour, because arrows pass below the numbers
  const write = (value, x, y) => {
    context.strokeStyle = colours.paper;
    context.lineWidth = 3;
    context.strokeText(label(value), x, y);
    context.fillText(label(value), x, y);
  };
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  const inside = (value, low, high) => (
    value > low + 0.06 * (high - low) && value < high - 0.04 * (high - low)
  );
  for (const tick of roundTicks(frame.left, frame.right, 6)) {
    if (!inside(tick, frame.left, frame.right)) continue;
    write(tick, frame.toX(tick), frame.y + frame.height - 6);
  }
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const tick of roundTicks(frame.bottom, frame.top, 6)) {
    if (!inside(tick, frame.bottom, frame.top)) continue;
    write(tick, frame.x + 6, frame.toY(tick));
  }
}

/** Draw values from 0 to 1 in the middles of n × n cells, row by row from below, in one scale. */
export function drawHeat(context, frame, values, n) {
  const image = new ImageData(n, n);
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < n; i++) {
      image.data.set([...sequential(values[j * n + i]), 255], 4 * ((n - 1 - j) * n + i));
    }
  }
  const layer = new OffscreenCanvas(n, n);
  layer.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, frame.x, frame.y, frame.width, frame.height);
}

/**
 * Draw the share of each mode as a bar, its interval as a line, and the truth as a dash across.
 *
 * `modes` has {share, low, high} of each, `truth` the weights, all from 0 to 1.
 */
export function drawShares(context, frame, modes, truth, colour, colours) {
  const slot = frame.width / truth.length;
  const bar = Math.min(slot * 0.5, 48);
  context.lineWidth = 1;
  context.strokeStyle = colours.line;
  context.beginPath();
  context.moveTo(frame.x, frame.toY(0) - 0.5);
  context.lineTo(frame.x + frame.width, frame.toY(0) - 0.5);
  context.stroke();
  truth.forEach((weight, k) => {
    const middle = frame.x + (k + 0.5) * slot;
    const mode = modes[k];
    if (mode) {
      context.globalAlpha = 0.45;
      context.fillStyle = colour;
      const height = frame.toY(0) - frame.toY(mode.share);
      context.fillRect(middle - bar / 2, frame.toY(mode.share), bar, height);
      context.globalAlpha = 1;
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(middle, frame.toY(mode.low));
      context.lineTo(middle, frame.toY(mode.high));
      context.stroke();
    }
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(middle - bar * 0.7, frame.toY(weight));
    context.lineTo(middle + bar * 0.7, frame.toY(weight));
    context.stroke();
  });
}

/** Draw a curve through points [x, y]. */
export function drawCurve(context, frame, points, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  points.forEach(([x, y], i) => {
    if (i === 0) context.moveTo(frame.toX(x), frame.toY(y));
    else context.lineTo(frame.toX(x), frame.toY(y));
  });
  context.stroke();
}
