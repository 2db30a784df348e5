// Particles over time: the states that have arrived, which of them is shown, and its controls.

import * as ui from "./ui.js";

const PLAY_SECONDS = 4;
const SLOWEST = 4; // frames a second of a sampler of few steps
const FASTEST = 30;
const SPEEDS = [[0.25, "¼ ×"], [0.5, "½ ×"], [1, "1 ×"], [2, "2 ×"], [4, "4 ×"]];

/** Return the player; `onshow()` draws what `shown()` returns, or that there is nothing. */
export function makePlayer({ onshow }) {
  let frames = []; // {header, first, second, …}
  let position = 0; // of the frame that is shown; it has a fraction between two
  let total = 0; // of the last frame, also where it has not arrived yet
  let playing = false;
  let last = null; // time of the last tick
  let request = null;

  const playButton = ui.button({ label: "Play", onclick: () => (playing ? pause() : play()) });
  const saveButton = ui.button({ label: "Save particles", onclick: save });
  const speed = ui.select({ label: "Speed", options: SPEEDS, value: 1 });
  const scrubber = ui.h("input", { type: "range", min: 0, max: 1, value: 0, "aria-label": "Time" });
  scrubber.addEventListener("input", () => {
    pause();
    show(Math.min(Number(scrubber.value), frames.length - 1));
  });

  /** Take the next frame, and show it if it is the first. */
  function add(frame) {
    frames.push(frame);
    if (frames.length > 1) return;
    setTotal(frame.header.frames);
    fillControls();
    show(0);
  }

  function setTotal(number) {
    total = scrubber.max = number;
  }

  function show(index) {
    position = index;
    scrubber.value = Math.floor(index);
    onshow();
  }

  function play() {
    playing = true;
    if (frames.length && position >= total) position = 0;
    last = null;
    cancelAnimationFrame(request);
    request = requestAnimationFrame(advance);
    fillControls();
  }

  function pause() {
    playing = false;
    fillControls();
  }

  function advance(now) {
    if (!playing) return;
    request = requestAnimationFrame(advance);
    if (frames.length === 0) return;
    const rate = Math.min(FASTEST, Math.max(SLOWEST, total / PLAY_SECONDS)) * Number(speed.value);
    const elapsed = last === null ? 0 : Math.min(0.1, (now - last) / 1000);
    last = now;
    const next = Math.min(position + elapsed * rate, frames.length - 1);
    if (Math.floor(next) !== Math.floor(position)) show(next);
    position = next;
    if (position >= total) pause();
  }

  function forget() {
    frames = [];
    position = 0;
    pause();
    onshow();
  }

  function fillControls() {
    playButton.textContent = playing ? "Pause" : "Play";
    for (const control of [playButton, saveButton, scrubber]) control.disabled = !frames.length && !playing;
  }

  /** Save the particles that are shown, with all their digits. */
  function save() {
    const { first, second } = shown();
    const rows = ["first_x,first_y,second_x,second_y"];
    for (let i = 0; i < first.length; i += 2) {
      rows.push([first[i], first[i + 1], second[i], second[i + 1]].join(","));
    }
    const place = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "text/csv" }));
    ui.h("a", { href: place, download: "particles.csv" }).click();
    URL.revokeObjectURL(place);
  }

  const shown = () => frames[Math.floor(position)];
  fillControls();
  return {
    controls: [playButton, scrubber, speed.element, saveButton],
    add, show, play, pause, forget, shown,
    showLast: () => frames.length && show(frames.length - 1),
    close: () => setTotal(Math.max(0, frames.length - 1)), // no frame will follow
    count: () => frames.length,
  };
}
