// Where the store comes from, what its maps mean, and whether its metadata fits its manifest.

import type { App } from "./app.js";
import { h } from "./dom.js";
import { FIGURES } from "./figures.js";
import { bytes, show } from "./format.js";

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
      ...(store.groups
        ? [["groups", show(store.groupNames.length)] satisfies [string, string]]
        : []),
      ...(app.beside
        ? [["beside", app.beside.store.source.base.href] satisfies [string, string]]
        : []),
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

  private async read(): Promise<void> {
    const { digest, says } = await this.app.store.checkMetadata();
    this.digest.textContent = digest;
    this.check.textContent = says;
  }
}
