// The page of `lat-wgpu serve`. Whatever comes from files or names goes in as text, never as HTML.
"use strict";

/** Largest file that the server takes, in bytes. */
const MAX_FILE = 16 * 1024 * 1024;

const byId = (id) => document.getElementById(id);
const form = byId("ask");
const picker = byId("image");
const wished = byId("top");

/** The image asked for last. */
let asked = null;
/** Ends the request under way. */
let running = null;
/** Whether the server shows the gallery's images. */
let shows = false;

/** An element with a class and a text. */
function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function say(status, error = "") {
  byId("status").textContent = status;
  byId("error").textContent = error;
}

/** One image of the gallery. */
function item(result, place) {
  const made = document.createElement("li");
  if (shows) {
    const image = document.createElement("img");
    // Its name stands below.
    image.alt = "";
    image.loading = "lazy";
    image.src = `/image/${result.row}`;
    made.append(image);
  }
  let verdict = "";
  if (result.same !== null) {
    made.className = result.same ? "same" : "different";
    verdict = result.same ? ": same person" : ": different person";
  }
  made.append(element("span", "verdict", `${place}${verdict}`));
  made.append(element("span", "distance", `distance ${result.distance.toFixed(4)}`));
  made.append(element("span", "path", result.path));
  return made;
}

/** Shows the image asked for and the list. */
function show(file, answer) {
  const preview = byId("asked");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  byId("asked-name").textContent = file.name;
  const results = answer.queries[0].results;
  byId("results").replaceChildren(...results.map((result, index) => item(result, index + 1)));
  byId("found").hidden = false;
  const same = results.filter((result) => result.same).length;
  const verdicts = answer.threshold === null ? "" : `, ${same} of them the same person`;
  say(`${results.length} nearest of ${answer.gallery} images${verdicts}`);
}

/** Asks the server; a later image overtakes. */
async function search(file) {
  asked = file;
  running?.abort();
  if (file.size > MAX_FILE) {
    say("", `${file.name} is larger than 16 MiB`);
    return;
  }
  if (!wished.reportValidity()) {
    return;
  }
  running = new AbortController();
  const { signal } = running;
  say(`Searching for ${file.name} …`);
  try {
    const request = { method: "POST", body: file, signal };
    const response = await fetch(`/search?top=${wished.valueAsNumber}`, request);
    const answer = await response.json();
    if (!response.ok) {
      throw new Error(answer.error);
    }
    await introduced;
    show(file, answer);
  } catch (error) {
    if (!signal.aborted) {
      say("", `${file.name}: ${error.message}`);
    }
  }
}

/** The first file that was dropped or pasted. */
function take(event, transfer) {
  const file = transfer?.files[0];
  if (file) {
    event.preventDefault();
    picker.value = "";
    search(file);
  }
}

picker.addEventListener("change", () => picker.files[0] && search(picker.files[0]));
wished.addEventListener("change", () => asked && search(asked));
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => take(event, event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
for (const name of ["dragleave", "dragend", "drop"]) {
  document.addEventListener(name, () => form.classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event, event.dataTransfer);
});

// Ends when the server has said what it has.
const introduced = fetch("/health")
  .then((response) => response.json())
  .then((health) => {
    shows = health.images;
    wished.value = health.top;
    byId("about").textContent = `${health.gallery} images, embedded by ${health.model}, on ${health.adapter}`;
  })
  .catch((error) => say("", `The server doesn't answer: ${error.message}`));
