// Where the store comes from, what its maps mean, and whether its metadata fits its manifest.

import type { App } from "./app.js";
import { h } from "./dom.js";
import { FIGURES } from "./figures.js";
import { bytes, show } from "./format.js";
import { reason } from "./store.js";

export class About {
  private readonly digest = h("dd", { class: "hex" }, "…");
  private readonly check = h("dd", {}, "…");
  private started = false;
  readonly element: HTMLElement;

  constructor(private readonly app: App) {
    const { store } = app;
    const { attributes } = store;
    const pairs: [string, Node | string][] = [
      ["store", store.source.base.href],
      ["images", show(store.n)],
      ["patch grid", `${store.grid[0]} × ${store.grid[1]}`],
      ["classes", store.classNames.length ? show(store.classNames.length) : "none"],
      ["fingerprint", h("span", { class: "hex" }, String(attributes.fingerprint ?? "–"))],
    ];
    this.element = h(
      "section",
      { class: "about", "aria-label": "About this store", hidden: true },
      h("h2", {}, "This store"),
      h(
        "dl",
        {},
        ...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
        h("dt", {}, "digest"),
        this.digest,
        h("dt", {}, "manifest"),
        this.check,
      ),
      h("h2", {}, "Its maps"),
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "wide" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ...["map", "shape", "unit", "stored", "what it is"].map((name) =>
                h("th", { scope: "col" }, name),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            ...[...store.maps.values(), ...(store.thumbnails ? [store.thumbnails] : [])].map(
              (info) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, info.name),
                  h("td", {}, info.shape.join(" × ")),
                  h("td", {}, info.unit),
                  h("td", {}, bytes(info.storedBytes)),
                  h("td", {}, info.description),
                ),
            ),
          ),
        ),
      ),
      h("h2", {}, "Figures to sort by"),
      h("p", {}, "Each is computed in this page from one image's map at the mode that is shown."),
      h(
        "dl",
        {},
        ...FIGURES.flatMap((figure) => [h("dt", {}, figure.name), h("dd", {}, figure.meaning)]),
      ),
      h("h2", {}, "What was asked for"),
      h("pre", { tabindex: "0" }, JSON.stringify(attributes.request ?? {}, null, 2)),
    );
  }

  draw(): void {
    if (this.started) return;
    this.started = true;
    void this.read();
  }

  /** The digest is the hash of the manifest; browsers hash on https and on this machine only. */
  private async read(): Promise<void> {
    const { store } = this.app;
    try {
      const manifest = await store.source.get("/MANIFEST.sha256");
      if (!manifest) {
        this.digest.textContent = "–";
        this.check.textContent = "missing: the store is not complete";
        return;
      }
      if (!crypto.subtle) {
        this.digest.textContent = "not computed: this page was not opened over https";
        this.check.textContent = "there, not compared";
        return;
      }
      this.digest.textContent = await sha256(manifest);
      const line = new TextDecoder()
        .decode(manifest)
        .split("\n")
        .find((text) => text.endsWith("  zarr.json"));
      const matches = line?.slice(0, 64) === (await sha256(store.document));
      this.check.textContent = matches
        ? "names the metadata this page has read; chunks are checked one by one as they are read"
        : "names other metadata than this page has read: the store is damaged";
    } catch (error) {
      this.digest.textContent = "–";
      this.check.textContent = reason(error);
    }
  }
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as BufferSource));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
