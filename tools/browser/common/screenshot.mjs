// An image of a report, for documents: its top, with the best lists first.
//
//   CHROMIUM=chromium node tools/browser/common/screenshot.mjs REPORT.html OUT.webp [light|dark]

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { withChromium, withPage } from "./chromium.mjs";

const [report, out, scheme = "light"] = process.argv.slice(2);
const window = { allowed: /^(file|data):/, scheme, width: 1120, height: 1640 };

await withChromium((browser) => withPage(browser, pathToFileURL(resolve(report)).href, window, async (page) => {
    await page.select("#order", "best");
    await page.screenshot({ path: out, type: "webp", quality: 82 });
}));
