// A replay: one HTML file with pictures of the frames and a scrubber, which needs no studio.

import { h } from "./ui.js";

const MAX_FRAMES = 400;
const MAX_FILE = 24 * 2 ** 20; // bytes of pictures in the file, about
const MAX_EXACT = 2 ** 15; // pixels of a picture without loss

/**
 * Return the text of the file, or fail once `signal` is aborted. `replay` has a view's frames:
 * `count()`, and `show(i)`, which draws one and returns its caption, or a promise of it. Where a view
 * has `keep()`, it returns a function that shows again what was shown before.
 */
export async function makeReplay(options) {
  const { replay, root } = options;
  const goBack = replay.keep?.();
  root.inert = true; // another computation would mix its frames with these
  try {
    return await record(options);
  } finally {
    root.inert = false;
    goBack?.();
  }
}

async function record({ title, replay, root, address, signal }) {
  const count = replay.count();
  await replay.show(count - 1); // with which all pictures are shown
  const sources = [...root.querySelectorAll("canvas, img")]
    .filter((source) => source.offsetParent && sizeOf(source)[0]);
  await replay.show(0);
  const cost = sources.map(encode).join("").length; // the noise of the first is the most costly
  const stride = Math.ceil(count / Math.min(MAX_FRAMES, Math.max(2, MAX_FILE / cost)));
  const pictures = new Map(); // numbers by their URL, because some pictures do not change
  const frames = [];
  for (let i = (count - 1) % stride; i < count; i += stride) {
    await nextTask();
    signal.throwIfAborted();
    if (replay.count() < count) throw new Error("What is shown has changed meanwhile: export it again");
    const caption = await replay.show(i);
    const urls = sources.map(encode);
    for (const url of urls) if (!pictures.has(url)) pictures.set(url, pictures.size);
    frames.push({ shown: urls.map((url) => pictures.get(url)), caption });
  }
  const images = sources.map((source) => {
    const label = source.getAttribute("aria-label") ?? source.alt;
    const caption = source.dataset.caption ?? label.replace(/: .*/, ""); // the rest is of keys
    const scaling = getComputedStyle(source).imageRendering;
    return `<figure><img alt="${escapeHtml(label)}" style="width: ${source.clientWidth}px; image-rendering: ${scaling}">
<figcaption>${escapeHtml(caption)}</figcaption></figure>`;
  });
  return page(title, address, images.join(""), { frames, pictures: [...pictures.keys()] });
}

/** Let the page do what waits, such as leaving the view; a timer would be slow in a hidden page. */
function nextTask() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(null);
  });
}

/** Offer a file for download. */
export function download(name, content, type = "text/html") {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const sizeOf = (source) => (
  source instanceof HTMLImageElement ? [source.naturalWidth, source.naturalHeight] : [source.width, source.height]);

/** Return a picture as a URL, over the page's colour, because it may be transparent. */
function encode(source) {
  const flat = h("canvas");
  [flat.width, flat.height] = sizeOf(source);
  const pen = flat.getContext("2d");
  pen.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  pen.fillRect(0, 0, flat.width, flat.height);
  pen.drawImage(source, 0, 0);
  const exact = flat.width * flat.height <= MAX_EXACT;
  return exact ? flat.toDataURL("image/png") : flat.toDataURL("image/webp", 0.9);
}

const escapeHtml = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function page(title, address, images, record) {
  const dark = document.documentElement.dataset.theme === "dark";
  const [paper, ink] = dark ? ["#14171d", "#e6e9ef"] : ["#ffffff", "#1d2330"];
  const alone = record.frames.length > 1 ? "" : " hidden";
  const data = JSON.stringify(record).replaceAll("<", "\\u003c");
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title>
<style>
:root { color-scheme: ${dark ? "dark" : "light"}; }
body { font: 16px/1.5 system-ui, sans-serif; color: ${ink}; background: ${paper}; margin: 2rem auto;
       max-width: 90rem; padding: 0 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } img { max-width: 100%; }
figure { margin: 0; } figcaption { font-size: 0.85rem; opacity: 0.75; } [hidden] { display: none; }
.bar { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin: 1rem 0; } input { flex: 1; }
output { min-width: 12rem; font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<div class="pictures">${images}</div>
<div class="bar"><button type="button"${alone}>Play</button>
<input type="range"${alone} aria-label="Frame" min="0" max="${record.frames.length - 1}" value="0"><output></output></div>
<p>Recorded in the scorefield studio at <code>${escapeHtml(address)}</code></p>
<script>
const { frames, pictures } = ${data};
const [range, text, play] = ["input", "output", "button"].map((name) => document.querySelector(name));
const show = () => {
  const frame = frames[range.value];
  document.querySelectorAll("img").forEach((image, i) => { image.src = pictures[frame.shown[i]]; });
  text.textContent = "frame " + (Number(range.value) + 1) + " of " + frames.length + (frame.caption && ": " + frame.caption);
};
let timer = null;
const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
range.addEventListener("input", () => { stop(); show(); });
play.addEventListener("click", () => {
  if (timer) { stop(); return; }
  if (Number(range.value) === frames.length - 1) range.value = 0;
  play.textContent = "Pause";
  timer = setInterval(() => {
    if (Number(range.value) >= frames.length - 1) { stop(); return; }
    range.value = Number(range.value) + 1;
    show();
  }, 66);
});
show();
</script>
</body>
</html>
`;
}
