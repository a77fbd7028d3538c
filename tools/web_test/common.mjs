// Helpers of both tests of the exported web folder: running the program, images, embeddings and their comparison.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inflateSync } from "node:zlib";

const repository = fileURLToPath(new URL("../..", import.meta.url));
export const DEMO = join(repository, "weights/demo.safetensors");
export const golden = (name) => join(repository, `tests/goldens/${name}.model.safetensors`);

/** Returns a function that runs the program in a folder with an environment. */
export const runner = (program, folder, env) => (...words) =>
    execFileSync(program, words, { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });

/** Makes synthetic images, some cut to odd sizes, as PNG and BMP, and returns their folder. */
export function drawImages(run, folder) {
    run("synth", "figures", "--persons", "10", "--cameras", "2", "--images", "1", "--seed", "7");
    const drawn = join(folder, "figures/query");
    const images = join(folder, "images");
    mkdirSync(images);
    const names = readdirSync(drawn).sort();
    assert.ok(names.length >= 2);
    const cuts = [[128, 64], [37, 61], [5, 3], [99, 7], [128, 1]];
    for (const [index, [height, width]] of cuts.entries()) {
        const name = names[index % names.length];
        const bytes = readFileSync(join(drawn, name));
        if (index < 2) writeFileSync(join(images, name), bytes);
        writeFileSync(join(images, `cut ${height}x${width}.bmp`), bmp(cut(readPng(bytes), height, width)));
    }
    return images;
}

/** The lower right part of an image. */
function cut({ width, height, data }, rows, columns) {
    const part = new Uint8ClampedArray(4 * rows * columns);
    for (let y = 0; y < rows; y += 1) {
        const from = 4 * ((height - rows + y) * width + width - columns);
        part.set(data.subarray(from, from + 4 * columns), 4 * y * columns);
    }
    return { width: columns, height: rows, data: part };
}

/** RGBA as an uncompressed 24-bit BMP: rows from the bottom, padded to whole words. */
function bmp({ width, height, data }) {
    const row = Math.ceil((3 * width) / 4) * 4;
    const file = Buffer.alloc(54 + row * height);
    file.write("BM");
    for (const [at, value] of [[2, file.length], [10, 54], [14, 40], [18, width], [22, height], [34, row * height]]) {
        file.writeUInt32LE(value, at);
    }
    file.writeUInt16LE(1, 26);
    file.writeUInt16LE(24, 28);
    for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
            const [r, g, b] = data.subarray(4 * (y * width + x));
            file.set([b, g, r], 54 + row * (height - 1 - y) + 3 * x);
        }
    }
    return file;
}

/** The pixels of a file of `drawImages`. */
export function readImage(path) {
    const bytes = readFileSync(path);
    return path.endsWith(".png") ? readPng(bytes) : readBmp(bytes);
}

function readBmp(file) {
    const [width, height] = [file.readUInt32LE(18), file.readUInt32LE(22)];
    const row = Math.ceil((3 * width) / 4) * 4;
    const data = new Uint8ClampedArray(4 * width * height);
    for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
            const [b, g, r] = file.subarray(54 + row * (height - 1 - y) + 3 * x);
            data.set([r, g, b, 255], 4 * (y * width + x));
        }
    }
    return { width, height, data };
}

/** Decodes a PNG of 8-bit RGB without interlacing, as `lat-wgpu synth` writes it. */
function readPng(file) {
    const [width, height] = [file.readUInt32BE(16), file.readUInt32BE(20)];
    assert.deepEqual([...file.subarray(24, 29)], [8, 2, 0, 0, 0], "8-bit RGB");
    const chunks = [];
    for (let at = 8; at < file.length; at += 12 + file.readUInt32BE(at)) {
        if (file.toString("latin1", at + 4, at + 8) === "IDAT") chunks.push(file.subarray(at + 8, at + 8 + file.readUInt32BE(at)));
    }
    const packed = inflateSync(Buffer.concat(chunks));
    const row = 3 * width;
    const pixels = new Uint8Array(row * height);
    const data = new Uint8ClampedArray(4 * width * height);
    for (let y = 0; y < height; y += 1) {
        const filter = packed[y * (row + 1)];
        for (let x = 0; x < row; x += 1) {
            const left = x < 3 ? 0 : pixels[y * row + x - 3];
            const above = y === 0 ? 0 : pixels[(y - 1) * row + x];
            const corner = x < 3 || y === 0 ? 0 : pixels[(y - 1) * row + x - 3];
            const guess = [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter];
            pixels[y * row + x] = packed[y * (row + 1) + 1 + x] + guess;
        }
    }
    for (let pixel = 0; pixel < width * height; pixel += 1) {
        data.set([...pixels.subarray(3 * pixel, 3 * pixel + 3), 255], 4 * pixel);
    }
    return { width, height, data };
}

function paeth(left, above, corner) {
    const [a, b, c] = [left, above, corner].map((value) => Math.abs(left + above - corner - value));
    if (a <= b && a <= c) return left;
    return b <= c ? above : corner;
}

/** The rows of an f32 .npy file, by the names in its .paths.txt. */
export function readVectors(path) {
    const file = readFileSync(path);
    const start = 10 + file.readUInt16LE(8);
    const [rows, dim] = file.toString("latin1", 10, start).match(/\((\d+), (\d+)\)/).slice(1).map(Number);
    const values = new Float32Array(Uint8Array.from(file.subarray(start)).buffer);
    const names = readFileSync(path.replace(/npy$/, "paths.txt"), "utf8").trimEnd().split("\n");
    assert.deepEqual([names.length, values.length], [rows, rows * dim], path);
    return new Map(names.map((name, row) => [name, values.subarray(row * dim, (row + 1) * dim)]));
}

/** Asserts that embeddings agree by name with the native ones, and prints the lowest cosine and the largest error. */
export function agree(what, found, native) {
    assert.deepEqual([...found.keys()].sort(), [...native.keys()].sort(), what);
    let [lowest, largest] = [1, 0];
    for (const [name, theirs] of native) {
        const ours = found.get(name);
        assert.equal(ours.length, theirs.length, `${what}: ${name}`);
        const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
        const cosine = dot(ours, theirs) / Math.sqrt(dot(ours, ours) * dot(theirs, theirs));
        const error = Math.max(...theirs.map((value, index) => Math.abs(value - ours[index])));
        // Not `<`, since NaN must fail.
        assert.ok(cosine >= 0.99999 && error <= 1e-5, `${what}: ${name}: cosine ${cosine}, error ${error}`);
        [lowest, largest] = [Math.min(lowest, cosine), Math.max(largest, error)];
    }
    console.log(`${what}: ${native.size} embeddings, lowest cosine ${lowest.toFixed(9)}, largest error ${largest.toExponential(1)}`);
}
