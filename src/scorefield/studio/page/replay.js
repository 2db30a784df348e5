// A replay: one HTML file with pictures of the frames and a scrubber, which needs no studio.

import { h } from "./ui.js";

const MAX_PICTURES = 400;
const MAX_FILE = 24 * 2 ** 20; // bytes of pictures in the file

/** Return the text of the file; `replay` has a view's frames: {count(), show(i) -> caption}. */
export function makeReplay({ title, replay, root, address }) {
  const canvases = [...root.querySelectorAll("canvas")]
    .filter((canvas) => canvas.offsetParent && canvas.width);
  const pictures = [];
  let bytes = 0;
  const stride = Math.ceil(replay.count() / MAX_PICTURES);
  const last = replay.count() - 1;
  for (let i = last % stride; i <= last; i += stride) {
    const caption = replay.show(i);
    const urls = canvases.map((canvas) => flatten(canvas).toDataURL("image/webp", 0.9));
    bytes += urls.reduce((sum, url) => sum + url.length, 0);
    if (bytes > MAX_FILE) break;
    pictures.push({ urls, caption });
  }
  const images = canvases.map((canvas) => {
    const label = escapeHtml(canvas.getAttribute("aria-label") ?? "");
    const scaling = getComputedStyle(canvas).imageRendering;
    return `<img alt="${label}" style="width: ${canvas.clientWidth}px; image-rendering: ${scaling}">`;
  });
  return page(title, address, images.join(""), pictures);
}

/** Offer a file for download. */
export function download(name, content, type = "text/html") {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Return a canvas over the page's colour, because its own background may be transparent. */
function flatten(canvas) {
  const flat = h("canvas");
  flat.width = canvas.width;
  flat.height = canvas.height;
  const pen = flat.getContext("2d");
  pen.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  pen.fillRect(0, 0, flat.width, flat.height);
  pen.drawImage(canvas, 0, 0);
  return flat;
}

const escapeHtml = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function page(title, address, images, pictures) {
  const dark = document.documentElement.dataset.theme === "dark";
  const [paper, ink] = dark ? ["#14171d", "#e6e9ef"] : ["#ffffff", "#1d2330"];
  const data = JSON.stringify(pictures).replaceAll("<", "\\u003c");
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: ${ink}; background: ${paper}; margin: 2rem auto;
       max-width: 90rem; padding: 0 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } img { max-width: 100%; }
.bar { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin: 1rem 0; } input { flex: 1; }
output { min-width: 12rem; font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<div class="pictures">${images}</div>
<div class="bar"><button type="button">Play</button>
<input type="range" aria-label="Frame" min="0" max="${pictures.length - 1}" value="0"><output></output></div>
<p>Recorded in the scorefield studio at <code>${escapeHtml(address)}</code></p>
<script>
const frames = ${data};
const [range, text, play] = ["input", "output", "button"].map((name) => document.querySelector(name));
const show = () => {
  const frame = frames[range.value];
  document.querySelectorAll("img").forEach((image, i) => { image.src = frame.urls[i] ?? ""; });
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
