// The page of `lat-wgpu serve`, over a gallery of drawn figures, in headless Chromium: choose, drop, be refused.
//
//   node tools/browser/serve.mjs PROGRAM

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { assertAccessible, assertNoSideways, withChromium, withPage } from "./common/chromium.mjs";
import { startServer } from "./common/server.mjs";

const [program] = process.argv.slice(2);
// A ViT of two blocks with random weights: quick, and mostly wrong.
const model = fileURLToPath(new URL("../../tests/goldens/plain.model.safetensors", import.meta.url));
const network = ["--model", "model.safetensors", "--heads", "2"];
const hostile = "<script>alert(1)</script>.jpg";

const folder = mkdtempSync(join(tmpdir(), "serve-"));
const run = (...words) => execFileSync(program, words, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });

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

/** Fails unless the query is beside its matches, or on a phone above them, within one screen. */
async function besideOrBelow(page) {
    const [query, results] = await Promise.all(["#asked", "#results"].map((id) => page.$eval(id, (element) => {
        const { left, top, right, bottom } = element.getBoundingClientRect();
        return { left, top, right, bottom };
    })));
    const { width, height } = page.viewport();
    if (width > 900) {
        assert.ok(query.right < results.left && query.top < results.bottom, "the query is to the left of its matches");
    } else {
        assert.ok(query.bottom < results.top && results.top - query.top < height, "the query is above its matches");
    }
}

async function finds(page) {
    const zone = await page.$eval("#ask", (form) => form.getBoundingClientRect().height / window.innerHeight);
    assert.ok(zone > 0.4, `the drop zone takes ${zone} of the window's height`);
    await page.waitForFunction(() => document.getElementById("about").textContent.includes("images, embedded by"));
    const chosen = readdirSync(join(folder, "figures/bounding_box_test")).sort()[3];
    const input = await page.$("#image");
    await input.uploadFile(join(folder, "figures/bounding_box_test", chosen));
    await shown(page, 5);
    assert.equal((await results(page))[0], chosen, "an image of the gallery is nearest to itself");
    const first = await page.$eval("#results li", (place) => place.innerText.split("\n").map((line) => line.trim()));
    assert.equal(first[0], "1: likely the same");
    assert.ok(first.some((line) => line === "false-match rate ≤ 5 %"), first.join());
    assert.ok(first.some((line) => /^strangers so near: ≤ [0-9.]+$/.test(line)), first.join());
    await page.$eval("#top", (top) => {
        top.value = 3;
        top.dispatchEvent(new Event("change"));
    });
    await shown(page, 3);
    await assertAccessible(page);
    await assertNoSideways(page);
    await besideOrBelow(page);

    await drop(page, hostile, true);
    await page.waitForFunction((name) => document.getElementById("asked-name").textContent === name, {}, hostile);
    assert.equal((await page.$$("script")).length, 1);
}

try {
    run("synth", "figures", "--persons", "8", "--cameras", "2", "--images", "2");
    // A copy, since it receives a threshold.
    cpSync(model, join(folder, "model.safetensors"));
    run("eval", ...network, "--data", "figures", "--fpr", "0.05", "--store-threshold");
    run("embed", ...network, "figures/bounding_box_test", "--out", "gallery.npy");
    const gallery = ["--gallery", "gallery.npy", "--images", "figures/bounding_box_test"];
    const { server, url } = await startServer(program, folder, [...network, ...gallery, "--top", "5"]);
    const ended = new Promise((done) => server.on("exit", done));
    const allowed = new RegExp(`^(${url}/|blob:${url}/|data:)`);
    await withChromium(async (browser) => {
        for (const window of [{}, { scheme: "dark" }, { width: 360, height: 740 }]) {
            await withPage(browser, url, { allowed, ...window }, finds);
        }
        // Chromium reports every refusal in the console, so this page is opened without checks.
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
