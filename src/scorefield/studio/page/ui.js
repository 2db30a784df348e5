// Labelled native controls, so that keys, screen readers and tests find them by role and name.

let count = 0;

/** Return an element: attributes by name, `on…` as listeners, children as nodes or text. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/**
 * Give an element these children, and leave the parts that are as before in their place: a press on
 * a button continues, and the focus stays.
 */
export function update(parent, children) {
  children.forEach((child, i) => {
    const old = parent.children[i];
    if (!old) parent.append(child);
    else if (old.isEqualNode(child)) return;
    else if (child.children.length && old.cloneNode().isEqualNode(child.cloneNode())) update(old, [...child.children]);
    else old.replaceWith(child);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

/** A number in at most four digits, as people write it. */
export function format(value) {
  if (!Number.isFinite(value)) return String(value);
  return isLong(value) ? withExponent(value) : String(Number(value.toPrecision(4)));
}

/** The numbers of one axis, all of them with an exponent or none. */
export function formatTicks(values) {
  if (values.some(isLong)) return values.map(withExponent);
  return values.map((value) => String(Number(value.toPrecision(3))));
}

function isLong(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e5);
}

function withExponent(value) {
  return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
}

/** A slider with its value; `log` spaces values evenly in their logarithm. */
export function slider({ label, min, max, step, value, log = false, show = format, oninput }) {
  const steps = 400;
  const id = `control-${++count}`;
  const there = log ? (v) => (steps * Math.log(v / min)) / Math.log(max / min) : (v) => v;
  const back = log ? (p) => min * (max / min) ** (p / steps) : (p) => p;
  const range = log ? { min: 0, max: steps, step: 1 } : { min, max, step: step ?? (max - min) / steps };
  const output = h("output", { for: id });
  const input = h("input", { id, type: "range", ...range });
  let current = value;
  const print = () => {
    output.textContent = show(current);
    input.setAttribute("aria-valuetext", show(current));
  };
  input.addEventListener("input", () => {
    current = back(Number(input.value));
    print();
    oninput?.(current);
  });
  const element = control(label, id, input, output);
  const set = (v) => { current = Number(v); input.value = there(current); print(); };
  set(value);
  return { element, input, get value() { return current; }, set value(v) { set(v); } };
}

/** A choice; options are values, or pairs of value and title. An unknown value is the first one. */
export function select({ label, options, value, onchange }) {
  const id = `control-${++count}`;
  const input = h("select", { id });
  const fill = (choices) => input.replaceChildren(...choices.map((option) => {
    const [name, title] = Array.isArray(option) ? option : [option, option];
    return h("option", { value: name }, title);
  }));
  const choose = (wanted) => {
    input.value = wanted;
    if (input.selectedIndex < 0 && input.options.length) input.selectedIndex = 0;
  };
  fill(options);
  if (value != null) choose(value);
  input.addEventListener("change", () => onchange?.(input.value));
  return {
    element: control(label, id, input), input, fill,
    get value() { return input.value; }, set value(v) { choose(v); },
  };
}

/**
 * A field for a number, whose value is NaN while the field is empty or wrong, so that no job starts
 * with it; if it is `optional`, an empty one is null. What is being typed is not replaced.
 */
export function number({ label, min, max, step = 1, value, optional = false, onchange }) {
  const id = `control-${++count}`;
  const problem = h("div", { id: `${id}-problem`, class: "problem", "aria-live": "polite" });
  const input = h("input", {
    id, type: "number", min, max, step, value, required: !optional, "aria-describedby": problem.id,
  });
  const read = () => {
    if (!input.validity.valid) return NaN;
    return input.value === "" ? null : Number(input.value);
  };
  const rule = () => [
    label, ": give a ", step === 1 ? "whole number" : "number",
    input.max === "" ? ` of ${input.min} or more` : ` from ${input.min} to ${input.max}`,
    optional ? ", or nothing" : "",
  ].join("");
  const check = () => {
    const wrong = !input.validity.valid;
    input.setAttribute("aria-invalid", wrong);
    const text = wrong ? rule() : "";
    if (problem.textContent !== text) problem.textContent = text;
  };
  let typing = false;
  const end = () => { // also of the same number as before, which is no change
    if (!typing) return;
    typing = false;
    onchange?.(read());
  };
  input.addEventListener("input", () => {
    typing = true;
    check(); // at once: at a press it would move the button away
  });
  for (const event of ["change", "blur"]) input.addEventListener(event, end);
  input.addEventListener("keydown", (event) => event.key === "Enter" && end());
  check();
  const element = control(label, id, input);
  element.append(problem);
  return {
    element, input,
    get value() { return read(); },
    set value(v) {
      if (typing || Number.isNaN(v)) return; // what is wrong stays for its reader
      input.value = v ?? "";
      check();
    },
  };
}

/** Return what is wrong with settings of a view: the first field of it that is, or "". */
export function findProblem(settings, root) {
  const wrong = Object.keys(settings).find((name) => Number.isNaN(settings[name]));
  if (wrong === undefined) return "";
  const problem = root.querySelector(".problem:not(:empty)"); // none of a slider
  return problem?.textContent ?? `${wrong}: give a number`;
}

/** A field for text. */
export function text({ label, value = "", onchange, ...attributes }) {
  const id = `control-${++count}`;
  const input = h("input", { id, type: "text", value, ...attributes });
  input.addEventListener("change", () => input.reportValidity() && onchange?.(input.value));
  return {
    element: control(label, id, input), input,
    get value() { return input.value; }, set value(v) { input.value = v; },
  };
}

/** A switch. */
export function checkbox({ label, value = false, onchange }) {
  const input = h("input", { type: "checkbox" });
  input.checked = value;
  input.addEventListener("change", () => onchange?.(input.checked));
  return {
    element: h("label", { class: "check" }, input, label), input,
    get value() { return input.checked; }, set value(v) { input.checked = v; },
  };
}

/** A button; `kind` is primary or quiet. */
export function button({ label, kind = "", onclick, title }) {
  return h("button", { type: "button", class: kind, title, onclick }, label);
}

/** Tabs: `pages` are {name, title, element}. */
export function tabs({ label, pages, value, onchange }) {
  const list = h("div", { role: "tablist", "aria-label": label });
  const show = (name, focus = false) => {
    for (const [i, page] of pages.entries()) {
      const chosen = page.name === name;
      page.element.hidden = !chosen;
      list.children[i].setAttribute("aria-selected", chosen);
      list.children[i].tabIndex = chosen ? 0 : -1;
      if (chosen && focus) list.children[i].focus();
    }
  };
  const choose = (name, focus) => { show(name, focus); onchange?.(name); };
  for (const page of pages) {
    page.element.setAttribute("role", "tabpanel");
    list.append(h("button", { type: "button", role: "tab", onclick: () => choose(page.name) }, page.title));
  }
  list.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const now = [...list.children].indexOf(document.activeElement);
    if (move && now >= 0) choose(pages[(now + move + pages.length) % pages.length].name, true);
  });
  show(value ?? pages[0].name);
  return { element: h("div", { class: "stack" }, list, pages.map((page) => page.element)), show };
}

/** A line that says what happens; `say(text, true)` is an error. */
export function status() {
  const element = h("div", { class: "status", role: "status" });
  const say = (message = "", error = false) => {
    if (element.textContent !== message) element.textContent = message;
    element.classList.toggle("error", error);
  };
  return { element, say };
}

/** Return why a view cannot be used, as elements; parts of the message in backquotes are code. */
export function refusal(message) {
  const parts = message.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
  return [
    h("p", { class: "status error", role: "alert" }, parts),
    h("p", {}, h("a", { href: "#/runs" }, "Runs"), " opens a model, or trains one."),
  ];
}

/** Controls under a heading. */
export function group(title, ...children) {
  return h("fieldset", { class: "group" }, h("legend", {}, title), children);
}

/** Open a dialog, which Escape and its button close. */
export function dialog(title, ...children) {
  const close = button({ label: "Close", kind: "quiet", onclick: () => element.close() });
  const head = h("div", { class: "dialog-head" }, h("h2", {}, title), close);
  const element = h("dialog", { "aria-label": title }, h("div", { class: "stack" }, head, children));
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return element;
}

function control(label, id, input, output = null) {
  const name = h("div", { class: "name" }, h("label", { for: id }, label), output);
  return h("div", { class: "control" }, name, input);
}
