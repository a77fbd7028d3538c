// A headless Chromium in which every message is an error, and checks for every page.

import assert from "node:assert/strict";
import axe from "axe-core";
import puppeteer from "puppeteer-core";

/** Starts $CHROMIUM with optional arguments, calls `use` with it and stops it. */
export async function withChromium(use, more = []) {
    assert.ok(process.env.CHROMIUM, "CHROMIUM must be the path of Chromium; tools/browser.sh finds it");
    // Chromium has no sandbox for the superuser, who is often the only user of a container.
    const args = process.getuid?.() === 0 ? ["--no-sandbox", ...more] : more;
    const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args });
    try {
        await use(browser);
    } finally {
        await browser.close();
    }
}

/**
 * Opens a URL in a new page, calls `use` with it and closes it. Fails on console messages, errors, dialogs, and requests
 * that `allowed` doesn't match.
 */
export async function withPage(browser, url, { allowed, scheme = "light", width = 1280, height = 900, script = true }, use) {
    const page = await browser.newPage();
    const complaints = [];
    page.on("console", (message) => complaints.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
    page.on("requestfailed", (request) => complaints.push(`failed: ${request.url().slice(0, 200)}`));
    page.on("request", (request) => {
        if (!allowed.test(request.url())) complaints.push(`request: ${request.url().slice(0, 200)}`);
    });
    page.on("dialog", (dialog) => {
        complaints.push(`dialog: ${dialog.message()}`);
        dialog.dismiss();
    });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.setViewport({ width, height, isMobile: width < 600, hasTouch: width < 600 });
    await page.setJavaScriptEnabled(script);
    await page.goto(url, { waitUntil: "load" });
    await use(page);
    await page.close();
    assert.deepEqual(complaints, [], `${url} at ${width} pixels, ${scheme}`);
}

/** Fails if axe-core finds a barrier. */
export async function assertAccessible(page) {
    // Evaluated by the debugger, since the page's policy allows no other script.
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => window.axe.run());
    const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html).join(" ")}`);
    assert.deepEqual(found, []);
}

/** Fails if the page is wider than the window. */
export async function assertNoSideways(page) {
    const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    assert.ok(content <= window && window === page.viewport().width, `${content} pixels in a window of ${window}`);
}

/** Presses Tab until an element with this id has the focus. */
export async function tabTo(page, id) {
    for (let pressed = 0; pressed < 60; pressed += 1) {
        await page.keyboard.press("Tab");
        if (await page.evaluate((wanted) => document.activeElement.id === wanted, id)) return;
    }
    assert.fail(`Tab doesn't lead to #${id}`);
}
