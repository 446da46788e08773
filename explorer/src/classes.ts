// The mean map of every class, side by side, or each one's difference from the mean of all images.

import type { App } from "./app.js";
import { lut, paintMap, symmetricRange, type Range } from "./colour.js";
import { meanNote, planeOf, rawMeans, sharedRange } from "./compare.js";
import { h, setText } from "./dom.js";
import { rowsOfClass } from "./figures.js";
import { Legend } from "./pane.js";

const MOST_CLASSES = 400; // cards drawn; more are reached through Compare

interface Card {
  element: HTMLElement;
  canvas: HTMLCanvasElement;
  note: HTMLElement;
}

export class Classes {
  private readonly cards: Card[] = [];
  private readonly list = h("div", { class: "cards" });
  private readonly legend = new Legend();
  private readonly note = h("p", { class: "subtitle" });
  private readonly toggle = h("input", {
    type: "checkbox",
    id: "difference",
    onchange: () => this.app.set({ difference: this.toggle.checked }),
  });
  private readonly raw = rawMeans(() => this.app);
  readonly element = h(
    "section",
    { class: "classes", "aria-label": "Class means", hidden: true },
    h(
      "div",
      { class: "row" },
      h("label", { class: "check" }, this.toggle, "difference from the mean of all images"),
      this.raw.element,
      this.legend.element,
    ),
    this.note,
    this.list,
  );

  constructor(private readonly app: App) {
    const { store } = app;
    const labels = store.classNames.map((_, label) => label).slice(0, MOST_CLASSES);
    for (const label of labels) {
      const canvas = h("canvas", { role: "img", class: "picture" });
      const note = h("small", {});
      const pick = (side: "a" | "b") => () =>
        app.set({ [side]: `c${label}`, view: "compare" }, true);
      const element = h(
        "article",
        { class: "card", "data-class": label },
        canvas,
        h(
          "b",
          {},
          /^\d+$/.test(app.classTitle(label))
            ? `class ${app.classTitle(label)}`
            : app.classTitle(label),
        ),
        note,
        h(
          "div",
          { class: "buttons" },
          h(
            "button",
            {
              type: "button",
              onclick: () => app.set({ classes: String(label), view: "images", at: 0 }, true),
            },
            "images",
          ),
          h(
            "button",
            {
              type: "button",
              onclick: pick("a"),
              "aria-label": `Compare ${app.classTitle(label)} as A`,
            },
            "A",
          ),
          h(
            "button",
            {
              type: "button",
              onclick: pick("b"),
              "aria-label": `Compare ${app.classTitle(label)} as B`,
            },
            "B",
          ),
        ),
      );
      this.cards.push({ element, canvas, note });
      this.list.append(element);
    }
    const left = store.classNames.length - labels.length;
    setText(
      this.note,
      labels.length === 0
        ? "This store has no classes: nothing to average by class. Compare shows the mean of all images."
        : left > 0
          ? `The first ${MOST_CLASSES} classes; the other ${left} are in Compare.`
          : "",
    );
    this.note.hidden = !this.note.textContent;
  }

  prepare(): void {
    const { store } = this.app;
    const means = this.app.meansIn(store);
    means.want("all");
    this.cards.forEach((_, label) => means.want(label));
    store.want([]);
  }

  draw(): void {
    const { app } = this;
    const { state, info, store } = app;
    const [rows, cols] = store.grid;
    this.toggle.checked = state.difference;
    this.raw.draw();
    const all = app.mean("all");
    const base = all && planeOf(all.values, info.modes, app.plane);
    const maps = this.cards.map((_, label) => {
      const mean = app.mean(label);
      if (!mean) return null;
      const values = planeOf(mean.values, info.modes, app.plane);
      return state.difference && base ? values.map((value, k) => value - base[k]) : values;
    });
    let range: Range | null;
    let table = app.table;
    if (state.difference) {
      table = lut("difference");
      const known = maps.filter((values) => values !== null);
      range = symmetricRange(known, state.range === "full");
    } else {
      range = sharedRange(app, ...maps);
    }
    const each = !state.difference && state.range === "image";
    this.legend.draw(each ? null : range, table, info.unit);
    this.cards.forEach((card, label) => {
      const values = maps[label];
      const mean = app.mean(label);
      const of = rowsOfClass(store, label).length;
      setText(card.note, of === 0 ? "no image" : mean ? meanNote(mean) : "not read yet");
      card.canvas.style.visibility = values ? "visible" : "hidden";
      card.canvas.setAttribute(
        "aria-label",
        `${state.difference ? "Difference from the mean of all images" : "Mean"} of ${app.title}, class ${app.classTitle(label)}`,
      );
      const own =
        values && !state.difference && state.range === "image" ? sharedRange(app, values) : range;
      if (values && own) paintMap(card.canvas, values, rows, cols, table, own);
    });
  }
}
