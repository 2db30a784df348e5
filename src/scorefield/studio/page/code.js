// The dialog with the command and the Python that do the same as the page.

import * as ui from "./ui.js";
import { ofRun } from "./wire.js";

/** Ask the studio for the texts of a job. */
export async function fetchCode(job, settings) {
  const answer = await fetch(ofRun("code"), { method: "POST", body: JSON.stringify({ job, settings }) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** Show the texts of a job, each with a button that copies it, unless `signal` is aborted before. */
export async function showCode(job, settings, signal) {
  try {
    const { command, python, note } = await fetchCode(job, settings);
    if (signal.aborted) return;
    ui.dialog(
      "The same as code",
      command
        ? snippet("Command", command)
        : ui.h("p", { class: "muted" }, "The command line cannot do this; Python can."),
      note ? ui.h("p", { class: "muted" }, note) : null,
      snippet("Python", python),
    );
  } catch (error) {
    if (signal.aborted) return;
    ui.dialog("The same as code", ui.h("p", {}, error.message));
  }
}

function snippet(title, text) {
  const copy = copyButton(`Copy ${title === "Python" ? title : title.toLowerCase()}`, text);
  const head = ui.h("div", { class: "dialog-head" }, ui.h("h3", {}, title), copy);
  const block = ui.h("pre", { "aria-label": title, tabindex: 0 }, text);
  return ui.h("section", { class: "stack" }, head, block);
}

/** Return a button that puts a text into the clipboard; its label is then "Copied". */
export function copyButton(label, text, kind = "") {
  const button = ui.button({
    label, kind,
    onclick: async () => {
      await copyText(text);
      button.textContent = "Copied";
    },
  });
  return button;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // the clipboard is for secure pages only, and loopback is one
    const area = ui.h("textarea", {});
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
