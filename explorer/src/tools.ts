// The controls above the pictures.

import type { App } from "./app.js";
import { COLOURS } from "./colour.js";
import { choice, h, setOptions, setText } from "./dom.js";
import { FIGURES, rowsOfClass } from "./figures.js";
import { show } from "./format.js";
import { SIZES, type Show, type State } from "./state.js";

const MOST_OFFERED = 1000; // groups in the list; any can be typed

export class Tools {
  private readonly map = choice("Map", "map", (map) => this.app.set({ map }, true));
  private readonly mode = choice("Mode", "mode", (mode) =>
    this.app.set({ mode: Number(mode) }, true),
  );
  private readonly showing = choice("Show", "show", (value) =>
    this.app.set({ show: value as Show }),
  );
  private readonly classes = choice("Class", "classes", (classes) =>
    this.app.set({ classes, at: 0 }, true),
  );
  private readonly sort = choice("Sort by", "sort", (sort) =>
    this.sorted(sort, this.direction.select.value),
  );
  private readonly direction = choice("Order", "direction", (value) =>
    this.sorted(this.sort.select.value, value),
  );
  private readonly range = choice("Colour range", "range", (range) => this.ranged(range));
  private readonly scale = choice("Scale", "scale", (scale) =>
    this.app.set({ scale: scale as State["scale"] }),
  );
  private readonly colours = choice("Colours", "colours", (colours) => this.app.set({ colours }));
  private readonly size = choice("Size", "size", (size) => this.app.set({ size: Number(size) }));
  private readonly low = this.input("lowest colour value", () => this.fixedChanged(), "decimal");
  private readonly high = this.input("highest colour value", () => this.fixedChanged(), "decimal");
  private readonly group = this.input("group", () => this.grouped());
  private readonly groups = h("label", { class: "field" }, h("span", {}, "Group"), this.group);
  private readonly fixed = h(
    "span",
    { class: "field fixed", hidden: true },
    h("span", {}, "From, to"),
    h("span", { class: "two" }, this.low, this.high),
  );
  private readonly summary = h("summary", {}, "Controls");
  readonly element: HTMLDetailsElement;

  constructor(private readonly app: App) {
    this.element = h(
      "details",
      { class: "tools" },
      this.summary,
      h(
        "div",
        { class: "fields", role: "region", "aria-label": "Controls" },
        this.map.field,
        this.mode.field,
        this.classes.field,
        this.groups,
        this.sort.field,
        this.direction.field,
        this.showing.field,
        this.range.field,
        this.fixed,
        this.scale.field,
        this.colours.field,
        this.size.field,
      ),
    );
    const { groups, groupNames } = app.store;
    if (groups) {
      this.group.setAttribute("list", "groups");
      this.group.placeholder = `all (${show(groupNames.length)})`;
      const offered = groupNames.slice(0, MOST_OFFERED);
      const options = offered.map((_, k) => h("option", { value: app.groupTitle(k) }));
      this.groups.append(h("datalist", { id: "groups" }, ...options));
    }
    // Open where there is room; the user's own choice stays until the width class changes.
    const wide = matchMedia("(min-width: 700px)");
    const follow = (): void => {
      this.element.open = wide.matches;
    };
    wide.addEventListener("change", follow);
    follow();
  }

  private input(label: string, onchange: () => void, inputmode?: string): HTMLInputElement {
    return h("input", { type: "text", inputmode, size: "8", "aria-label": label, onchange });
  }

  /** Names are compared as a field holds them, without line breaks. */
  private grouped(): void {
    const { app, group } = this;
    const { groupNames } = app.store;
    const at = groupNames.findIndex((_, k) => fieldText(app.groupTitle(k)) === group.value);
    const good = at >= 0 || group.value === "";
    group.setCustomValidity(good ? "" : "No group has this name.");
    group.reportValidity();
    if (good) app.set({ group: at >= 0 ? at : null, at: 0 }, true);
  }

  private sorted(figure: string, direction: string): void {
    const to = direction === "asc" ? "asc" : "desc";
    this.app.set({ sort: figure === "store" ? "store" : `${figure}.${to}`, at: 0 }, true);
  }

  /** A fixed range begins as what is shown now, so that nothing jumps. */
  private ranged(range: string): void {
    if (range !== "fixed") {
      this.app.set({ range });
      return;
    }
    const now = this.app.range();
    if (now.low < now.high) this.app.set({ range: `${now.low}..${now.high}` });
    else this.app.redraw();
  }

  private fixedChanged(): void {
    const low = Number(this.low.value);
    const high = Number(this.high.value);
    const good = this.low.value !== "" && this.high.value !== "" && low < high;
    this.high.setCustomValidity(
      good ? "" : "The range must be two numbers, the smaller one first.",
    );
    this.high.reportValidity();
    if (good) this.app.set({ range: `${low}..${high}` });
  }

  draw(): void {
    const { app } = this;
    const { state, store, info } = app;
    const inImages = state.view === "images";
    this.element.hidden = state.view === "about";
    setOptions(
      this.map.select,
      [...store.maps.keys()].map((name) => [name, name]),
      state.map,
    );
    this.map.select.title = info.description;
    const planes = Array.from(
      { length: info.hasModes ? info.modes + 1 : 0 },
      (_, plane): [string, string] => {
        const name =
          plane === info.modes ? "sum of modes" : `${plane}${plane === 0 ? " (largest)" : ""}`;
        return [String(plane), app.figures.isConstant(plane) ? `${name}, constant` : name];
      },
    );
    setOptions(this.mode.select, planes, String(app.plane));
    this.mode.field.hidden = !info.hasModes;

    const kinds: [Show, string][] = store.thumbnails
      ? [
          ["pair", "image and map"],
          ["map", "map"],
          ["overlay", "map over image"],
          ["image", "image"],
        ]
      : [["map", "map"]];
    setOptions(this.showing.select, kinds, state.show);
    this.showing.field.hidden = !inImages || !store.thumbnails;

    const unlabelled = rowsOfClass(store, -1).length;
    const classes: [string, string][] = [["all", `all (${show(store.n)})`]];
    store.classNames.forEach((_, label) => {
      classes.push([
        String(label),
        `${app.classTitle(label)} (${show(rowsOfClass(store, label).length)})`,
      ]);
    });
    if (unlabelled > 0 && store.classNames.length > 0)
      classes.push(["none", `no class (${show(unlabelled)})`]);
    setOptions(this.classes.select, classes, state.classes);
    this.classes.field.hidden = !inImages || store.classNames.length === 0;

    this.groups.hidden = !inImages || !store.groups;
    if (document.activeElement !== this.group) {
      this.group.setCustomValidity("");
      this.group.value = state.group === null ? "" : app.groupTitle(state.group);
    }

    const [figure, direction] = state.sort.split(".");
    setOptions(
      this.sort.select,
      [["store", "store order"], ...FIGURES.map(({ id, name }): [string, string] => [id, name])],
      figure,
    );
    setOptions(
      this.direction.select,
      [
        ["desc", "largest first"],
        ["asc", "smallest first"],
      ],
      direction ?? "desc",
    );
    this.sort.field.hidden = !inImages;
    this.direction.field.hidden = !inImages || state.sort === "store";

    const isFixed = state.range.includes("..");
    const ranges: [string, string][] = [
      ["shared", "shared, 99 %"],
      ["full", "shared, all"],
      ["image", inImages ? "per image" : "each its own"],
      ["fixed", "fixed"],
    ];
    const choice = isFixed ? "fixed" : state.range;
    setOptions(this.range.select, ranges, choice);
    this.fixed.hidden = !isFixed;
    if (isFixed) {
      const [low, high] = state.range.split("..");
      if (document.activeElement !== this.low) this.low.value = low;
      if (document.activeElement !== this.high) this.high.value = high;
    }
    setOptions(
      this.scale.select,
      [
        ["auto", "automatic"],
        ["linear", "linear"],
        ["log", "logarithmic"],
      ],
      state.scale,
    );
    setOptions(
      this.colours.select,
      COLOURS.map((name) => [name, name]),
      state.colours,
    );
    setOptions(
      this.size.select,
      SIZES.map((size) => [String(size), `${size} px`]),
      String(state.size),
    );
    this.size.field.hidden = !inImages;
    setText(
      this.summary,
      [
        `Controls: ${app.title}`,
        inImages && state.classes !== "all" && this.classes.select.selectedOptions[0]?.text,
        inImages && state.group !== null && `group ${app.groupTitle(state.group)}`,
      ]
        .filter(Boolean)
        .join(", "),
    );
  }
}

/** A name as a field of one line holds it. */
function fieldText(name: string): string {
  return name.replace(/[\r\n]/g, "");
}
