// The page at /ui in headless Chromium: chatting works, the map moves, the slider changes the budget, and the console shows
// no errors. HYPURA_URL names the server, HYPURA_SCREENSHOTS a folder for screenshots. Prints TAP.
import assert from "node:assert/strict";
import {existsSync} from "node:fs";
import {runTests} from "./tap.mjs";

const url = process.env.HYPURA_URL, pictures = process.env.HYPURA_SCREENSHOTS;
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome",
    process.env.CHROMIUM].find(path => path && existsSync(path));
let playwright;
try {
    playwright = await import("playwright-core");
} catch { /* skipped below */ }
if (!playwright || !executablePath) {
    console.log("1..0 # SKIP playwright-core or chromium is not installed");
    process.exit(0);
}
const browser = await playwright.chromium.launch({executablePath, args: ["--no-sandbox"]});
const complaints = [], foreign = [];
const open = async options => {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    page.on("console", message => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
    page.on("pageerror", error => complaints.push(String(error)));
    page.on("request", request => new URL(request.url()).origin !== url && !request.url().startsWith("data:") && foreign.push(request.url()));
    await page.goto(url + "/ui");
    await page.waitForFunction(() => document.querySelectorAll("#model option").length > 0);
    return page;
};
const picture = (page, name) => pictures && page.screenshot({path: `${pictures}/${name}.png`});
const ask = async (page, text) => {
    await page.fill("#text", text);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#send").textContent === "Send" &&
        document.querySelector(".message:last-child .note")?.textContent, null, {timeout: 60000});
};
// Returns all visible texts whose contrast is below WCAG's AA.
const faint = page => page.evaluate(() => {
    const numbers = text => (text.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = numbers(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("body *")].filter(element => element.checkVisibility() && !element.disabled &&
        !element.closest(".hidden, script") && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(element => {
        const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
        return [element.id || element.className || element.tagName, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
    }).filter(([, ratio]) => ratio < 4.5);
});
const tests = [
    ["a first visit explains itself", async () => {
        for (const colorScheme of ["light", "dark"]) {
            const page = await open({viewport: {width: 360, height: 740}, colorScheme});
            assert.match(await page.textContent("#welcome h2"), /this machine/);
            assert(await page.isVisible("#explained"));
            assert(await page.evaluate(() => document.documentElement.scrollWidth) <= 360);
            assert.deepEqual(await faint(page), []);
            await page.click("#welcome button");
            await page.waitForFunction(() => document.querySelector(".message.assistant .note")?.textContent, null, {timeout: 60000});
            assert.equal(await page.isVisible("#welcome"), false);
            await page.waitForSelector("#picture", {state: "visible"});
            assert.deepEqual(await faint(page), []);
            // The element with the keyboard focus shows it.
            for (const id of ["new", "chats", "model", "again", "budget"]) {
                await page.focus("#" + id);
                await page.keyboard.press("Shift");
                assert.equal(await page.$eval("#" + id, e => e.matches(":focus-visible") && getComputedStyle(e).outlineStyle), "solid", id);
            }
        }
    }],
    ["chatting works with the keyboard alone", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        await page.focus("#text");
        await ask(page, "What does the ls command do?");
        await ask(page, "And what does the rm command do?");
        const texts = await page.$$eval(".message.assistant", list => list.map(e => e.textContent));
        assert(texts.length === 2 && texts.every(text => text.length > 20), JSON.stringify(texts));
        // The first question is not read again. Neither is its answer, if it is tokenized as it was generated.
        const notes = await page.$$eval(".message.assistant .note", list => list.map(e => e.textContent));
        const [known, all] = notes[1].match(/(\d+) of (\d+) prompt tokens were cached/).slice(1).map(Number);
        const first = +notes[0].match(/of (\d+) prompt tokens/)[1];
        assert(known > first && known < all, JSON.stringify(notes));
        await picture(page, "page-light");
        await page.click("#again");
        await page.waitForFunction(() => document.querySelector("#send").textContent === "Send", null, {timeout: 60000});
        assert.equal((await page.$$(".message")).length, 4);
        await page.reload();
        await page.waitForSelector(".message.assistant");
        assert.equal((await page.$$(".message")).length, 4);
        await page.click("#new");
        assert.equal((await page.$$(".message")).length, 0);
        assert((await page.$$("#chats option")).length >= 2);
    }],
    ["the map and the figures move", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        await page.waitForFunction(() => /8 layers/.test(document.querySelector("#map").getAttribute("aria-label")));
        // Record all changes in the page itself: polling could miss a state that lasts a quarter of a second.
        await page.evaluate(() => {
            window.seen = {figures: new Set(), pixels: new Set()};
            new MutationObserver(() => {
                seen.figures.add(document.querySelector("#speed").textContent);
                requestAnimationFrame(() => seen.pixels.add(document.querySelector("#map").toDataURL()));
            }).observe(document.querySelector("#speed"), {childList: true, characterData: true, subtree: true});
        });
        await ask(page, "Explain the tar command at length, with all of its options.");
        await page.waitForFunction(() => seen.figures.size > 1 && seen.pixels.size > 1, null, {timeout: 10000});
        const labels = [await page.getAttribute("#map", "aria-label")];
        assert.match([...labels][0], /experts/);
    }],
    ["the slider changes the budget", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        await page.waitForFunction(() => !document.querySelector("#budget").disabled && document.querySelector("#budget").max > 2);
        const before = await page.textContent("#budget-text");
        await page.focus("#budget");
        for (let i = 0; i < 30; i++) await page.keyboard.press("ArrowRight");
        await page.waitForFunction(() => /The budget is/.test(document.querySelector("#budget-note").textContent), null, {timeout: 20000});
        assert.notEqual(await page.textContent("#budget-text"), before);
        await ask(page, "What does ls do?");
    }],
    ["one of several models can be chosen", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        await ask(page, "What does the ls command do?");
        assert.equal(await page.isVisible("#shown"), false);
        const embedded = await fetch(url + "/api/embed", {method: "POST", body: JSON.stringify({model: "bert", input: "a b"})});
        assert.equal(embedded.status, 200);
        await page.waitForSelector("#shown", {state: "visible"});
        await page.waitForFunction(() => document.querySelector("#title").textContent === "bert");
        await page.focus("#shown");
        await page.keyboard.press("ArrowDown");
        await page.keyboard.press("ArrowDown");
        await page.waitForFunction(() => /manpage/.test(document.querySelector("#title").textContent) &&
            /8 layers/.test(document.querySelector("#map").getAttribute("aria-label")));
        // The page keeps showing the selected model, whichever one is in use.
        await fetch(url + "/api/embed", {method: "POST", body: JSON.stringify({model: "bert", input: "a b"})});
        await page.waitForTimeout(600);
        assert.match(await page.textContent("#title"), /manpage/);
        await picture(page, "page-two-models");
        await fetch(url + "/api/generate", {method: "POST", body: JSON.stringify({model: "bert", keep_alive: 0})});
        await page.waitForSelector("#shown", {state: "hidden"});
    }],
    ["an answer can be stopped", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        // An answer so long that it must be stopped.
        await page.route("**/api/chat", route => route.continue({postData: JSON.stringify({...route.request().postDataJSON(),
            format: {type: "string", minLength: 5000}})}));
        await page.fill("#text", "Explain the tar command.");
        await page.click("#send");
        await page.waitForFunction(() => document.querySelector("#send").textContent === "Stop");
        await page.click("#send");
        await page.waitForFunction(() => document.querySelector("#send").textContent === "Send");
        assert((await page.textContent(".message:last-child")).length < 5000);
    }],
    ["it fits 360 pixels, in the dark", async () => {
        const page = await open({viewport: {width: 360, height: 740}, colorScheme: "dark"});
        await ask(page, "What does the ls command do?");
        const width = await page.evaluate(() => document.documentElement.scrollWidth);
        assert(width <= 360, `the page is ${width} pixels wide`);
        await picture(page, "page-dark-360");
        const wide = await open({viewport: {width: 1920, height: 1000}, colorScheme: "dark"});
        await wide.waitForFunction(() => /8 layers/.test(document.querySelector("#map").getAttribute("aria-label")));
        await picture(wide, "page-dark-wide");
    }],
    ["every control has a name", async () => {
        const page = await open({viewport: {width: 1280, height: 800}});
        const nameless = await page.$$eval("button, select, textarea, input", list => list.filter(e =>
            !(e.textContent.trim() || e.labels?.length || e.getAttribute("aria-label"))).map(e => e.id));
        assert.deepEqual(nameless, []);
    }],
    ["no errors, and no requests to other sites", async () => {
        assert.deepEqual(complaints, []);
        assert.deepEqual(foreign, []);
    }],
];
const failed = await runTests(tests);
await browser.close();
process.exit(failed ? 1 : 0);
