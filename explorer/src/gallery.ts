// The grid of images. Only what is on the screen exists as elements and is asked for.

import type { App } from "./app.js";
import { paintImage, paintMap } from "./colour.js";
import { h, setText } from "./dom.js";
import { show } from "./format.js";

const GAP = 10;
const CAPTION = 38;
const SMALLEST = 40; // px, of a picture's longer side
const TALLEST = 15_000_000; // px; browsers cut off elements that are a little taller
const REST = 70; // ms without scrolling before chunks are asked for

interface Tile {
  element: HTMLElement;
  image: HTMLCanvasElement;
  map: HTMLCanvasElement;
  name: HTMLElement;
  note: HTMLElement;
  painted: string;
}

export class Gallery {
  private readonly space = h("div", { class: "space" });
  private readonly empty = h("p", { class: "empty", hidden: true });
  readonly element = h(
    "div",
    {
      class: "gallery",
      tabindex: "0",
      role: "listbox",
      "aria-label": "Images",
      onscroll: () => this.scrolled(),
      onkeydown: (event: KeyboardEvent) => this.key(event),
      onpointermove: (event: PointerEvent) => this.hover(event),
      onpointerleave: () => this.onhover(""),
    },
    this.empty,
    this.space,
  );
  private readonly tiles = new Map<number, Tile>();
  private readonly spare: Tile[] = [];
  private selected = 0; // position in the order
  private timer = 0;
  private placed = false; // whether the address's first position was scrolled to
  private lastOrder: Int32Array | null = null;
  private layout = { columns: 1, width: 0, height: 0, left: 0 };
  onhover: (text: string) => void = () => {};
  /** Whether everything on the screen is painted. */
  complete = false;

  constructor(private readonly app: App) {
    new ResizeObserver(() => app.redraw()).observe(this.element);
  }

  // ---- layout -------------------------------------------------------------------------------

  private measure(): void {
    const { size, show: what } = this.app.state;
    const [rows, cols] = this.app.store.grid;
    const pictures = what === "pair" ? 2 : 1;
    const longer = Math.max(rows, cols);
    const room = this.element.clientWidth - GAP;
    // On a narrow screen pictures shrink until two tiles stand side by side.
    const widest = Math.floor(((room / 2 - 2 * GAP) * longer) / (cols * pictures));
    const side = Math.max(SMALLEST, Math.min(size, widest));
    const pictureWidth = Math.round((side * cols) / longer);
    const pictureHeight = Math.round((side * rows) / longer);
    const width = pictureWidth * pictures + 2 * GAP - 8;
    const height = pictureHeight + CAPTION + GAP;
    const columns = Math.max(1, Math.floor(room / (width + 2)));
    const left = GAP / 2 + Math.max(0, Math.floor((room - columns * width) / 2));
    this.layout = { columns, width, height, left };
    const style = this.space.style;
    style.setProperty("--picture-width", `${pictureWidth}px`);
    style.setProperty("--picture-height", `${pictureHeight}px`);
    style.setProperty("--tile-width", `${width - 4}px`);
    style.setProperty("--tile-height", `${height - 4}px`);
  }

  /** Height of all rows, and how far the content moves for a pixel of the scroll bar. */
  private extent(count: number): { total: number; shown: number; speed: number } {
    const { columns, height } = this.layout;
    const total = Math.ceil(count / columns) * height;
    const shown = Math.min(total, TALLEST);
    const view = this.element.clientHeight;
    const speed = total > shown ? (total - view) / (shown - view) : 1;
    return { total, shown, speed };
  }

  /** What of the content is at the top of the screen, in px. */
  private top(count: number): number {
    return Math.max(0, this.element.scrollTop) * this.extent(count).speed;
  }

  private scrollTo(top: number, count: number): void {
    this.element.scrollTop = top / this.extent(count).speed;
  }

  private onScreen(count: number): [number, number] {
    const { columns, height } = this.layout;
    const first = Math.floor(this.top(count) / height) * columns;
    const rows = Math.ceil(this.element.clientHeight / height) + 1;
    return [Math.min(first, count), Math.min(first + rows * columns, count)];
  }

  /** The image that should not move when the layout changes, and its distance from the top. */
  private anchor(count: number): { place: number; y: number } {
    const { columns, height } = this.layout;
    const [first, last] = height > 0 ? this.onScreen(count) : [0, 0];
    const place = this.selected >= first && this.selected < last ? this.selected : first;
    return { place, y: height > 0 ? Math.floor(place / columns) * height - this.top(count) : 0 };
  }

  private scrolled(): void {
    this.app.redraw();
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.ask();
      const [first] = this.onScreen(this.app.order.length);
      if (this.placed && first !== this.app.state.at) this.app.set({ at: first });
    }, REST);
  }

  private ask(): void {
    const { app } = this;
    const order = app.order;
    const [first, last] = this.onScreen(order.length);
    const wanted = new Map<string, [string, number]>();
    const add = (map: string, row: number): void => {
      if (app.store.slab(map, row)) return;
      const chunk = app.store.chunkOf(map, row);
      wanted.set(`${map}/${chunk}`, [map, chunk]);
    };
    const { image } = app.state;
    if (image !== null) {
      add(app.state.map, image);
      // A marked patch is shown in all maps, with their repeats.
      if (app.state.patch) {
        for (const info of app.store.maps.values()) {
          const again = app.store.repeatsOf(info.name);
          if (!info.of) add(info.name, image);
          if (again) add(again.name, image);
        }
      }
      if (app.store.thumbnails) add("image", image);
    }
    for (let k = first; k < last; k++) {
      add(app.state.map, order[k]);
      if (app.state.show !== "map" && app.store.thumbnails) add("image", order[k]);
    }
    app.store.want([...wanted.values()]);
  }

  // ---- drawing ------------------------------------------------------------------------------

  draw(): void {
    const { app } = this;
    const order = app.order;
    const anchor = this.anchor(order.length);
    const before = this.layout;
    this.measure();
    const { columns, width, height, left } = this.layout;
    this.space.style.height = `${this.extent(order.length).shown}px`;
    this.empty.hidden = order.length > 0;
    setText(
      this.empty,
      app.state.group === null ? "No image has this class." : "No image of this group is shown.",
    );
    const moved = before.columns !== columns || before.height !== height;
    if (this.placed && moved && this.lastOrder === order) {
      // Opening the large image makes the grid narrower: what one looks at stays where it is.
      this.scrollTo(Math.floor(anchor.place / columns) * height - anchor.y, order.length);
    }
    if (!this.placed && this.element.clientHeight > 0) {
      this.scrollTo(Math.floor(app.state.at / columns) * height, order.length);
      this.placed = true;
      const row = app.state.image;
      this.selected = row === null ? app.state.at : Math.max(0, order.indexOf(row));
    } else if (this.lastOrder !== order) {
      const row = app.state.image;
      this.selected = row === null ? 0 : Math.max(0, order.indexOf(row));
      if (this.lastOrder) this.element.scrollTop = 0;
    }
    this.lastOrder = order;
    this.selected = Math.min(this.selected, Math.max(0, order.length - 1));

    const [first, last] = this.onScreen(order.length);
    for (const [place, tile] of this.tiles) {
      if (place < first || place >= last) {
        this.tiles.delete(place);
        tile.element.hidden = true;
        this.spare.push(tile);
      }
    }
    this.complete = true;
    // Where all rows are taller than an element can be, the rows move under the scroll bar.
    const shift = this.element.scrollTop - this.top(order.length);
    for (let place = first; place < last; place++) {
      let tile = this.tiles.get(place);
      if (!tile) {
        tile = this.spare.pop() ?? this.makeTile();
        tile.painted = "";
        tile.element.hidden = false;
        this.tiles.set(place, tile);
      }
      const x = left + (place % columns) * width;
      const y = GAP / 2 + Math.floor(place / columns) * height + Math.min(0, shift);
      tile.element.style.transform = `translate(${x}px, ${y}px)`;
      this.drawTile(tile, place, order[place], order.length);
    }
    const active = this.tiles.get(this.selected);
    this.element.setAttribute("aria-activedescendant", active ? active.element.id : "");
    if (this.timer === 0) this.ask();
  }

  private makeTile(): Tile {
    const image = h("canvas", { class: "picture", "aria-hidden": "true" });
    const map = h("canvas", { class: "picture map", "aria-hidden": "true" });
    const name = h("b", {});
    const note = h("span", {});
    const element = h(
      "div",
      { class: "tile", role: "option" },
      h("div", { class: "pictures" }, image, map),
      h("div", { class: "caption" }, name, note),
    );
    element.addEventListener("click", () => this.open(Number(element.dataset.place)));
    this.space.append(element);
    return { element, image, map, name, note, painted: "" };
  }

  private drawTile(tile: Tile, place: number, row: number, count: number): void {
    const { app } = this;
    const { store, state } = app;
    const info = app.info;
    const slab = store.slab(state.map, row);
    const thumbnails = state.show === "map" ? undefined : store.thumbnails;
    const thumb = thumbnails && store.slab("image", row);
    const problem =
      store.problem(state.map, row) ?? (thumbnails ? store.problem("image", row) : undefined);
    const { element } = tile;
    element.id = `tile-${place}`;
    element.dataset.place = String(place);
    element.dataset.row = String(row);
    element.setAttribute("aria-selected", String(place === this.selected));
    element.setAttribute("aria-posinset", String(place + 1));
    element.setAttribute("aria-setsize", String(count));
    element.classList.toggle("open", state.image === row);
    element.classList.toggle("damaged", !!problem);
    element.classList.toggle("overlay", state.show === "overlay");
    if (!slab && !problem) this.complete = false;
    if (thumbnails && !thumb && !problem) this.complete = false;

    setText(tile.name, store.id(row));
    if (store.groups) element.title = app.describeImage(row);
    const figure = app.sortFigure;
    const value = figure && app.figures.figure(row, app.plane, figure.index);
    const parts: string[] = [];
    if (figure && value !== undefined && value !== null)
      parts.push(`${figure.name} ${show(value, 4)}`);
    parts.push(app.shortClass(row));
    setText(
      tile.note,
      problem ? "cannot be read" : parts.filter(Boolean).join(" · ") || `image ${show(row)}`,
    );

    const showsMap = state.show !== "image" && !!slab;
    tile.map.hidden = state.show === "image";
    tile.image.hidden = !thumbnails;
    tile.map.style.opacity = state.show === "overlay" && thumb ? String(state.mix) : "1";
    tile.map.style.visibility = showsMap ? "visible" : "hidden";
    tile.image.style.visibility = thumb ? "visible" : "hidden";
    const values = showsMap ? app.values(row)! : null;
    const range = values ? app.range(values) : null;
    const key = [
      row,
      state.map,
      app.plane,
      state.colours,
      state.show,
      !!thumb,
      range?.low,
      range?.high,
      range?.log,
    ].join("|");
    if (key === tile.painted) return;
    tile.painted = key;
    if (values && range) paintMap(tile.map, values, info.shape[1], info.shape[2], app.table, range);
    if (thumb && thumbnails) {
      const base = (row - thumb.first) * thumb.imageSize;
      paintImage(
        tile.image,
        thumb.data as Uint8Array,
        base,
        thumbnails.shape[1],
        thumbnails.shape[2],
      );
    }
  }

  // ---- moving about -------------------------------------------------------------------------

  private open(place: number): void {
    const row = this.app.order[place];
    this.selected = place;
    this.element.focus({ preventScroll: true });
    this.app.set({ image: row }, true);
  }

  /** Go `step` images on in the order shown, and make that image the large one. */
  step(step: number): void {
    const order = this.app.order;
    const { image } = this.app.state;
    const here = image === null ? this.selected : order.indexOf(image);
    this.select(Math.min(order.length - 1, Math.max(0, here + step)), true);
  }

  private select(place: number, open: boolean): void {
    this.selected = place;
    const { columns, height } = this.layout;
    const top = Math.floor(place / columns) * height;
    const order = this.app.order;
    const view = this.element.clientHeight;
    if (top < this.top(order.length)) this.scrollTo(top, order.length);
    else if (top + height > this.top(order.length) + view) {
      this.scrollTo(top + height - view, order.length);
    }
    const row = order[place];
    if (open && row !== undefined) this.app.set({ image: row });
    else this.app.redraw();
  }

  /** Whether the key meant something here. */
  key(event: KeyboardEvent): boolean {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const { columns, height } = this.layout;
    const page = Math.max(1, Math.floor(this.element.clientHeight / height)) * columns;
    const count = this.app.order.length;
    const steps: Record<string, number> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      PageUp: -page,
      PageDown: page,
      Home: -count,
      End: count,
    };
    if (event.key === "Enter" || event.key === " ") {
      this.open(this.selected);
    } else if (event.key in steps) {
      const step = steps[event.key];
      const next = this.selected + step;
      // A step down that leaves the grid stays in its column.
      if (Math.abs(step) === columns && columns > 1 && (next < 0 || next >= count)) return false;
      this.select(Math.min(count - 1, Math.max(0, next)), this.app.state.image !== null);
    } else {
      return false;
    }
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  private hover(event: PointerEvent): void {
    const canvas = event.target;
    if (!(canvas instanceof HTMLCanvasElement) || !canvas.classList.contains("map")) {
      this.onhover("");
      return;
    }
    const row = Number((canvas.closest(".tile") as HTMLElement).dataset.row);
    const values = this.app.values(row);
    if (!values) return;
    const [rows, cols] = this.app.store.grid;
    const box = canvas.getBoundingClientRect();
    const r = Math.min(
      rows - 1,
      Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)),
    );
    const c = Math.min(
      cols - 1,
      Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * cols)),
    );
    this.onhover(
      `${this.app.title}, image ${this.app.store.id(row)}, row ${r}, column ${c}: ` +
        show(values[r * cols + c], 7),
    );
  }

  focus(): void {
    this.element.focus({ preventScroll: true });
  }
}
