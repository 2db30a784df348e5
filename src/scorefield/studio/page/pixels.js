// Images on canvases: one pixel of the canvas for one of the image, enlarged by CSS.

const MAX_BYTES = 192 * 2 ** 20; // of the states that a view keeps

/** Put image i of bytes [n, height, width, channels] at a place of a canvas. */
export function putImage(canvas, bytes, i = 0, left = 0, top = 0) {
  const [height, width, channels] = bytes.shape.slice(-3);
  const pixels = new ImageData(width, height);
  const offset = i * height * width * channels;
  for (let p = 0; p < height * width; p++) {
    for (let c = 0; c < 3; c++) {
      pixels.data[4 * p + c] = bytes[offset + p * channels + (channels === 3 ? c : 0)];
    }
    pixels.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, left, top);
}

/** Set a canvas's size in pixels of the image, and on the page about `wide` CSS pixels. */
export function resize(canvas, width, height, wide) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  canvas.style.width = `${width * Math.max(1, Math.floor(wide / width))}px`;
}

/** Return the CSS pixels that an element has for a picture, `most` at most and while it is hidden. */
export const roomIn = (element, most) => Math.min(most, element.clientWidth || most);

/** The place of cell i among n, as near to a square as it gets. */
export function layout(n, height, width, columns = Math.ceil(Math.sqrt(n))) {
  const rows = Math.ceil(n / columns);
  return {
    columns, rows,
    width: columns * (width + 1) - 1,
    height: rows * (height + 1) - 1,
    place: (i) => [(i % columns) * (width + 1), Math.floor(i / columns) * (height + 1)],
  };
}

/** Draw all images side by side, a pixel apart. */
export function drawGrid(canvas, bytes, wide, columns) {
  const [n, height, width] = bytes.shape;
  const grid = layout(n, height, width, columns);
  resize(canvas, grid.width, grid.height, wide);
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < n; i++) putImage(canvas, bytes, i, ...grid.place(i));
  return grid;
}

/** Draw one image. */
export function drawImage(canvas, bytes, wide, i = 0) {
  const [height, width] = bytes.shape.slice(-3);
  resize(canvas, width, height, wide);
  putImage(canvas, bytes, i);
}

/** Draw a map of numbers [height, width] from dark (0) to bright (the largest), which is returned. */
export function drawMap(canvas, values, wide) {
  const [height, width] = values.shape;
  resize(canvas, width, height, wide);
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  const pixels = new ImageData(width, height);
  const stops = [[11, 17, 24], [0, 114, 178], [240, 228, 66]];
  values.forEach((value, p) => {
    const t = (2 * value) / (most || 1);
    const [low, high] = t < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    const share = t < 1 ? t : t - 1;
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = low[c] + share * (high[c] - low[c]);
    pixels.data[4 * p + 3] = 255;
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return most;
}

/** The pixel of a canvas under a pointer. */
export function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left - canvas.clientLeft) / canvas.clientWidth) * canvas.width);
  const y = Math.floor(((event.clientY - box.top - canvas.clientTop) / canvas.clientHeight) * canvas.height);
  return [Math.min(Math.max(x, 0), canvas.width - 1), Math.min(Math.max(y, 0), canvas.height - 1)];
}

/** Move a frame over a part of a canvas in the same box. */
export function moveCursor(cursor, canvas, left, top, width, height) {
  cursor.hidden = false;
  cursor.style.left = `${(100 * left) / canvas.width}%`;
  cursor.style.top = `${(100 * top) / canvas.height}%`;
  cursor.style.width = `${(100 * width) / canvas.width}%`;
  cursor.style.height = `${(100 * height) / canvas.height}%`;
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Print what becomes of a job, unless a later one prints here; `over` is called at its end. */
export function follow(status, doing, over) {
  let said = "";
  const own = status.last = Symbol(doing);
  const say = (text) => {
    if (status.last !== own) return; // the later one may have been refused: its error stays
    said = text;
    status.say(text);
  };
  return (message) => {
    if (message.status === "queued") say("Waiting");
    else if (message.status === "running") say(doing);
    else {
      if (message.status === "error") status.say(message.message, true);
      else if (message.status === "cancelled") status.say("Stopped");
      // the end of one job may arrive after the error of another
      else if (status.element.textContent === said) status.say("");
      over?.(message.status);
    }
  };
}

/** Return the states with one more; if they are too large to keep, every other one is left out. */
export function keepState(frames, frame) {
  const size = Object.values(frame).reduce((sum, value) => sum + (value?.byteLength ?? 0), 0);
  const longer = [...frames, frame];
  if (longer.length <= Math.max(8, Math.floor(MAX_BYTES / size))) return longer;
  return longer.filter((_, i) => i % 2 === 1 || i === longer.length - 1);
}
