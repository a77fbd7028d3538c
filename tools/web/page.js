// The page of an exported network: images in, embeddings and the most similar images out. Nothing leaves the machine.
// File names are inserted as text, never as HTML.

import { Player, squaredDistance } from "./player.js";

/** Most results to show. */
const MOST = 24;

const byId = (id) => document.getElementById(id);
const picker = byId("images");

/** Embedded images: { name, url, vector, button }. */
let images = [];
/** Index of the selected image. */
let asked = null;
let player = null;
/** Lists of images are embedded in sequence. */
let queue = Promise.resolve();
/** Counts removals of all images; older requests are dropped. */
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
    // The name is shown below.
    made.alt = "";
    made.src = url;
    return made;
}

/** A file of the folder that this page is in. */
async function read(name) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: the server returned ${response.status}`);
    return response.arrayBuffer();
}

/** The pixels of an image, upright, as { width, height, data }. */
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

/** Embeds files in sequence, and shows each when it is embedded. */
async function add(files) {
    const began = round;
    const refused = [];
    let done = 0;
    for (const file of files) {
        say(`Embedding ${done + 1} of ${files.length} …`, refused.join("; "));
        let image = null;
        try {
            image = await decode(file);
        } catch {
            refused.push(`${file.name} can't be read as an image`);
        }
        const [vector] = image ? await player.embed([image]) : [];
        if (round !== began) return;
        if (vector) keep(file, vector);
        done += 1;
    }
    if (asked !== null) rank(asked);
    say(`${images.length} images with embeddings of ${player.dim} dimensions`, refused.join("; "));
}

/** Adds an image with its embedding. */
function keep(file, vector) {
    const index = images.length;
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
    images.push({ name: file.name, url, vector, button });
}

/** Shows the images that are most similar to one. */
function rank(index) {
    asked = index;
    const { name, vector } = images[index];
    const others = images.map((image) => ({ ...image, distance: squaredDistance(vector, image.vector) }));
    others.splice(index, 1);
    others.sort((a, b) => a.distance - b.distance);
    images.forEach(({ button }, place) => button.setAttribute("aria-pressed", String(place === index)));
    byId("found-title").textContent = `Most similar to ${name}`;
    byId("results").replaceChildren(...others.slice(0, MOST).map(result));
    byId("found").hidden = false;
    say(`${others.length} images, the most similar to ${name} first`);
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

/** The embeddings as a NumPy matrix (images, dimensions) of f32. */
function npy() {
    const shape = `(${images.length}, ${player.dim})`;
    const dict = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
    const header = new Uint8Array(128).fill(0x20);
    header.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length - 10, 0]);
    header.set(new TextEncoder().encode(dict), 10);
    header[header.length - 1] = 0x0a;
    return [header, ...images.map(({ vector }) => vector)];
}

function json() {
    const { made_by, weights_sha256, preprocess, embedding } = player.plan;
    const vectors = images.map(({ name, vector }) => ({ name, vector: [...vector] }));
    return [JSON.stringify({ made_by, weights_sha256, preprocess, embedding, images: vectors })];
}

/** One name per line, with line breaks and backslashes escaped, as `lat-wgpu embed` writes them for an .npy file. */
function paths() {
    const escapes = { "\\": "\\\\", "\n": "\\n", "\r": "\\r" };
    return images.map(({ name }) => `${name.replace(/[\\\n\r]/g, (found) => escapes[found])}\n`);
}

function download(name, parts) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts));
    link.download = name;
    link.click();
    // The browser has read it by then.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function clear() {
    round += 1;
    images.forEach(({ url }) => URL.revokeObjectURL(url));
    images = [];
    asked = null;
    picker.value = "";
    byId("gallery").replaceChildren();
    byId("results").replaceChildren();
    byId("found").hidden = true;
    byId("shown").hidden = true;
    say("No images");
    picker.focus();
}

function take(files) {
    const list = [...files];
    if (player && list.length > 0) {
        queue = queue.then(() => add(list)).catch((error) => say("", error.message));
    }
}

/** Opens the adapter and the network; throws an Error with a message for the user. */
async function open() {
    if (!navigator.gpu) {
        const why = isSecureContext ? "this browser has none, or it is turned off" : "browsers offer it on https and localhost only";
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
    byId("about").textContent = `Images stay on this machine: the network runs here, on ${where}, at ${height}×${width} pixels.`;
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
