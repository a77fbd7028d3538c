// The reports of `lat-wgpu eval --html` and `lat-wgpu search --html`, of synthetic images and one with a hostile name,
// in headless Chromium.
//
//   node tools/browser/report.mjs PROGRAM

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { assertAccessible, assertNoSideways, tabTo, withChromium, withPage } from "./common/chromium.mjs";

const [program] = process.argv.slice(2);
// A ViT of two blocks with random weights: quick, and mostly wrong.
const model = fileURLToPath(new URL("../../tests/goldens/plain.model.safetensors", import.meta.url));
// The slash makes it a file in a folder.
const hostile = "<script>alert(1)</script>.jpg";
const nothingElse = /^(file|data):/;

const folder = mkdtempSync(join(tmpdir(), "report-"));
const run = (...words) => execFileSync(program, words, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });

/** Makes synthetic images and a table of them, with one query a second time under the hostile name. */
function drawFigures() {
    run("synth", "figures", "--persons", "10", "--cameras", "3", "--images", "2");
    const rows = ["path,person,camera,split"];
    for (const [split, name] of [["query", "query"], ["gallery", "bounding_box_test"]]) {
        for (const file of readdirSync(join(folder, "figures", name))) {
            const [person, camera] = file.split("_");
            rows.push(`figures/${name}/${file},${person},${camera.slice(0, 2)},${split}`);
        }
    }
    const [path, person, camera] = rows[1].split(",");
    mkdirSync(join(folder, hostile, ".."), { recursive: true });
    cpSync(join(folder, path), join(folder, hostile));
    rows.push(`${hostile},${person},${camera},query`);
    writeFileSync(join(folder, "set.csv"), `${rows.join("\n")}\n`);
}

const network = ["--model", model, "--heads", "2"];
const evaluate = (...more) => run("eval", ...network, "--data", "set.csv", "--fpr", "0.05", ...more);

/** Searches the gallery for the image with the hostile name. */
function search() {
    run("embed", ...network, "figures/bounding_box_test", "--out", "gallery.npy");
    const words = ["--gallery", "gallery.npy", "--images", "figures/bounding_box_test", "--html", "search.html"];
    run("search", ...network, "--query", hostile, "--top", "12", ...words);
}
const url = (name) => pathToFileURL(join(folder, name)).href;

/** The visible lists. */
const lists = (page) => page.evaluate(() => ({
    count: document.getElementById("count").textContent,
    visible: [...document.querySelectorAll("article")].filter((list) => !list.hidden).map((list) => ({
        name: list.querySelector("h3").textContent,
        score: Number(list.dataset.score),
        person: list.dataset.person,
        camera: list.dataset.camera,
        cameras: [...list.querySelectorAll("li:not([hidden])")].map((place) => place.dataset.camera),
    })),
}));

const sorted = (lists, sign) => lists.every(({ score }, i) => i === 0 || sign * (score - lists[i - 1].score) >= 0);

/** Waits until the count of lists matches `wanted`, and returns the lists. */
async function counted(page, wanted) {
    const pattern = wanted.source;
    await page.waitForFunction((text) => new RegExp(text).test(document.getElementById("count").textContent), { timeout: 5000 }, pattern);
    return lists(page);
}

async function showsEverything(page) {
    assert.equal(await page.title(), "Evaluation of set.csv");
    const { visible, count } = await lists(page);
    assert.ok(/^6 of \d\d lists$/.test(count), count);
    assert.ok(visible.length === 6 && sorted(visible, -1), "three best, three worst");
    assert.ok(visible[2].score > visible[3].score, "the best and the worst differ");
    const ends = await page.$$eval("article:not([hidden]) .end", (ends) => ends.map((end) => end.textContent));
    assert.deepEqual(ends, ["best", "best", "best", "worst", "worst", "worst"]);
    const facts = await page.$eval(".facts", (facts) => facts.textContent);
    for (const fact of [/Made\s*\d{4}-\d\d-\d\d \d\d:\d\d UTC by lat-wgpu \d/, /Adapter\s*\S/, /Command\s*lat-wgpu eval --model/]) {
        assert.match(facts, fact);
    }
    // No labels below an axis touch.
    const gaps = await page.$$eval("figure.chart > svg", (charts) => charts.flatMap((chart) => {
        const boxes = [...chart.querySelectorAll(".tick + text")].map((text) => text.getBoundingClientRect());
        boxes.sort((a, b) => a.left - b.left);
        return boxes.slice(1).map((box, i) => box.left - boxes[i].right);
    }));
    assert.ok(gaps.length > 5 && Math.min(...gaps) > 1, `gaps of ${gaps}`);
    assert.equal((await page.$$("figure.chart > svg")).length, 3);
    const broken = await page.$$eval("img", (images) => images.filter((img) => !img.complete || img.naturalWidth === 0).length);
    assert.equal(broken, 0, "images that don't show");
    // Frames differ in more than their colour.
    for (const [verdict, sign, style] of [["right", "✓", "solid"], ["wrong", "✗", "dashed"]]) {
        const seen = await page.$eval(`li.${verdict}`, (place) => [place.querySelector(".verdict").textContent.trim(), getComputedStyle(place.querySelector(".frame")).borderStyle]);
        assert.deepEqual(seen, [`${sign} ${verdict}`, style]);
    }
    // The name is text in every place, and the page's scripts are its own.
    const headings = await page.$$eval("h3", (headings) => headings.map((heading) => heading.textContent));
    assert.ok(headings.includes(hostile), "the hostile name is a heading");
    assert.ok(await page.$$eval("img", (images, name) => images.some((img) => img.alt === name), hostile));
    assert.equal((await page.$$("script")).length, 1);
}

async function worksByKeyboard(page) {
    await tabTo(page, "order");
    await page.keyboard.press("ArrowDown");
    const all = (await lists(page)).visible.length;
    assert.ok(all > 10 && sorted((await lists(page)).visible, -1), "best first");
    await page.keyboard.press("ArrowDown");
    assert.ok(sorted((await lists(page)).visible, 1), "worst first");

    await tabTo(page, "person");
    await page.keyboard.press("ArrowDown");
    const ofPerson = await counted(page, /^(?!0)\d+ of/);
    assert.ok(ofPerson.visible.length < all);
    assert.equal(new Set(ofPerson.visible.map(({ person }) => person)).size, 1);
    assert.ok(ofPerson.count.startsWith(`${ofPerson.visible.length} of ${all}`), ofPerson.count);

    await tabTo(page, "camera");
    await page.keyboard.press("ArrowDown");
    const ofBoth = await lists(page);
    assert.ok(ofBoth.visible.length < ofPerson.visible.length);
    assert.equal(new Set(ofBoth.visible.map(({ camera }) => camera)).size, 1);

    await tabTo(page, "shown-camera");
    await page.keyboard.press("ArrowDown");
    const cameras = new Set((await lists(page)).visible.flatMap(({ cameras }) => cameras));
    assert.ok(cameras.size <= 1, [...cameras].join());

    const nameIsSeen = () => page.$eval("article:not([hidden]) li:not([hidden]) .name", (name) => name.offsetParent !== null);
    await tabTo(page, "names");
    await page.keyboard.press("Space");
    assert.ok(await nameIsSeen());

    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    const again = await counted(page, /^6 of/);
    assert.ok(sorted(again.visible, -1) && !(await nameIsSeen()));
    assert.deepEqual(await page.$$eval("select", (fields) => fields.map((field) => field.value)), ["ends", "", "", ""]);

    await page.focus("#operating summary");
    await page.keyboard.press("Enter");
    assert.ok(await page.$eval("#operating table", (table) => table.offsetHeight > 0));
}

async function showsSearch(page) {
    const { visible } = await lists(page);
    assert.deepEqual(visible.map(({ name }) => name), [hostile]);
    assert.equal(await page.title(), `Search for ${hostile}`);
    assert.equal((await page.$$("li.unknown img")).length, 12);
    // One query has no person and no camera to choose; its matches have.
    assert.deepEqual(await page.$$eval("select", (fields) => fields.map((field) => field.id)), ["order", "shown-camera"]);
    await tabTo(page, "shown-camera");
    await page.keyboard.press("ArrowDown");
    const { cameras } = (await lists(page)).visible[0];
    assert.ok(cameras.length < 12 && new Set(cameras).size === 1, cameras.join());
}

async function isDark(page) {
    const [ground, ink] = await page.evaluate(() => {
        const { backgroundColor, color } = getComputedStyle(document.body);
        return [backgroundColor, color].map((text) => text.match(/\d+/g).slice(0, 3).map(Number));
    });
    assert.ok(Math.max(...ground) < 64 && Math.min(...ink) > 192, `${ink} on ${ground}`);
}

try {
    drawFigures();
    evaluate("--html", "report.html");
    mkdirSync(join(folder, "other place"));
    evaluate("--html", "other place/linked.html", "--thumbnails", "0");
    search();

    await withChromium(async (browser) => {
        const report = url("report.html");
        await withPage(browser, report, { allowed: nothingElse }, async (page) => {
            await showsEverything(page);
            await assertAccessible(page);
            await worksByKeyboard(page);
        });
        await withPage(browser, report, { allowed: nothingElse, scheme: "dark" }, async (page) => {
            await isDark(page);
            await assertAccessible(page);
        });
        await withPage(browser, report, { allowed: nothingElse, width: 360, height: 740 }, async (page) => {
            await assertNoSideways(page);
            await assertAccessible(page);
            await page.click("#names");
            await page.$$eval("details", (tables) => tables.forEach((table) => { table.open = true; }));
            await assertNoSideways(page);
        });
        await withPage(browser, report, { allowed: nothingElse, script: false }, async (page) => {
            assert.ok((await page.$$("article")).length > 10 && (await page.$("#filters:not([hidden])")) === null);
        });
        await withPage(browser, url("search.html"), { allowed: nothingElse }, async (page) => {
            await assertAccessible(page);
            await showsSearch(page);
        });
        await withPage(browser, url("other place/linked.html"), { allowed: nothingElse }, async (page) => {
            assert.equal((await page.$$("img[src^=data]")).length, 0);
            await page.select("#order", "best");
            const loaded = (img) => img.scrollIntoView() || img.decode().then(() => img.naturalWidth > 0);
            const image = await page.evaluateHandle((name) => [...document.images].find((img) => img.alt === name), hostile);
            assert.ok(await image.evaluate(loaded), "a linked image under the hostile name");
        });
    });
    console.log("the reports work: everything is shown, by keyboard too, light and dark, on a phone, without scripts");
} finally {
    rmSync(folder, { recursive: true, force: true });
}
