// Tests the page of an exported folder in headless Chromium on its software WebGPU: choose, drop, rank, download.
//
//   node tools/web_test/page.mjs PROGRAM

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { assertAccessible, assertNoSideways, withChromium, withPage } from "../browser/common/chromium.mjs";
import { DEMO, agree, drawImages, readVectors, runner } from "./common.mjs";

const SOFTWARE = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json" };
const hostile = "<script>alert(1)</script>.png";

const [program] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "web-page-"));
const run = runner(program, folder, process.env);

/** Serves the exported folder on localhost. */
async function serve(root) {
    const server = createServer((request, response) => {
        const path = join(root, normalize(new URL(request.url, "http://localhost").pathname));
        const file = path.endsWith("/") ? join(path, "index.html") : path;
        const found = existsSync(file);
        response.writeHead(found ? 200 : 404, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
        response.end(found ? readFileSync(file) : "");
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    return { server, url: `http://127.0.0.1:${server.address().port}/` };
}

const text = (page, id) => page.$eval(`#${id}`, (element) => element.textContent);
const until = (page, id, words) => page.waitForFunction(
    (id, words) => document.getElementById(id).textContent.includes(words), { timeout: 90_000 }, id, words);

/** Drops a file with this name and base64 content. */
const drop = (page, name, content) => page.evaluate((name, content) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}, name, content.toString("base64"));

/** Downloads into a folder: presses the buttons and waits for the files. */
async function download(page, ids) {
    const client = await page.createCDPSession();
    const target = join(folder, "downloads");
    await client.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: target });
    for (const id of ids) {
        await page.click(`#${id}`);
        const file = join(target, `vectors.${id === "paths" ? "paths.txt" : id}`);
        for (let waited = 0; !existsSync(file); waited += 1) {
            assert.ok(waited < 100, `${file} never came`);
            await new Promise((done) => setTimeout(done, 50));
        }
    }
    return target;
}

async function embeds(page) {
    await until(page, "status", "Ready");
    const images = join(folder, "images");
    const names = readdirSync(images).sort();
    const [last, ...first] = names.toReversed();
    const input = await page.$("#images");
    await input.uploadFile(...first.map((name) => join(images, name)));
    await until(page, "status", `${first.length} images with embeddings`);
    await drop(page, last, readFileSync(join(images, last)));
    await until(page, "status", `${names.length} images with embeddings`);
    await assertAccessible(page);
    await assertNoSideways(page);

    // The downloads equal the program's own files, and it can search them.
    const target = await download(page, ["npy", "paths", "json"]);
    agree("page", readVectors(join(target, "vectors.npy")), readVectors(join(folder, "native.npy")));
    const json = JSON.parse(readFileSync(join(target, "vectors.json"), "utf8"));
    const fromJson = new Map(json.images.map(({ name, vector }) => [name, Float32Array.from(vector)]));
    assert.deepEqual(fromJson, readVectors(join(target, "vectors.npy")));
    run("search", "--model", DEMO, "--gallery", "downloads/vectors.npy", "--query", `images/${first[0]}`, "--top", "99", "--json", "found.json");
    const found = JSON.parse(readFileSync(join(folder, "found.json"), "utf8"));
    const order = found.queries[0].results.map(({ path }) => path).slice(1);

    // Selected by keyboard, ranked like the program's results without the image itself.
    await page.focus("#gallery li button");
    await page.keyboard.press("Enter");
    assert.equal(await text(page, "found-title"), `Most similar to ${first[0]}`);
    const shown = await page.$$eval("#results .path", (paths) => paths.map((path) => path.textContent));
    assert.deepEqual(shown, order);
    assert.equal(await page.$$eval("[aria-pressed=true]", (pressed) => pressed.length), 1);
    await assertAccessible(page);

    await drop(page, hostile, readFileSync(join(images, last)));
    await until(page, "status", `${names.length + 1} images with embeddings`);
    await drop(page, "notes.txt", Buffer.from("no image"));
    await until(page, "error", "notes.txt can't be read");
    assert.equal((await page.$$("script")).length, 1);
    await page.click("#clear");
    assert.ok(await page.$eval("#shown", (shown) => shown.hidden));
}

try {
    drawImages(run, folder);
    run("export", "--model", DEMO, "--to", "web", "--out", "web");
    run("embed", "--model", DEMO, "images", "--out", "native.npy");
    const { server, url } = await serve(join(folder, "web"));
    const allowed = new RegExp(`^(${url}|blob:${url}|data:)`);
    await withChromium(async (browser) => {
        await withPage(browser, url, { allowed }, embeds);
        await withPage(browser, url, { allowed, scheme: "dark", width: 360, height: 740 }, async (page) => {
            await until(page, "status", "Ready");
            await assertAccessible(page);
            await assertNoSideways(page);
        });
    }, SOFTWARE);
    // Browsers offer no WebGPU without https under another name than localhost.
    const elsewhere = url.replace("127.0.0.1", "images.test");
    await withChromium(async (browser) => {
        await withPage(browser, elsewhere, { allowed: new RegExp(`^(${elsewhere}|data:)`) }, async (page) => {
            await until(page, "error", "This page needs WebGPU: browsers offer it on https and localhost only");
            await assertAccessible(page);
            assert.ok(await page.$eval("#images", (input) => input.disabled));
        });
    }, ["--host-resolver-rules=MAP images.test 127.0.0.1"]);
    server.close();
    console.log("the page works: choose, drop, rank, download, light and dark, on a phone, with a message without WebGPU");
} finally {
    rmSync(folder, { recursive: true, force: true });
}
