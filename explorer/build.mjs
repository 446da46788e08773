// Bundles the sources into one page, index.html, with its script and style in it.
// node build.mjs [--out FOLDER]; by default where the Python package looks for it.

import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const flag = process.argv.indexOf("--out");
const out =
  flag > 0 ? resolve(process.argv[flag + 1]) : join(here, "..", "frictionstore", "explorer_page");

/** zarrita's compressors would add a megabyte and need eval; src/store.ts registers its own. */
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
    ...options,
  });
  return result.outputFiles[0].text;
}

const script = (
  await bundled("main.ts", { format: "esm", plugins: [withoutUnusedCodecs] })
).replaceAll("</script", "<\\/script");
const style = (await bundled("style.css", {})).trim();
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
  .replace("%SCRIPT%", () => script);
await mkdir(out, { recursive: true });
await writeFile(join(out, "index.html"), page);
console.log(`explorer: ${Math.round(page.length / 1000)} kB in ${join(out, "index.html")}`);
