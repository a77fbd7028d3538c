// Takes the screenshots of the documents, of synthetic images: report.webp, search.webp and serve.webp. The test is that
// they can be taken and are small.
//
//   CHROMIUM=chromium node tools/browser/screenshots.mjs PROGRAM [OUT, such as docs/images]

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { withChromium, withPage } from "./common/chromium.mjs";
import { startServer } from "./common/server.mjs";

const [program, target] = process.argv.slice(2);
const LARGEST = 150_000;

const folder = mkdtempSync(join(tmpdir(), "screenshots-"));
const out = target ? resolve(target) : folder;
const run = (...words) => execFileSync(program, words, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });

async function save(page, name) {
    const path = join(out, name);
    await page.screenshot({ path, type: "webp", quality: 80 });
    const { size } = statSync(path);
    assert.ok(size > 5_000 && size < LARGEST, `${name}: ${size} bytes`);
}

/** A query of the first person, who carries enough to be recognised. */
const query = () => readdirSync(join(folder, "demo/figures/query")).sort()[0];

try {
    const model = ["--model", "demo/run/last.safetensors"];
    const gallery = ["--gallery", "gallery.safetensors", "--images", "demo/figures/bounding_box_test"];
    run("demo", "--out", "demo", "--persons", "32", "--epochs", "8");
    run("eval", ...model, "--data", "demo/figures", "--fpr", "0.01", "--store-threshold", "--html", "report.html");
    run("embed", ...model, "demo/figures/bounding_box_test", "--out", "gallery.safetensors");
    run("search", ...model, ...gallery, "--query", `demo/figures/query/${query()}`, "--html", "search.html");
    const url = (name) => pathToFileURL(join(folder, name)).href;
    const files = { allowed: /^(file|data):/, width: 1200 };
    await withChromium(async (browser) => {
        await withPage(browser, url("report.html"), { ...files, height: 1640 }, (page) => save(page, "report.webp"));
        await withPage(browser, url("search.html"), { ...files, height: 1060 }, (page) => save(page, "search.webp"));
        const { server, url: served } = await startServer(program, folder, [...model, ...gallery, "--top", "10"]);
        const ended = new Promise((done) => server.on("exit", done));
        const allowed = new RegExp(`^(${served}/|blob:${served}/|data:)`);
        await withPage(browser, served, { allowed, width: 1200, height: 1080 }, async (page) => {
            const input = await page.$("#image");
            await input.uploadFile(join(folder, "demo/figures/query", query()));
            await page.waitForFunction(() => {
                const images = [...document.querySelectorAll("#results img")];
                return images.length === 10 && images.every((image) => image.naturalWidth > 0);
            });
            await save(page, "serve.webp");
        });
        server.kill("SIGTERM");
        await ended;
    });
    console.log(`the screenshots are smaller than ${LARGEST / 1000} kB${target ? `: ${out}` : ""}`);
} finally {
    rmSync(folder, { recursive: true, force: true });
}
