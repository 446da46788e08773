// Two images, or two class means, of one store or of two, side by side, and their difference.

import type { App } from "./app.js";
import { decideScale, ends, lut, symmetricRange, type Range } from "./colour.js";
import { h, setText } from "./dom.js";
import type { ClassMean } from "./figures.js";
import { show } from "./format.js";
import { Legend, Pane, type Patch, type Picture } from "./pane.js";
import { isSubject } from "./state.js";
import type { Store } from "./store.js";

interface Subject {
  title: string;
  note: string;
  values: Float64Array | null;
  row: number | null;
  store: Store;
}

type Side = "a" | "b";

export class Compare {
  private readonly sides = { a: this.makeSide("a"), b: this.makeSide("b") };
  private readonly difference = this.makePane();
  private readonly differenceTitle = h("h2", {}, "A − B");
  private readonly differenceNote = h("p", { class: "subtitle" });
  private readonly differenceLegend = new Legend();
  private readonly readout = h("p", { class: "readout", role: "status", "data-test": "compare" });
  private readonly raw = rawMeans(() => this.app);
  private hovered: Patch | null = null;
  readonly element: HTMLElement;

  constructor(private readonly app: App) {
    this.element = h(
      "section",
      { class: "compare", "aria-label": "Compare", hidden: true },
      h(
        "div",
        { class: "panes" },
        h("div", { class: "side" }, ...this.sides.a.parts),
        h("div", { class: "side" }, ...this.sides.b.parts),
        h(
          "div",
          { class: "side" },
          h("div", { class: "pick" }, this.differenceTitle),
          this.differenceNote,
          this.difference.stage,
          this.differenceLegend.element,
        ),
      ),
      this.raw.element,
      this.readout,
    );
  }

  private makePane(): Pane {
    return new Pane((patch, chosen) => {
      this.hovered = chosen ? null : patch;
      if (chosen) this.app.set({ patch });
      else this.app.redraw();
    });
  }

  private makeSide(side: Side) {
    const pane = this.makePane();
    const kind = h("select", {
      "aria-label": `What ${side.toUpperCase()} is`,
      onchange: () => this.picked(side, kind.value),
    });
    const number = h("input", {
      type: "text",
      inputmode: "numeric",
      size: "10",
      "aria-label": `Image of ${side.toUpperCase()}`,
      placeholder: "image or id",
      onchange: () => void this.typed(side, number.value),
    });
    const note = h("p", { class: "subtitle" });
    const legend = new Legend();
    const parts = [
      h("div", { class: "pick" }, h("h2", {}, side.toUpperCase()), kind, number),
      note,
      pane.stage,
      legend.element,
    ];
    return { pane, kind, number, note, legend, parts };
  }

  private picked(side: Side, value: string): void {
    this.app.set({ [side]: value === "i" ? "i0" : value }, true);
  }

  /** An image by its position or by its id. */
  private async typed(side: Side, text: string): Promise<void> {
    const { store } = this.app;
    const name = text.trim();
    let subject = `i${name}`;
    if (!isSubject(subject, store)) subject = `i${(await store.allIds()).indexOf(name)}`;
    if (isSubject(subject, store)) {
      this.app.set({ [side]: subject }, true);
    } else {
      const input = this.sides[side].number;
      input.setCustomValidity(`No image has this position or id: 0 to ${store.n - 1}`);
      input.reportValidity();
      input.setCustomValidity("");
    }
  }

  /** What is compared where the address does not say: two stores, two classes, or two images. */
  private chosen(side: Side): string {
    const { state, store, beside } = this.app;
    if (state[side]) return state[side];
    if (beside && side === "b") return "o";
    if (beside && this.chosen("b") === "o") return `i${beside.common}`;
    if (store.classNames.length > 1) return side === "a" ? "c0" : "c1";
    if (side === "a") return "i0";
    return store.n > 1 ? "i1" : "all";
  }

  /** Ask for what both sides need; class means come in the background. */
  prepare(): void {
    const { app } = this;
    const { beside } = app;
    const wanted = new Map<Store, [string, number][]>([[app.store, []]]);
    if (beside) wanted.set(beside.store, []);
    for (const side of ["a", "b"] as const) {
      const { store, row, label } = this.place(side);
      if (label !== null) {
        app.meansIn(store).want(label);
      } else if (row !== null) {
        for (const map of store.thumbnails ? [app.state.map, "image"] : [app.state.map]) {
          if (!store.slab(map, row)) wanted.get(store)!.push([map, store.chunkOf(map, row)]);
        }
      }
    }
    for (const [store, chunks] of wanted) store.want(chunks);
  }

  /** Where the values of a side are: the image or class of a store; or why there are none. */
  private place(side: Side): {
    store: Store;
    row: number | null;
    label: number | "all" | null;
    lacks: string;
  } {
    const { store, beside, state } = this.app;
    const other = side === "b" && this.chosen("b") === "o" ? beside : null;
    const text = this.chosen(other ? "a" : side);
    const number = Number(text.slice(1));
    const place = { store, row: null, label: null, lacks: "" };
    if (!other) {
      if (text[0] === "i") return { ...place, row: number };
      return { ...place, label: text === "all" ? text : number };
    }
    place.store = other.store;
    const [, name] = other.names;
    if (!other.map(state.map)) return { ...place, lacks: other.lacks(state.map) };
    if (text === "all") return { ...place, label: text };
    if (text[0] === "c") {
      const label = other.label(number);
      return label >= 0
        ? { ...place, label }
        : { ...place, lacks: `${name} has no class ${this.app.classTitle(number)}` };
    }
    const row = other.row(number);
    if (row === undefined) return { ...place, lacks: "ids are being read …" };
    return row >= 0
      ? { ...place, row }
      : { ...place, lacks: `${name} has no image, or several, of the id ${store.id(number)}` };
  }

  private subject(side: Side): Subject {
    const { app } = this;
    const { store, row, label, lacks } = this.place(side);
    const two = this.chosen("b") === "o";
    const name = two ? app.beside!.names[store === app.store ? 0 : 1] : "";
    const [where, whose] = two ? [` in ${name}`, `${name}: `] : ["", ""];
    if (row !== null) {
      const problem = store.problem(app.state.map, row);
      return {
        title: `image ${store.id(row)}${where}`,
        note: whose + (problem ? problem.text : app.describeImage(row, store)),
        values: app.values(row, app.plane, store) ?? null,
        row,
        store,
      };
    }
    if (label === null) return { title: name, note: lacks, values: null, row, store };
    const mean = app.mean(label, store);
    const title = label === "all" ? "all images" : `class ${app.classTitle(label, store)}`;
    return {
      title: title + where,
      row,
      store,
      note: whose + (mean ? meanNote(mean) : "no image read yet"),
      values: mean ? planeOf(mean.values, app.info.modes, app.plane) : null,
    };
  }

  draw(): void {
    const { app } = this;
    const { store, state, info } = app;
    const [rows, cols] = store.grid;
    const a = this.subject("a");
    const b = this.subject("b");
    const patch = this.hovered ?? state.patch;
    const at = patch ? patch[0] * cols + patch[1] : -1;
    this.raw.draw();
    this.raw.element.hidden ||= this.place("a").label === null && this.place("b").label === null;
    for (const [side, subject] of [
      ["a", a],
      ["b", b],
    ] as const) {
      const parts = this.sides[side];
      this.drawPickers(side);
      setText(parts.note, subject.note);
      const { thumbnails } = subject.store;
      const slab =
        subject.row !== null && thumbnails ? subject.store.slab("image", subject.row) : undefined;
      const range =
        state.range === "image"
          ? sharedRange(app, subject.values)
          : sharedRange(app, a.values, b.values);
      parts.legend.draw(subject.values && range, app.table, info.unit, subject.values?.[at]);
      const picture: Picture = {
        label: `${side.toUpperCase()}: ${app.title} of ${subject.title}`,
        values: subject.values,
        rows,
        cols,
        table: app.table,
        range,
        mix: state.mix,
        thumbnail: slab && { info: thumbnails!, slab, row: subject.row! },
      };
      parts.pane.draw(picture, patch);
    }
    const difference =
      a.values && b.values ? a.values.map((value, k) => value - b.values![k]) : null;
    const differenceRange = difference && symmetricRange([difference], state.range === "full");
    this.difference.draw(
      {
        label: `Difference A − B of ${app.title}`,
        values: difference,
        rows,
        cols,
        table: lut("difference"),
        range: differenceRange,
        mix: 1,
      },
      patch,
    );
    setText(this.differenceNote, difference ? `${a.title} minus ${b.title}` : "");
    this.differenceLegend.draw(differenceRange, lut("difference"), info.unit, difference?.[at]);
    const known = patch && a.values && b.values && difference;
    this.readout.dataset.value = known
      ? `${a.values![at]};${b.values![at]};${difference![at]}`
      : "";
    setText(
      this.readout,
      known
        ? `row ${patch![0]}, column ${patch![1]}: A ${show(a.values![at], 7)}, ` +
            `B ${show(b.values![at], 7)}, A − B ${show(difference![at], 5)}`
        : "Point at a map, or move with the arrow keys, to read values of both.",
    );
  }

  private drawPickers(side: Side): void {
    const { app } = this;
    const subject = this.chosen(side);
    const { kind, number } = this.sides[side];
    const options: [string, string][] = [
      ["i", "image …"],
      ["all", "all images"],
    ];
    app.store.classNames.forEach((_, label) => {
      options.push([`c${label}`, `class ${app.classTitle(label)}`]);
    });
    if (side === "b" && app.beside) options.push(["o", `the same in ${app.beside.names[1]}`]);
    if (kind.options.length !== options.length) {
      kind.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    }
    kind.value = subject[0] === "i" ? "i" : subject;
    number.hidden = subject[0] !== "i";
    if (document.activeElement !== number) {
      number.value = subject[0] === "i" ? subject.slice(1) : "";
    }
  }
}

export function meanNote({ count, of, robust }: ClassMean): string {
  const images = of === 1 ? "image" : "images";
  const mean = robust ? "geometric mean" : "mean";
  return count === of
    ? `${mean} of ${show(of)} ${images}`
    : `${mean} of the ${show(count)} of ${show(of)} ${images} read`;
}

/** The choice of plain means, where there is one. */
export function rawMeans(app: () => App): { element: HTMLElement; draw: () => void } {
  const box = h("input", {
    type: "checkbox",
    class: "raw-means",
    onchange: () => app().set({ raw: box.checked }),
  });
  const element = h(
    "label",
    { class: "check", title: "A geometric mean is not decided by a few extreme patches" },
    box,
    "plain means",
  );
  const draw = (): void => {
    box.checked = app().state.raw;
    element.hidden = !app().robust;
  };
  return { element, draw };
}

/** One mode of a (row, col, mode) array, or the sum of all. */
export function planeOf(values: Float64Array, modes: number, plane: number): Float64Array {
  const cells = values.length / modes;
  const out = new Float64Array(cells);
  for (let k = 0; k < cells; k++) {
    if (plane < modes) out[k] = values[k * modes + plane];
    else for (let m = 0; m < modes; m++) out[k] += values[k * modes + m];
  }
  return out;
}

/** One range for all maps given, unless the user fixed one. */
export function sharedRange(app: App, ...maps: (Float64Array | null)[]): Range | null {
  const known = maps.filter((values) => values !== null);
  if (known.length === 0) return null;
  if (app.state.range.includes("..")) return app.range();
  const full = app.state.range === "full";
  const [low, high] = ends(known, full);
  const whose = known.length === 1 ? "its own range" : "one range for all of them";
  return {
    low,
    high,
    log: decideScale(low, high, app.state.scale),
    constant: !(low < high),
    text: full ? whose : `${whose}, 99 % of the values`,
  };
}
