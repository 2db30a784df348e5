// Particles over time: the states that have arrived, which of them is shown, and its controls.

import * as ui from "./ui.js";

const PLAY_SECONDS = 4;
const SLOWEST = 4; // frames a second of a sampler of few steps
const FASTEST = 30;
const SPEEDS = [[0.25, "¼ ×"], [0.5, "½ ×"], [1, "1 ×"], [2, "2 ×"], [4, "4 ×"]];

/**
 * Return the player; `onshow()` draws what `shown()` returns, or that there is nothing, `onuse()` is
 * called before it plays or is scrubbed, and `onmove(frame, speed)` as the frame or the speed changes,
 * with null if there is nothing.
 */
export function makePlayer({ speed: firstSpeed, onshow, onuse, onmove }) {
  let frames = []; // {header, first, second, …}
  let position = 0; // of the frame that is shown; it has a fraction between two
  let total = 0; // of the last frame, also where it has not arrived yet
  let goal = null; // a frame to show when it arrives
  let playing = false;
  let last = null; // time of the last tick
  let request = null;

  const playButton = ui.button({ label: "Play", onclick: () => (playing ? stop() : play()) });
  const saveButton = ui.button({ label: "Save particles", onclick: save });
  const speed = ui.select({ label: "Speed", options: SPEEDS, value: SPEEDS.some(([times]) => times === firstSpeed) ? firstSpeed : 1, onchange: tell });
  const scrubber = ui.h("input", { type: "range", min: 0, max: 1, value: 0, "aria-label": "Time" });
  scrubber.addEventListener("input", () => {
    pause();
    goal = null;
    onuse();
    show(Math.min(Number(scrubber.value), frames.length - 1));
  });
  scrubber.addEventListener("change", tell);

  /** Take the next frame, and show it if it is the first or the one to show. */
  function add(frame) {
    frames.push(frame);
    if (frames.length === 1) {
      setTotal(frame.header.frames);
      fillControls();
      show(0);
      if (goal === 0) goal = null;
      tell();
    } else if (frames.length - 1 === goal) rest(goal);
  }

  function rest(index) {
    goal = null;
    show(index);
    tell();
  }

  function tell() {
    onmove(goal ?? (frames.length ? Math.floor(position) : null), speed.value);
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
    goal = null;
    onuse();
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
    if (Math.floor(next) !== Math.floor(position)) {
      show(next);
      tell();
    }
    position = next;
    if (position >= total) stop();
  }

  function stop() {
    pause();
    tell();
  }

  function forget() {
    frames = [];
    position = 0;
    goal = null;
    stop();
    onshow();
  }

  /** Take no more frames: none will follow. */
  function close() {
    setTotal(Math.max(0, frames.length - 1));
    if (!frames.length) pause();
    if (goal !== null) rest(total);
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
    close,
    showLast: () => frames.length && rest(frames.length - 1),
    seek(frame) { goal = frame; tell(); },
    count: () => frames.length,
    time: () => position,
  };
}
