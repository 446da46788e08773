// A map drawn large: image below, map above, a marked patch, values under the pointer.

import { paintBar, paintImage, paintMap, position, type Lut, type Range } from "./colour.js";
import { h, setText } from "./dom.js";
import { show } from "./format.js";
import type { MapInfo } from "./metadata.js";
import type { Slab } from "./store.js";

export type Patch = [row: number, col: number];

export interface Picture {
  label: string;
  values: Float64Array | null;
  rows: number;
  cols: number;
  table: Lut;
  range: Range | null;
  thumbnail?: { info: MapInfo; slab: Slab; row: number };
  mix: number;
}

export class Pane {
  readonly image = h("canvas", { class: "under", "aria-hidden": "true" });
  readonly map = h("canvas", { class: "over", "aria-hidden": "true" });
  private readonly mark = h("div", { class: "mark", hidden: true });
  readonly stage = h(
    "div",
    { class: "stage", tabindex: "0", role: "img" },
    this.image,
    this.map,
    this.mark,
  );
  private grid: [number, number] = [1, 1];

  /** `onpatch` gets the patch under the pointer (null: it left), and whether it was chosen. */
  constructor(onpatch: (patch: Patch | null, chosen: boolean) => void) {
    const at = (event: PointerEvent): Patch => {
      const box = this.stage.getBoundingClientRect();
      const [rows, cols] = this.grid;
      const place = (value: number, size: number, count: number): number =>
        Math.min(count - 1, Math.max(0, Math.floor((value / size) * count)));
      return [
        place(event.clientY - box.top, box.height, rows),
        place(event.clientX - box.left, box.width, cols),
      ];
    };
    this.stage.addEventListener("pointermove", (event) => onpatch(at(event), false));
    this.stage.addEventListener("pointerdown", (event) => onpatch(at(event), true));
    this.stage.addEventListener("pointerleave", () => onpatch(null, false));
    this.stage.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
        event.key
      ];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      const [row, col] = this.marked ?? [-step[0], -step[1]];
      const [rows, cols] = this.grid;
      const clamp = (value: number, count: number): number =>
        Math.min(count - 1, Math.max(0, value));
      // Kept at once: keys may come faster than frames.
      this.marked = [clamp(row + step[0], rows), clamp(col + step[1], cols)];
      onpatch(this.marked, true);
    });
  }

  private marked: Patch | null = null;

  draw(picture: Picture, patch: Patch | null): void {
    const { rows, cols, values, range, thumbnail } = picture;
    this.grid = [rows, cols];
    this.stage.style.aspectRatio = `${cols} / ${rows}`;
    this.stage.setAttribute("aria-label", `${picture.label}. Arrow keys move the marked patch.`);
    this.map.hidden = !values || !range;
    if (values && range) paintMap(this.map, values, rows, cols, picture.table, range);
    this.image.hidden = !thumbnail;
    if (thumbnail) {
      const { info, slab, row } = thumbnail;
      const base = (row - slab.first) * slab.imageSize;
      paintImage(this.image, slab.data as Uint8Array, base, info.shape[1], info.shape[2]);
    }
    this.map.style.opacity = thumbnail ? String(picture.mix) : "1";
    this.marked = patch;
    this.mark.hidden = !patch;
    if (patch) {
      const [row, col] = patch;
      this.mark.style.top = `${(100 * row) / rows}%`;
      this.mark.style.left = `${(100 * col) / cols}%`;
      this.mark.style.height = `${100 / rows}%`;
      this.mark.style.width = `${100 / cols}%`;
    }
  }
}

/** The colour bar with its two ends, a pointer at one value, and where the range comes from. */
export class Legend {
  private readonly bar = h("canvas", { class: "bar", "aria-hidden": "true" });
  private readonly pointer = h("i", { class: "pointer", hidden: true });
  private readonly low = h("span", {});
  private readonly high = h("span", {});
  private readonly note = h("span", { class: "note" });
  readonly element = h(
    "div",
    { class: "legend" },
    this.low,
    h("span", { class: "barbox" }, this.bar, this.pointer),
    this.high,
    this.note,
  );
  private table: Lut | null = null;

  draw(range: Range | null, table: Lut, unit: string, value?: number): void {
    this.element.hidden = !range;
    if (!range) return;
    if (this.table !== table) paintBar(this.bar, table);
    this.table = table;
    this.element.classList.toggle("constant", range.constant);
    const suffix = unit && unit !== "1" ? ` (${unit})` : "";
    setText(this.low, range.constant ? `constant: ${show(range.low)}` : show(range.low));
    setText(this.high, range.constant ? "" : show(range.high));
    setText(this.note, `${range.log ? "log scale, " : ""}${range.text}${suffix}`);
    this.pointer.hidden = value === undefined || Number.isNaN(value) || range.constant;
    if (value !== undefined) this.pointer.style.left = `${100 * position(value, range)}%`;
  }
}
