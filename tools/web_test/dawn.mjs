// Replays exported networks in Node with Dawn, Chrome's WebGPU, and compares the embeddings with the native ones.
//
//   node tools/web_test/dawn.mjs PROGRAM [DRIVER.json]       DRIVER.json: Vulkan driver for Dawn, not for the program
//
// Exit code 3 if Dawn accepts no adapter.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, globals } from "webgpu";
import { DEMO, agree, drawImages, golden, readImage, readVectors, runner } from "./common.mjs";
import { Player, resizeBicubic, squaredDistance } from "../web/player.js";

Object.assign(globalThis, globals);

/** Asserts results of `Image.resize(size, Image.BICUBIC)` of Pillow 13.0; src/images/preprocess.rs has the same. */
function equalsPillow() {
    for (const [height, width, values, [toHeight, toWidth], expected] of [
        [1, 5, [0, 100, 200, 50, 255], [1, 3], [43, 144, 168]],
        [1, 2, [0, 255], [1, 5], [0, 17, 128, 238, 255]],
        [2, 3, [0, 100, 200, 50, 255, 7], [3, 2], [24, 173, 82, 136, 139, 98]],
        [4, 1, [255, 0, 0, 255], [2, 1], [107, 107]],
        [1, 1, [9], [2, 2], [9, 9, 9, 9]],
        [4, 2, [0, 255, 0, 255, 255, 0, 0, 255], [2, 3], [18, 128, 237, 116, 128, 139]],
    ]) {
        const pixels = Uint8Array.from(values.flatMap((value) => [value, value, value]));
        const resized = resizeBicubic({ width, height, pixels }, toHeight, toWidth);
        assert.deepEqual([...resized.pixels].filter((_, index) => index % 3 === 0), expected);
    }
}

const [program, driver] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "web-dawn-"));
const run = runner(program, folder, { ...process.env });
// For Dawn only: the program keeps the old environment.
if (driver) process.env.VK_DRIVER_FILES = driver;
// Kept in a variable, since Dawn stops when it is collected.
const gpu = create([]);
try {
    equalsPillow();
    const adapter = await gpu.requestAdapter();
    if (!adapter) {
        console.error("error: Dawn accepts no adapter of this machine");
        rmSync(folder, { recursive: true, force: true });
        process.exit(3);
    }
    console.log(`Dawn on ${adapter.info.description || adapter.info.device}`);
    // WebGPU's default limits and no features: a plan must not need more.
    const device = await adapter.requestDevice();
    device.onuncapturederror = ({ error }) => assert.fail(error.message);

    const images = drawImages(run, folder);
    const names = readdirSync(images).sort();
    const decoded = names.map((name) => readImage(join(images, name)));
    const heads = ["--heads", "2"];
    for (const [name, model, network, web] of [
        ["demo", DEMO, [], []],
        ["smaller, flipped, in batches of 3", DEMO, ["--size", "96x48"], ["--batch-size", "3", "--flip"]],
        ["CLIP", golden("clip_openai"), heads, ["--batch-size", "2"]],
        ["DINOv2 with registers", golden("dinov2_reg_hf"), heads, []],
        ["overlapping patches", golden("stride_not_dividing"), [...heads, "--stride", "6", "--size", "32x32"], []],
        ["three parts of four rows", golden("parts_3"), [...heads, "--size", "32x16", "--parts", "3"], []],
        ["one part of class tokens", golden("plain"), [...heads, "--parts", "1", "--tokens", "global"], []],
    ]) {
        run("export", "--model", model, ...network, "--to", "web", ...web, "--out", name);
        const flip = web.includes("--flip") ? ["--flip"] : [];
        run("embed", "--model", model, ...network, ...flip, "images", "--out", `${name}.npy`);
        const read = async (file) => Uint8Array.from(readFileSync(join(folder, name, file))).buffer;
        const shares = [];
        const player = await Player.open(device, read, (there, all) => shares.push(there / all));
        assert.equal(shares.at(-1), 1, "progress reaches all weights");
        const vectors = await player.embed(decoded);
        const native = readVectors(join(folder, `${name}.npy`));
        agree(name, new Map(names.map((file, index) => [file, vectors[index]])), native);
        // Again one at a time: a replay must not depend on old memory, nor an embedding on its batch.
        const again = await player.embed([decoded[1]]);
        assert.deepEqual(again[0], vectors[1]);
        assert.ok(Math.abs(squaredDistance(again[0], again[0].map((value) => -value)) - 4) < 1e-5);
        player.destroy();

        const refused = async (words, change) => {
            const damaged = async (file) => change(file, await read(file));
            await assert.rejects(Player.open(device, damaged), words);
        };
        if (name === "demo") {
            const edited = (edit) => (file, bytes) =>
                file === "plan.json" ? new TextEncoder().encode(edit(new TextDecoder().decode(bytes))) : bytes;
            await refused(/weights-0.bin has \d+ bytes/, (file, bytes) => (file.endsWith(".bin") ? bytes.slice(4) : bytes));
            await refused(/format 99/, edited((text) => text.replace('"format":1', '"format":99')));
            await refused(/gelt/, (file, bytes) => (file.includes("gelt") ? new TextEncoder().encode("fn f( {") : bytes));
            await refused(/no_such_entry/, edited((text) => text.replace("gelt_forward", "no_such_entry")));
        }
    }
    device.destroy();
} finally {
    rmSync(folder, { recursive: true, force: true });
}
// Dawn's threads would keep the process running.
process.exit(0);
