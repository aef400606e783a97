// See look_at_pages, which installs what this needs. Exit code 1 where anything was found.
const fs = require("fs");
const path = require("path");
const { pathToFileURL } = require("url");
const puppeteer = require("puppeteer-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const { HtmlValidate, StaticConfigLoader } = require("html-validate");

const [target, ...pages] = process.argv.slice(2);

async function main() {
  fs.mkdirSync(target, { recursive: true });
  // As browsers and the standard have it; nothing of style.
  const validator = new HtmlValidate(new StaticConfigLoader({ extends: ["html-validate:standard"] }));
  const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  let found = 0, looks = 0;
  const tell = (page, what) => { found += 1; console.log(`${page}: ${what}`); };
  for (const file of pages) {
    const report = await validator.validateString(fs.readFileSync(file, "utf8"));
    for (const of of report.results) for (const m of of.messages) tell(file, `line ${m.line}: ${m.message} (${m.ruleId})`);
    const name = path.resolve(file).split(path.sep).slice(-2).join("-").replace(".html", "");
    for (const width of [1280, 400]) for (const theme of ["light", "dark"]) {
      const page = await browser.newPage();
      const here = `${file} at ${width}, ${theme}`;
      page.on("console", (m) => tell(here, m.text()));
      page.on("dialog", (d) => { tell(here, "a script ran"); d.dismiss(); });
      page.on("request", (r) => { if (!/^(file|data):/.test(r.url())) tell(here, `asks for ${r.url()}`); });
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
      await page.goto(pathToFileURL(file).href);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) tell(here, `${over} pixels too wide`);
      await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => axe.run());
      for (const v of violations) tell(here, `${v.id}: ${v.help} (${v.nodes.length}), such as ${v.nodes[0].html.slice(0, 120)}`);
      await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = false; }));
      await page.screenshot({ path: path.join(target, `${name}-${width}-${theme}.png`), fullPage: true });
      looks += 1;
      await page.close();
    }
  }
  await browser.close();
  console.log(`${pages.length} pages, looked at ${looks} times: ${found} findings`);
  process.exit(found ? 1 : 0);
}

main().catch((error) => { console.error(error.message); process.exit(2); });
