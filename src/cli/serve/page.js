// The page of `lat-wgpu serve`. Names of files are inserted as text, never as HTML.
"use strict";

/** Largest file that the server accepts, in bytes. */
const MAX_FILE = 16 * 1024 * 1024;

const byId = (id) => document.getElementById(id);
const form = byId("ask");
const picker = byId("image");
const wantedTop = byId("top");

/** The latest query. */
let asked = null;
/** Aborts the present request. */
let running = null;
/** True if the server shows the gallery's images. */
let shows = false;
/** Share of the pairs of different persons that are as near as the threshold; null without a threshold. */
let falseMatchRate = null;

/** Makes an element with a class and a text. */
function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A number with two significant digits, or whole if it is larger. */
const short = (value) => (value >= 10 ? Math.round(value).toString() : Number(value.toPrecision(2)).toString());

function say(status, error = "") {
  byId("status").textContent = status;
  byId("error").textContent = error;
}

/** One match. */
function item(result, place, gallery) {
  const made = document.createElement("li");
  if (shows) {
    const image = document.createElement("img");
    // Its name is below.
    image.alt = "";
    image.loading = "lazy";
    image.src = `/image/${result.row}`;
    made.append(image);
  }
  let verdict = "";
  if (result.same !== null) {
    made.className = result.same ? "same" : "different";
    verdict = result.same ? ": likely the same" : ": likely different";
  }
  made.append(element("span", "verdict", `${place}${verdict}`));
  made.append(element("span", "distance", `distance ${result.distance.toFixed(4)}`));
  if (result.same && falseMatchRate !== null) {
    made.append(element("span", "errors", `false-match rate ≤ ${short(100 * falseMatchRate)} %`));
    made.append(element("span", "errors", `strangers so near: ≤ ${short(falseMatchRate * gallery)}`));
  }
  made.append(element("span", "path", result.path));
  return made;
}

/** Shows the query and its matches. */
function show(file, answer) {
  const preview = byId("asked");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  byId("asked-name").textContent = file.name;
  const results = answer.queries[0].results;
  byId("results").replaceChildren(...results.map((result, index) => item(result, index + 1, answer.gallery)));
  byId("found").hidden = false;
  byId("query").hidden = false;
  byId("main").className = "answered";
  const meaning = byId("meaning");
  meaning.hidden = answer.threshold === null || falseMatchRate === null;
  if (!meaning.hidden) {
    const strangers = short(falseMatchRate * answer.gallery);
    meaning.textContent = `“Likely the same” means a distance up to ${answer.threshold.toFixed(4)}. When this threshold was calibrated, at most ${short(100 * falseMatchRate)} % of the pairs of different persons were as near; in a gallery of ${answer.gallery} images, that is up to ${strangers} images of strangers.`;
  }
  const same = results.filter((result) => result.same).length;
  const verdicts = answer.threshold === null ? "" : `, ${same} likely the same`;
  say(`${results.length} nearest of ${answer.gallery} images${verdicts}`);
}

/** Sends a query; a later one replaces it. */
async function search(file) {
  asked = file;
  running?.abort();
  if (file.size > MAX_FILE) {
    say("", `${file.name} is larger than 16 MiB`);
    return;
  }
  if (!wantedTop.reportValidity()) {
    return;
  }
  running = new AbortController();
  const { signal } = running;
  say(`Searching for ${file.name} …`);
  try {
    const request = { method: "POST", body: file, signal };
    const response = await fetch(`/search?top=${wantedTop.valueAsNumber}`, request);
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

/** Searches for the first file that was dropped or pasted. */
function take(event, transfer) {
  const file = transfer?.files[0];
  if (file) {
    event.preventDefault();
    picker.value = "";
    search(file);
  }
}

picker.addEventListener("change", () => picker.files[0] && search(picker.files[0]));
wantedTop.addEventListener("change", () => asked && search(asked));
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

// Resolves when the page has described the server.
const introduced = fetch("/health")
  .then((response) => response.json())
  .then((health) => {
    shows = health.images;
    falseMatchRate = health.false_match_rate;
    wantedTop.value = health.top;
    byId("about").textContent = `${health.gallery} images, embedded by ${health.model}, on ${health.adapter}`;
  })
  .catch((error) => say("", `The server doesn't answer: ${error.message}`));
