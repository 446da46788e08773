// One image large, with its map over it, all its modes beside it, and its figures.

import type { App } from "./app.js";
import { paintMap } from "./colour.js";
import { h, setText } from "./dom.js";
import { FIGURES, figuresOf, modeValues, rowsWith } from "./figures.js";
import { plural, show } from "./format.js";
import { Legend, Pane, type Patch } from "./pane.js";
import { advice } from "./reliability.js";
import { atPatch } from "./repeats.js";
import type { State } from "./state.js";
import type { MapInfo } from "./metadata.js";

export class Detail {
  private readonly title = h("h2", { id: "detail-title" });
  private readonly subtitle = h("p", { class: "subtitle" });
  private readonly pane: Pane;
  private readonly legend = new Legend();
  private readonly readout = h("p", { class: "readout", role: "status", "data-test": "readout" });
  private readonly modes = h("div", { class: "modes", role: "group", "aria-label": "Modes" });
  private readonly others = h("table", { class: "figures" });
  private readonly figures = h("table", { class: "figures" });
  private readonly mix = h("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.05",
    id: "mix",
    oninput: () => this.app.set({ mix: Number(this.mix.value) }),
  });
  private readonly mixField = h(
    "label",
    { class: "field mix" },
    h("span", {}, "image"),
    this.mix,
    h("span", {}, "map"),
  );
  private readonly damage = h("p", { class: "damage", role: "alert", hidden: true });
  private readonly group = h("span", {});
  private readonly ofGroup = h("button", {
    type: "button",
    class: "link",
    onclick: () => this.filterGroup(),
  });
  private readonly groupLine = h("p", { class: "subtitle" }, this.group, this.ofGroup);
  private readonly advice = h("span", {});
  private readonly instead = h(
    "button",
    { type: "button", onclick: () => this.app.set(this.remedy!, true) },
    "Show it",
  );
  private readonly adviceLine = h(
    "p",
    { class: "advice", role: "note" },
    this.advice,
    this.instead,
  );
  private remedy: Partial<State> | null = null;
  readonly element: HTMLElement;
  private hovered: Patch | null = null;
  onstep: (step: number) => void = () => {};
  onclose: () => void = () => {};

  constructor(private readonly app: App) {
    this.pane = new Pane((patch, chosen) => {
      this.hovered = chosen ? null : patch;
      if (chosen) app.set({ patch });
      else app.redraw();
    });
    const button = (text: string, label: string, onclick: () => void): HTMLElement =>
      h("button", { type: "button", "aria-label": label, title: label, onclick }, text);
    const compare = (key: "a" | "b" | "o") => (): void => {
      const row = app.state.image;
      const sides = key === "o" ? { a: `i${row}`, b: key } : { [key]: `i${row}` };
      if (row !== null) app.set({ ...sides, view: "compare" }, true);
    };
    this.element = h(
      "aside",
      { class: "detail", "aria-labelledby": "detail-title", hidden: true },
      h(
        "header",
        {},
        h("div", { class: "names" }, this.title, this.subtitle, this.groupLine),
        button("‹", "Previous image (P)", () => this.onstep(-1)),
        button("›", "Next image (N)", () => this.onstep(1)),
        button("×", "Close (Escape)", () => this.onclose()),
      ),
      this.damage,
      this.pane.stage,
      this.readout,
      this.legend.element,
      this.adviceLine,
      this.mixField,
      this.modes,
      this.others,
      this.figures,
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: compare("a") }, "Compare as A"),
        h("button", { type: "button", onclick: compare("b") }, "Compare as B"),
        app.beside &&
          h(
            "button",
            { type: "button", onclick: compare("o") },
            `Compare with ${app.beside.names[1]}`,
          ),
      ),
    );
  }

  focus(): void {
    this.pane.stage.focus({ preventScroll: true });
  }

  draw(): void {
    const { app } = this;
    const { store, state, info } = app;
    const row = state.image;
    this.element.hidden = row === null;
    if (row === null) return;
    const [rows, cols] = store.grid;
    setText(this.title, store.id(row));
    const name = app.className(row);
    setText(
      this.subtitle,
      `image ${show(row)}${name ? ` · class ${name}` : " · no class"} · ${app.title}`,
    );
    this.drawGroup(row);
    const values = app.values(row) ?? null;
    const range = values && app.range(values);
    const problem = store.problem(state.map, row);
    this.damage.hidden = !problem;
    setText(this.damage, problem ? problem.text : "");
    const thumb = store.thumbnails && store.slab("image", row);
    const patch = this.hovered ?? state.patch;
    this.pane.draw(
      {
        label: `${app.title} of ${app.describeImage(row)}`,
        values,
        rows,
        cols,
        range,
        table: app.table,
        mix: state.mix,
        thumbnail: thumb && { info: store.thumbnails!, slab: thumb, row },
      },
      patch,
    );
    this.mixField.hidden = !store.thumbnails;
    this.mix.value = String(state.mix);
    const value = values && patch ? values[patch[0] * cols + patch[1]] : undefined;
    this.drawReadout(patch, value);
    this.legend.draw(range, app.table, info.unit, value);
    const said = advice(app, row);
    this.adviceLine.hidden = !said;
    setText(this.advice, said ? said.text : "");
    this.remedy = said && said.instead;
    this.instead.hidden = !this.remedy;
    this.drawModes(row, info);
    this.drawOthers(row, patch);
    this.drawFigures(values, rows, cols);
  }

  /** The image's group, and the way to the others of it. */
  private drawGroup(row: number): void {
    const { app } = this;
    const { groups } = app.store;
    this.groupLine.hidden = !groups;
    if (!groups) return;
    const more = rowsWith(groups, groups[row]).length - 1;
    const here = app.state.group === groups[row];
    setText(this.group, `group ${app.groupOf(row)}, ${more === 0 ? "no other image " : ""}`);
    this.ofGroup.hidden = more === 0 && !here;
    setText(this.ofGroup, here ? "show all images" : plural(more, "other image"));
  }

  private filterGroup(): void {
    const { app } = this;
    const { group, image } = app.state;
    const own = app.store.groups![image!];
    // Where the large image covers the grid, it goes away.
    const covers = matchMedia("(max-width: 899px)").matches;
    const shown = group === own ? { group: null } : { group: own, classes: "all" };
    app.set({ ...shown, at: 0, image: covers ? null : image }, true);
  }

  private drawReadout(patch: Patch | null, value: number | undefined): void {
    this.readout.dataset.value = value === undefined ? "" : String(value);
    setText(
      this.readout,
      !patch || value === undefined
        ? "Point at the map, or move with the arrow keys, to read a value."
        : `row ${patch[0]}, column ${patch[1]}: ${show(value, 7)}`,
    );
  }

  /** A small map of every mode; a click makes it the one that is shown. */
  private drawModes(row: number, info: MapInfo): void {
    const { app } = this;
    const slab = app.store.slab(info.name, row);
    this.modes.hidden = !info.hasModes || !slab;
    if (!info.hasModes || !slab) return;
    const count = info.modes + 1;
    while (this.modes.children.length > count) this.modes.lastElementChild!.remove();
    while (this.modes.children.length < count) {
      const plane = this.modes.children.length;
      this.modes.append(
        h(
          "button",
          { type: "button", class: "mode", onclick: () => app.set({ mode: plane }) },
          h("canvas", { "aria-hidden": "true" }),
          h("span", {}),
          h("small", {}),
        ),
      );
    }
    const [, rows, cols] = info.shape;
    for (let plane = 0; plane < count; plane++) {
      const button = this.modes.children[plane];
      const values = modeValues(slab, info, row, plane, new Float64Array(rows * cols));
      const range = app.range(values, plane);
      paintMap(button.children[0] as HTMLCanvasElement, values, rows, cols, app.table, range);
      setText(button.children[1], app.planeName(plane));
      setText(button.children[2], app.figures.isConstant(plane) ? "constant" : "");
      button.setAttribute("aria-pressed", String(plane === app.plane));
    }
  }

  /** Every mode of every map in memory, at the marked patch. */
  private drawOthers(row: number, patch: Patch | null): void {
    const { app } = this;
    const { store } = app;
    this.others.hidden = !patch;
    if (!patch) return;
    const [, cols] = store.grid;
    const widest = Math.max(...[...store.maps.values()].map((info) => info.modes));
    const head = h(
      "tr",
      {},
      h("th", { scope: "col" }, `patch ${patch[0]}, ${patch[1]}`),
      ...Array.from({ length: widest }, (_, mode) =>
        h("th", { scope: "col" }, widest > 1 ? `mode ${mode}` : ""),
      ),
    );
    const cell = patch[0] * cols + patch[1];
    // The repeats of a map below it, and what it is without rounding below these.
    const names = [...store.maps.keys()].filter((name) => !name.endsWith("_change"));
    const after = (name: string): string[] => names.filter((other) => other === `${name}_exact`);
    const lines = names
      .filter((name) => !names.some((other) => name === `${other}_exact`))
      .flatMap((name) => [name, ...after(name)])
      .flatMap((name) => [store.info(name), store.repeatsOf(name)].filter((info) => !!info))
      .flatMap((info) => atPatch(store.slab(info.name, row), info, row, cell))
      .map(({ name, values }) => {
        const cells = Array.from({ length: widest }, (_, mode) => {
          const value = values[mode];
          if (value === undefined) return h("td", {});
          return value === null ? h("td", { class: "absent" }, "·") : h("td", {}, show(value, 6));
        });
        return h("tr", {}, h("th", { scope: "row" }, name), ...cells);
      });
    this.others.replaceChildren(h("thead", {}, head), h("tbody", {}, ...lines));
  }

  private drawFigures(values: Float64Array | null, rows: number, cols: number): void {
    this.figures.hidden = !values;
    if (!values) return;
    const out = new Float64Array(FIGURES.length);
    figuresOf(values, rows, cols, out, 0);
    this.figures.replaceChildren(
      h("caption", {}, `This image's ${this.app.title}`),
      h(
        "tbody",
        {},
        ...FIGURES.map((figure, k) =>
          h(
            "tr",
            { title: figure.meaning },
            h("th", { scope: "row" }, figure.name),
            h("td", { "data-figure": figure.id, "data-value": String(out[k]) }, show(out[k], 6)),
          ),
        ),
      ),
    );
  }
}
