// Bundles the sources into one page, index.html, with its script and style in it.
// node build.mjs [--out FOLDER]; by default where the Python package looks for it.

import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rename, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const flag = process.argv.indexOf("--out");
const out =
  flag > 0 ? resolve(process.argv[flag + 1]) : join(here, "..", "frictionstore", "explorer_page");

/** zarrita's compressors would add a megabyte and need eval; src/codecs.ts registers its own. */
const withoutUnusedCodecs = {
  name: "without-unused-codecs",
  setup(bundle) {
    bundle.onResolve({ filter: /^numcodecs\/(blosc|lz4|zstd)$/ }, ({ path }) => ({
      path,
      namespace: "unused-codec",
    }));
    bundle.onLoad({ filter: /.*/, namespace: "unused-codec" }, () => ({
      contents: "export default undefined;",
    }));
  },
};

async function bundled(entry, options) {
  const result = await build({
    entryPoints: [join(here, "src", entry)],
    bundle: true,
    minify: true,
    write: false,
    target: "es2022",
    legalComments: "none",
    logLevel: "warning",
    metafile: true,
    ...options,
  });
  return { text: result.outputFiles[0].text, inputs: Object.keys(result.metafile.inputs) };
}

/** The licences of the packages that the script contains, as an HTML comment. */
async function licences(inputs) {
  const found = inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  const texts = [];
  for (const name of [...new Set(found.filter(Boolean))].sort()) {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? await readFile(join(folder, file), "utf8") : "";
    texts.push(`${name} ${version} (${license})\n\n${text.trim()}`);
  }
  const notice = `This page contains the following packages.\n\n${texts.join("\n\n\n")}`;
  return `<!--\n${notice.replaceAll("--", "- -")}\n-->\n`;
}

const main = await bundled("main.ts", { format: "esm", plugins: [withoutUnusedCodecs] });
const script = main.text.replaceAll("</script", "<\\/script");
const style = (await bundled("style.css", {})).text.trim();
const notice = await licences(main.inputs);
const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
const policy = [
  "default-src 'none'",
  `script-src ${hash(script)}`,
  // Widths and positions are set as style attributes by the script.
  "style-src 'unsafe-inline'",
  "img-src data:",
  "connect-src http: https:",
  "base-uri 'none'",
  "form-action 'self'",
].join("; ");

// A function as replacement: the texts hold dollar signs that mean something to replace().
const page = (await readFile(join(here, "src", "page.html"), "utf8"))
  .replace("%CSP%", () => policy)
  .replace("%STYLE%", () => style)
  .replace("%SCRIPT%", () => script)
  .replace("</html>", () => `</html>\n${notice}`);
await mkdir(out, { recursive: true });
await writeFile(join(out, "index.html.part"), page);
await rename(join(out, "index.html.part"), join(out, "index.html")); // whole, or not there
console.log(`explorer: ${Math.round(page.length / 1000)} kB in ${join(out, "index.html")}`);
