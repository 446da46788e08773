// The one place that holds what is shown and what is known; the views draw from it.

import { colourRange, lut, type Lut, type Range } from "./colour.js";
import {
  ClassMeans,
  type ClassMean,
  FIGURES,
  MapFigures,
  chunksOfRows,
  figureIndex,
  modeValues,
  rowsOfClass,
} from "./figures.js";
import { bytes, plural, show } from "./format.js";
import { fromHash, initialState, toHash, type State } from "./state.js";
import type { MapInfo, Store } from "./store.js";

const UNASKED_BYTES = 64 * 1024 * 1024; // what a sort or a class mean may read without asking
const ADDRESS_DELAY = 200; // ms; browsers limit how often an address may change

/** What sorting or averaging still has to read. */
export interface Work {
  what: string;
  done: number;
  total: number; // chunks
  cost: number; // bytes still to read
  waiting: boolean; // for the user's consent
}

export class App {
  readonly initial: State;
  state: State;
  refused: string[] = [];
  private readonly figuresByMap = new Map<string, MapFigures>();
  private readonly meansByMap = new Map<string, ClassMeans>();
  private readonly allowed = new Set<string>();
  private frame = 0;
  private timer = 0;
  private pushNext = false;
  private knownHash = "";
  private orderKey = "";
  private orderRows: Int32Array = new Int32Array(0);
  private metadataProblem = "";
  draw: () => void = () => {};

  constructor(readonly store: Store) {
    this.initial = initialState(store);
    this.state = this.initial;
    this.readAddress();
    store.onSlab((map, chunk) => this.arrived(map, chunk));
    addEventListener("hashchange", () => {
      this.readAddress();
      this.changed();
    });
  }

  private readAddress(): void {
    const { state, refused } = fromHash(location.hash, this.store);
    this.state = state;
    this.refused = refused;
    this.knownHash = location.hash;
  }

  /** Change what is shown. `step` makes it a step of the browser's history. */
  set(change: Partial<State>, step = false): void {
    this.state = { ...this.state, ...change };
    this.pushNext ||= step;
    clearTimeout(this.timer);
    if (step) this.writeAddress();
    else this.timer = window.setTimeout(() => this.writeAddress(), ADDRESS_DELAY);
    this.changed();
  }

  private writeAddress(): void {
    // Somebody else has just changed the address: their hashchange is on its way.
    if (location.hash !== this.knownHash) return;
    const hash = toHash(this.state, this.initial);
    const address = location.pathname + location.search + (hash ? `#${hash}` : "");
    if (address !== location.pathname + location.search + location.hash) {
      if (this.pushNext) history.pushState(null, "", address);
      else history.replaceState(null, "", address);
    }
    this.knownHash = location.hash;
    this.pushNext = false;
  }

  /** The full address of what is shown now. */
  get link(): string {
    this.writeAddress();
    return location.href;
  }

  private changed(): void {
    this.plan();
    this.redraw();
  }

  redraw(): void {
    if (this.frame === 0) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  // ---- the map that is shown ----------------------------------------------------------------

  get info(): MapInfo {
    return this.store.info(this.state.map);
  }

  get figures(): MapFigures {
    return this.figuresOf(this.state.map);
  }

  figuresOf(map: string): MapFigures {
    let figures = this.figuresByMap.get(map);
    if (!figures) this.figuresByMap.set(map, (figures = new MapFigures(this.store.info(map))));
    return figures;
  }

  get means(): ClassMeans {
    const { map } = this.state;
    let means = this.meansByMap.get(map);
    if (!means) this.meansByMap.set(map, (means = new ClassMeans(this.store, this.info)));
    return means;
  }

  /** The mean map of a class as it is shown. */
  mean(label: number | "all"): ClassMean | undefined {
    return this.means.mean(label, this.state.raw);
  }

  /** The mode that is shown; `info.modes` stands for the sum over modes. */
  get plane(): number {
    return this.info.hasModes ? (this.state.mode ?? 0) : 0;
  }

  get table(): Lut {
    return lut(this.state.colours);
  }

  planeName(plane: number): string {
    if (!this.info.hasModes) return "";
    return plane === this.info.modes ? "sum of modes" : `mode ${plane}`;
  }

  /** Map and mode in words, for headings and labels. */
  get title(): string {
    const mode = this.planeName(this.plane);
    return mode ? `${this.state.map}, ${mode}` : this.state.map;
  }

  range(values?: Float64Array, plane = this.plane): Range {
    return colourRange(this.figures, plane, this.state.range, this.state.scale, values);
  }

  /** One image's values, where its chunk is in memory. */
  values(row: number, plane = this.plane, map = this.state.map): Float64Array | undefined {
    const slab = this.store.slab(map, row);
    const [rows, cols] = this.store.grid;
    return (
      slab && modeValues(slab, this.store.info(map), row, plane, new Float64Array(rows * cols))
    );
  }

  className(row: number): string {
    const label = this.store.labels[row];
    return label < 0 ? "" : this.classTitle(label);
  }

  /** A class for a caption: a bare number says that it is one. */
  shortClass(row: number): string {
    const name = this.className(row);
    return /^\d+$/.test(name) ? `class ${name}` : name;
  }

  classTitle(label: number): string {
    const name = this.store.classNames[label];
    return name === undefined ? `class ${label}` : name === "" ? `(class ${label})` : name;
  }

  // ---- which images, in which order ---------------------------------------------------------

  get filtered(): Int32Array {
    const { classes } = this.state;
    if (classes === "all") return rowsOfClass(this.store, "all");
    return rowsOfClass(this.store, classes === "none" ? -1 : Number(classes));
  }

  /** Rows in the order shown: the store's order until every figure to sort by is known. */
  get order(): Int32Array {
    const { sort, map, classes } = this.state;
    const rows = this.filtered;
    if (sort === "store" || this.sortPending().length > 0) return rows;
    const key = [sort, map, this.plane, classes, this.figures.size].join("|");
    if (key !== this.orderKey) {
      const [id, direction] = sort.split(".");
      const figure = figureIndex(id);
      const sign = direction === "asc" ? 1 : -1;
      const { figures, plane } = this;
      const value = (row: number): number => {
        const found = figures.figure(row, plane, figure);
        return found === undefined || Number.isNaN(found) ? Infinity : sign * found;
      };
      const values = Float64Array.from(rows, value);
      const places = Array.from(rows.keys());
      // Equal figures keep the store's order; images without one come last.
      places.sort((p, q) => (values[p] === values[q] ? p - q : values[p] < values[q] ? -1 : 1));
      const sorted = Int32Array.from(places, (place) => rows[place]);
      // The same order stays the same array, so that the grid does not jump.
      const same = sorted.length === this.orderRows.length;
      if (!same || sorted.some((row, place) => row !== this.orderRows[place])) {
        this.orderRows = sorted;
      }
      this.orderKey = key;
    }
    return this.orderRows;
  }

  /** The figure that images are sorted by, for the captions. */
  get sortFigure(): { index: number; name: string } | null {
    if (this.state.sort === "store") return null;
    const index = figureIndex(this.state.sort.split(".")[0]);
    return { index, name: FIGURES[index].name };
  }

  private sortPending(): number[] {
    const { map } = this.state;
    return chunksOfRows(this.filtered, this.info).filter(
      (chunk) => !this.figures.has(chunk) && !this.store.problems.has(`${map}/${chunk}`),
    );
  }

  private meansPending(): number[] {
    const { map } = this.state;
    return this.means.missing().filter((chunk) => !this.store.problems.has(`${map}/${chunk}`));
  }

  /** What has to be read for what is shown, beyond what is on the screen. */
  work(): Work | null {
    const { view, sort, map } = this.state;
    let pending: number[];
    let what: string;
    let total: number;
    if (view === "images") {
      if (sort === "store") return null;
      pending = this.sortPending();
      what = `Sorting by ${this.sortFigure!.name} needs ${map} of ${plural(this.filtered.length, "image")}`;
      total = chunksOfRows(this.filtered, this.info).length;
    } else if (view === "compare" || view === "classes") {
      pending = this.meansPending();
      what = `Class means need ${map} of every image they are the mean of`;
      total = this.store.chunkCount(map);
    } else {
      return null;
    }
    if (pending.length === 0) return null;
    const cost = (this.info.storedBytes * pending.length) / this.store.chunkCount(map);
    const waiting = cost > UNASKED_BYTES && !this.allowed.has(map);
    return { what, done: Math.max(0, total - pending.length), total, cost, waiting };
  }

  workText(work: Work): string {
    return work.waiting
      ? `${work.what}: ${bytes(work.cost)} to read.`
      : `${work.what}: ${Math.floor((100 * work.done) / work.total)} % read …`;
  }

  allow(): void {
    this.allowed.add(this.state.map);
    this.changed();
  }

  /** Ask for the chunks that a computation needs, if it may read them. */
  plan(): void {
    const work = this.work();
    const { map, view } = this.state;
    const pending =
      !work || work.waiting ? [] : view === "images" ? this.sortPending() : this.meansPending();
    this.store.wantInBackground(pending.map((chunk) => [map, chunk]));
  }

  private arrived(map: string, chunk: number): void {
    if (this.store.maps.has(map)) {
      const slab = this.store.slab(map, chunk * this.store.info(map).chunkImages);
      if (slab) {
        const figures = this.figuresOf(map);
        figures.ingest(chunk, slab);
        this.meansByMap.get(map)?.ingest(chunk, slab);
        if (map === this.state.map && this.state.mode === null && this.info.hasModes) {
          this.set({ mode: firstVarying(figures) });
        }
      }
    }
    this.redraw();
  }

  /** Compare the metadata with the manifest: a check that the first view does not wait for. */
  async checkMetadata(): Promise<void> {
    const { says, damaged } = await this.store.checkMetadata();
    this.metadataProblem = damaged ? `${this.store.name}: ${says}` : "";
    this.redraw();
  }

  retry(): void {
    this.store.retry();
    this.changed();
  }

  /** What cannot be read, in words. */
  get problems(): string[] {
    const texts = [...this.store.problems.values()].map((problem) => problem.text);
    return this.metadataProblem ? [this.metadataProblem, ...texts] : texts;
  }

  describeImage(row: number): string {
    const name = this.className(row);
    return `image ${show(row)}, ${this.store.id(row)}${name ? `, class ${name}` : ""}`;
  }
}

/** A constant mode has nothing to see; the first that is not is the one to begin with. */
function firstVarying(figures: MapFigures): number {
  for (let mode = 0; mode < figures.info.modes; mode++) {
    if (!figures.isConstant(mode)) return mode;
  }
  return 0;
}
