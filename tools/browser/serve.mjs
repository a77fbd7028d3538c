// The page of `lat-wgpu serve`, over a gallery of drawn figures, in headless Chromium: choose, drop, be refused.
//
//   node tools/browser/serve.mjs PROGRAM

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { assertAccessible, assertNoSideways, withChromium, withPage } from "./common/chromium.mjs";

const [program] = process.argv.slice(2);
// A ViT of two blocks with random weights: quick, and mostly wrong.
const model = fileURLToPath(new URL("../../tests/goldens/plain.model.safetensors", import.meta.url));
const network = ["--model", model, "--heads", "2"];
const hostile = "<script>alert(1)</script>.jpg";

const folder = mkdtempSync(join(tmpdir(), "serve-"));
const run = (...words) => execFileSync(program, words, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });

/** Starts the server and gives its process and its URL. */
async function start() {
    const gallery = ["--gallery", "gallery.npy", "--images", "figures/bounding_box_test"];
    const server = spawn(program, ["serve", ...network, ...gallery, "--port", "0", "--top", "5"], {
        cwd: folder,
        stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const line of createInterface({ input: server.stdout })) {
        return { server, url: line.replace("listening on ", "") };
    }
    throw new Error("the server ended before it listened");
}

const results = (page) => page.$$eval("#results li", (places) => places.map((place) => place.querySelector(".path").textContent));

/** Waits until so many results are shown, with their images. */
async function shown(page, count) {
    await page.waitForFunction((wanted) => {
        const places = [...document.querySelectorAll("#results li")];
        return places.length === wanted && places.every((place) => place.querySelector("img").naturalWidth > 0);
    }, {}, count);
}

/** Drops a file of this name: the content of the gallery's first image, or none. */
const drop = (page, name, isImage) => page.evaluate(async (name, isImage) => {
    const content = isImage ? await (await fetch("/image/0")).blob() : "no image";
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([content], name));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}, name, isImage);

async function finds(page) {
    await page.waitForFunction(() => document.getElementById("about").textContent.includes("images, embedded by"));
    const chosen = readdirSync(join(folder, "figures/bounding_box_test")).sort()[3];
    const input = await page.$("#image");
    await input.uploadFile(join(folder, "figures/bounding_box_test", chosen));
    await shown(page, 5);
    assert.equal((await results(page))[0], chosen, "an image of the gallery is nearest to itself");
    await page.$eval("#top", (top) => {
        top.value = 3;
        top.dispatchEvent(new Event("change"));
    });
    await shown(page, 3);
    await assertAccessible(page);
    await assertNoSideways(page);

    await drop(page, hostile, true);
    await page.waitForFunction((name) => document.getElementById("asked-name").textContent === name, {}, hostile);
    assert.equal((await page.$$("script")).length, 1);
}

try {
    run("synth", "figures", "--persons", "8", "--cameras", "2", "--images", "2");
    run("embed", ...network, "figures/bounding_box_test", "--out", "gallery.npy");
    const { server, url } = await start();
    const ended = new Promise((done) => server.on("exit", done));
    const allowed = new RegExp(`^(${url}/|blob:${url}/|data:)`);
    await withChromium(async (browser) => {
        for (const window of [{}, { scheme: "dark" }, { width: 360, height: 740 }]) {
            await withPage(browser, url, { allowed, ...window }, finds);
        }
        // Chromium itself tells every refusal in the console, so this page is one without its checks.
        const page = await browser.newPage();
        await page.goto(url);
        await drop(page, "notes.txt", false);
        await page.waitForFunction(() => document.getElementById("error").textContent.startsWith("notes.txt: the body is not a"));
        assert.ok(await page.$eval("#found", (found) => found.hidden));
        await page.close();
    });
    server.kill("SIGTERM");
    assert.equal(await ended, 0);
    console.log("the served page works: choose, drop, refusals, light and dark, on a phone");
} finally {
    rmSync(folder, { recursive: true, force: true });
}
