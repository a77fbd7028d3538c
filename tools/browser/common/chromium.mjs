// A headless Chromium that forgives nothing, and checks that every page must pass.

import assert from "node:assert/strict";
import axe from "axe-core";
import puppeteer from "puppeteer-core";

/** Starts $CHROMIUM, with more arguments where they are given, gives it to `use` and stops it. */
export async function withChromium(use, more = []) {
    assert.ok(process.env.CHROMIUM, "CHROMIUM must tell where Chromium is; tools/browser.sh finds it");
    // Chromium refuses to isolate pages for the superuser; containers often have no other.
    const args = process.getuid?.() === 0 ? ["--no-sandbox", ...more] : more;
    const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args });
    try {
        await use(browser);
    } finally {
        await browser.close();
    }
}

/**
 * Opens a URL in a page of its own, gives it to `use` and closes it. Fails on messages in the console, on errors, on
 * dialogs, and on requests that `allowed` doesn't match.
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

/** Fails if axe-core finds anything that keeps people out. */
export async function assertAccessible(page) {
    // Evaluated from outside: the page's own policy lets no foreign script in.
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => window.axe.run());
    const told = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html).join(" ")}`);
    assert.deepEqual(told, []);
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
