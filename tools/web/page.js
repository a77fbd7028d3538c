// The page beside a player: pictures in, vectors and the most similar pictures out. Nothing leaves the machine; names of
// files go in as text, never as HTML.

import { Player, squaredDistance } from "./player.js";

/** Most results that are shown. */
const MOST = 24;

const byId = (id) => document.getElementById(id);
const picker = byId("pictures");

/** What was embedded: { name, url, vector, button }. */
let pictures = [];
/** Index of the picture that was asked for. */
let asked = null;
let player = null;
/** Pictures are embedded one list after the other. */
let queue = Promise.resolve();
/** Grows with every removal of all pictures: what was asked for before is dropped. */
let round = 0;

function say(status, error = "") {
    byId("status").textContent = status;
    byId("error").textContent = error;
}

function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
}

function image(url) {
    const made = document.createElement("img");
    // Its name stands below.
    made.alt = "";
    made.src = url;
    return made;
}

/** A file of the folder that this page is in. */
async function read(name) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
    return response.arrayBuffer();
}

/** The pixels of a picture, upright, as { width, height, data }. */
async function decode(file) {
    const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
    try {
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(bitmap, 0, 0);
        return context.getImageData(0, 0, bitmap.width, bitmap.height);
    } finally {
        bitmap.close();
    }
}

/** Embeds files, one after the other, and shows each as soon as it has a vector. */
async function add(files) {
    const began = round;
    const refused = [];
    let done = 0;
    for (const file of files) {
        say(`Embedding ${done + 1} of ${files.length} …`, refused.join("; "));
        let picture = null;
        try {
            picture = await decode(file);
        } catch {
            refused.push(`${file.name} can't be read as a picture`);
        }
        const [vector] = picture ? await player.embed([picture]) : [];
        if (round !== began) return;
        if (vector) keep(file, vector);
        done += 1;
    }
    if (asked !== null) rank(asked);
    say(`${pictures.length} pictures with vectors of ${player.dim} numbers`, refused.join("; "));
}

/** Shows a picture with its vector. */
function keep(file, vector) {
    const index = pictures.length;
    const url = URL.createObjectURL(file);
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(image(url), element("span", "path", file.name));
    button.addEventListener("click", () => rank(index));
    item.append(button);
    byId("gallery").append(item);
    byId("shown").hidden = false;
    pictures.push({ name: file.name, url, vector, button });
}

/** Shows the pictures that are most similar to one of them. */
function rank(index) {
    asked = index;
    const { name, vector } = pictures[index];
    const others = pictures.map((picture) => ({ ...picture, distance: squaredDistance(vector, picture.vector) }));
    others.splice(index, 1);
    others.sort((a, b) => a.distance - b.distance);
    pictures.forEach(({ button }, place) => button.setAttribute("aria-pressed", String(place === index)));
    byId("found-title").textContent = `Most similar to ${name}`;
    byId("results").replaceChildren(...others.slice(0, MOST).map(result));
    byId("found").hidden = false;
    say(`${others.length} pictures, the most similar to ${name} first`);
}

function result({ name, url, distance }, place) {
    const made = document.createElement("li");
    const { threshold } = player.plan;
    let verdict = "";
    if (threshold !== null) {
        const same = distance <= threshold;
        made.className = same ? "same" : "different";
        verdict = same ? ": same person" : ": different person";
    }
    made.append(image(url), element("span", "verdict", `${place + 1}${verdict}`));
    made.append(element("span", "distance", `distance ${distance.toFixed(4)}`), element("span", "path", name));
    return made;
}

/** The vectors as a NumPy matrix (pictures, numbers) of f32. */
function npy() {
    const shape = `(${pictures.length}, ${player.dim})`;
    const dict = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
    const header = new Uint8Array(128).fill(0x20);
    header.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length - 10, 0]);
    header.set(new TextEncoder().encode(dict), 10);
    header[header.length - 1] = 0x0a;
    return [header, ...pictures.map(({ vector }) => vector)];
}

function json() {
    const { made_by, weights_sha256, preprocess, embedding } = player.plan;
    const vectors = pictures.map(({ name, vector }) => ({ name, vector: [...vector] }));
    return [JSON.stringify({ made_by, weights_sha256, preprocess, embedding, pictures: vectors })];
}

/** One name a line, line breaks and backslashes escaped, as `lat-wgpu embed` writes them beside an .npy file. */
function paths() {
    const escapes = { "\\": "\\\\", "\n": "\\n", "\r": "\\r" };
    return pictures.map(({ name }) => `${name.replace(/[\\\n\r]/g, (found) => escapes[found])}\n`);
}

function download(name, parts) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts));
    link.download = name;
    link.click();
    // The browser has taken it by then.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function clear() {
    round += 1;
    pictures.forEach(({ url }) => URL.revokeObjectURL(url));
    pictures = [];
    asked = null;
    picker.value = "";
    byId("gallery").replaceChildren();
    byId("results").replaceChildren();
    byId("found").hidden = true;
    byId("shown").hidden = true;
    say("No pictures");
    picker.focus();
}

function take(files) {
    const list = [...files];
    if (player && list.length > 0) {
        queue = queue.then(() => add(list)).catch((error) => say("", error.message));
    }
}

/** Opens the adapter and the network; throws an Error with words for the user. */
async function open() {
    if (!navigator.gpu) {
        const why = isSecureContext ? "this browser has none, or it is turned off" : "browsers offer it on https and localhost alone";
        throw new Error(`This page needs WebGPU: ${why}. Chrome, Edge, Firefox and Safari of 2025 or later have it.`);
    }
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) throw new Error("The browser has WebGPU, but finds no graphics adapter for it.");
    const device = await adapter.requestDevice();
    device.lost.then(({ message, reason }) => {
        if (reason !== "destroyed") say("", `The graphics adapter was lost: ${message} Load the page again.`);
    });
    const loading = (there, all) => say(`Loading the network: ${there >> 20} of ${all >> 20} MiB`);
    loading(0, 0);
    player = await Player.open(device, read, loading);
    const { architecture, vendor } = adapter.info;
    const { size: [height, width] } = player.plan.preprocess;
    const where = [vendor, architecture].filter(Boolean).join(" ") || "this machine's adapter";
    byId("about").textContent = `Pictures stay on this machine: the network runs here, on ${where}, at ${height}×${width} pixels.`;
    picker.disabled = false;
    say("Ready");
}

picker.addEventListener("change", () => take(picker.files));
byId("ask").addEventListener("submit", (event) => event.preventDefault());
byId("npy").addEventListener("click", () => download("vectors.npy", npy()));
byId("paths").addEventListener("click", () => download("vectors.paths.txt", paths()));
byId("json").addEventListener("click", () => download("vectors.json", json()));
byId("clear").addEventListener("click", clear);
document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("ask").classList.add("over");
});
for (const name of ["dragleave", "dragend", "drop"]) {
    document.addEventListener(name, () => byId("ask").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer?.files ?? []);
});

open().catch((error) => say("", error.message));
