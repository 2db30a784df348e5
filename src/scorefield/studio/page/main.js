// The shell: views by the address, whose part after # holds the state of the page.

import { showCode } from "./code.js";
import images from "./images.js";
import plane from "./plane.js";
import { download, makeReplay } from "./replay.js";
import restore from "./restore.js";
import runs from "./runs.js";
import * as ui from "./ui.js";
import { connect, ofRun, run, watch, watchQueue } from "./wire.js";

const VIEWS = [plane, images, restore, runs];
const WRITE_EVERY = 250; // milliseconds; browsers ignore changes of the address that are more frequent

const main = document.querySelector("main");
let shown = null; // {view, state, hash, root, life, handle}; life is aborted as the view is left
let pause = null; // timer of the time in which the address is not written again
let stale = false; // the address is not that of the state

/** Return the view and its state from the address. */
function readAddress() {
  const [name, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS.find((candidate) => candidate.name === name) ?? VIEWS[0];
  return [view, Object.fromEntries(new URLSearchParams(query))];
}

/** Keep a change of the view's state in the address; null removes a value. */
function setState(patch) {
  for (const [name, value] of Object.entries(patch)) {
    if (Number.isNaN(value)) continue; // a field that is empty or wrong
    if (value == null) delete shown.state[name];
    else shown.state[name] = String(value);
  }
  stale = true;
  if (pause === null) writeAddress();
}

/** Return true unless another address is about to be shown. */
const isCurrent = () => location.hash === shown.hash;

/** Write the address at once if it is stale; later changes wait until the pause ends. */
function writeAddress() {
  if (stale && isCurrent()) {
    history.replaceState(null, "", makeAddress());
    shown.hash = location.hash;
    links.get(shown.view).href = makeAddress(); // it leads back to the view as it was
  }
  clearTimeout(pause);
  pause = stale ? setTimeout(() => { pause = null; writeAddress(); }, WRITE_EVERY) : null;
  stale = false;
}

/** Take the last address of the page at a reload, which asks for the one that was written as it began. */
function takeLateAddress() {
  const late = sessionStorage.getItem("address");
  sessionStorage.removeItem("address");
  const [{ type }] = performance.getEntriesByType("navigation");
  if (late && type === "reload") history.replaceState(null, "", late);
}

/** Return the address of the view that is shown, with `state`. */
function makeAddress(state = shown.state) {
  const query = new URLSearchParams(state).toString();
  return `#/${shown.view.name}${query && `?${query}`}`;
}

function show() {
  const [view, state] = readAddress();
  stale = false; // a change that waits was of another address
  shown?.life.abort();
  const root = ui.h("div", {}, ui.h("h2", {}, view.title));
  shown = { view, state, hash: location.hash, root, life: new AbortController(), handle: null };
  document.title = `${view.title} – scorefield studio`;
  links.get(view).href = makeAddress();
  for (const [other, link] of links) {
    if (other === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(root);
  copyButton.disabled = true;
  replayButton.hidden = true;
  const tools = makeTools(shown);
  if (view.description) describe(shown, tools);
  else mount(shown, tools);
}

/**
 * Return what a view may use. When it is left, its jobs end, it changes the address no more, and
 * what it still draws is drawn in its own element, which is no longer on the page.
 */
function makeTools(own) {
  const { signal } = own.life;
  return {
    ui, theme, signal,
    run: (job, settings, handlers) => start(job, settings, { ...handlers, signal }),
    copy: (asked) => copy(own, asked),
    setState: (patch) => signal.aborted || setState(patch),
    state: () => ({ ...own.state }),
  };
}

/** Mount a view once the studio has described the model, or say why it cannot be used. */
function describe(own, tools) {
  const { element, say } = ui.status();
  say("Reading the model");
  own.root.append(element);
  tools.run(own.view.description, {}, {
    frame(model) {
      element.remove();
      mount(own, tools, model);
    },
    status: ({ status, message }) => status === "error" && element.replaceWith(...ui.refusal(message)),
  });
}

function mount(own, tools, model) {
  own.handle = own.view.mount(own.root, { ...own.state }, tools, model);
  copyButton.disabled = false;
  replayButton.hidden = !own.handle.replay;
}

async function exportReplay() {
  const { view, root, life, handle: { replay } } = shown;
  if (replay.count() === 0) {
    ui.dialog("Export HTML", ui.h("p", {}, replay.empty ?? "There is nothing to replay yet: let this view compute something first."));
    return;
  }
  const title = `${view.title} – scorefield`;
  const address = makeAddress(replay.state?.());
  replayButton.disabled = true;
  try {
    const text = await makeReplay({ title, replay, root, address, signal: life.signal });
    download(`scorefield-${view.name}.html`, text);
  } catch (error) {
    if (!life.signal.aborted) ui.dialog("Export HTML", ui.h("p", {}, error.message));
  } finally {
    replayButton.disabled = false;
  }
}

/** Start a job, unless a field that it takes is empty or wrong: then this is its error. */
function start(job, settings, handlers) {
  const message = ui.findProblem(settings, main);
  if (!message) return run(job, settings, handlers);
  queueMicrotask(() => handlers.status?.({ status: "error", message })); // as late as the studio's
  return { cancel() {} };
}

/** Show the code of {job, settings}, by default of what a view shows. */
function copy({ root, life, handle }, { job, settings } = handle.settings()) {
  const message = ui.findProblem(settings, root);
  if (message) return ui.dialog("The same as code", ui.h("p", {}, message));
  return showCode(job, settings, life.signal);
}

function theme() {
  return document.documentElement.dataset.theme;
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themeButton.textContent = name === "dark" ? "Light" : "Dark";
  document.dispatchEvent(new Event("theme"));
}

const about = fetch(ofRun("about.json")).then(async (answer) => (
  answer.ok ? answer.json() : { run: null, error: await answer.text() }
));
const copyButton = ui.button({ label: "Copy as code", onclick: () => copy(shown) });
const replayButton = ui.button({ label: "Export HTML", title: "Save what was computed as one file with a scrubber", onclick: exportReplay });
const themeButton = ui.button({
  label: "", kind: "quiet", title: "Switch between light and dark",
  onclick: () => {
    const name = theme() === "dark" ? "light" : "dark";
    localStorage.setItem("theme", name);
    setTheme(name);
  },
});
document.querySelector(".tools").append(copyButton, replayButton, themeButton);
const links = new Map(VIEWS.map((view) => [view, ui.h("a", { href: `#/${view.name}` }, view.title)]));
document.querySelector("nav").append(...links.values());

const dark = matchMedia("(prefers-color-scheme: dark)");
const preferred = () => localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(preferred()));
setTheme(preferred());
document.querySelector(".skip").addEventListener("click", () => {
  (main.querySelector("button.primary") ?? main).focus();
});
addEventListener("hashchange", show);
// these are rare, and a link or a reload may come next, which takes what has been written
for (const event of ["click", "pointerup"]) addEventListener(event, writeAddress);
addEventListener("change", (event) => event.target.matches("select") && writeAddress());
addEventListener("pagehide", () => isCurrent() && sessionStorage.setItem("address", makeAddress()));
takeLateAddress();
show();

watch((open) => {
  const connection = document.querySelector("#connection");
  connection.textContent = open ? "Connected" : "Not connected: is the studio still running?";
  connection.classList.toggle("error", !open);
});
watchQueue((ahead) => {
  const others = ahead === 1 ? "another page is computing, you are next" : `${ahead} computations of other pages come first`;
  document.querySelector("#queue").textContent = ahead ? `Waiting: ${others}` : "";
});
connect();
about.then(({ run: place, error }) => {
  document.querySelector("#model").textContent = error ?? (place ? `Model: ${place}` : "No model is open");
});
