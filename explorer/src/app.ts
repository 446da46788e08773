// The one place that holds what is shown and what is known; the views draw from it.

import type { Beside } from "./beside.js";
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
  rowsWith,
} from "./figures.js";
import { bytes, plural, show } from "./format.js";
import { fromHash, initialState, toHash, type State } from "./state.js";
import type { MapInfo } from "./metadata.js";
import type { Store } from "./store.js";

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
  private readonly meansByMap = new WeakMap<MapInfo, ClassMeans>();
  private readonly allowed = new Set<string>();
  private frame = 0;
  private timer = 0;
  private pushNext = false;
  private knownHash = "";
  private orderKey = "";
  private orderRows: Int32Array = new Int32Array(0);
  private ofGroup = { key: "", rows: new Int32Array(0) };
  private readonly metadataProblems: string[] = [];
  draw: () => void = () => {};

  /** `beside` is a second store, or why there is none where one was asked for. */
  constructor(
    readonly store: Store,
    readonly beside: Beside | null = null,
    private readonly besideProblem = "",
  ) {
    this.initial = initialState(store);
    this.state = this.initial;
    this.readAddress();
    store.onSlab((map, chunk) => this.arrived(map, chunk));
    beside?.store.onSlab((map, chunk) => {
      this.ingestMeans(beside.store, map, chunk);
      this.redraw();
    });
    if (beside) beside.onready = () => this.redraw();
    addEventListener("hashchange", () => {
      this.readAddress();
      this.changed();
    });
  }

  private readAddress(): void {
    const { state, refused } = fromHash(location.hash, this.store, this.beside !== null);
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

  /** The stores that have the map that is shown. */
  private get stores(): Store[] {
    return this.beside?.map(this.state.map) ? [this.store, this.beside.store] : [this.store];
  }

  meansIn(store: Store): ClassMeans {
    const info = store.info(this.state.map);
    let means = this.meansByMap.get(info);
    if (!means) this.meansByMap.set(info, (means = new ClassMeans(store, info)));
    return means;
  }

  /** Whether geometric means can be shown: of both stores or of neither. */
  get robust(): boolean {
    return this.stores.every((store) => this.meansIn(store).robust);
  }

  /** The mean map of a class as it is shown. */
  mean(label: number | "all", store = this.store): ClassMean | undefined {
    return this.meansIn(store).mean(label, this.state.raw || !this.robust);
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
  values(row: number, plane = this.plane, store = this.store): Float64Array | undefined {
    const { map } = this.state;
    const slab = store.slab(map, row);
    const [rows, cols] = store.grid;
    return slab && modeValues(slab, store.info(map), row, plane, new Float64Array(rows * cols));
  }

  className(row: number, store = this.store): string {
    const label = store.labels[row];
    return label < 0 ? "" : this.classTitle(label, store);
  }

  /** A class for a caption: a bare number says that it is one. */
  shortClass(row: number): string {
    const name = this.className(row);
    return /^\d+$/.test(name) ? `class ${name}` : name;
  }

  classTitle(label: number, store = this.store): string {
    const name = store.classNames[label];
    return name === undefined ? `class ${label}` : name === "" ? `(class ${label})` : name;
  }

  groupTitle(group: number, store = this.store): string {
    return store.groupNames[group] || `(group ${group})`;
  }

  /** What an image's group is called; null where the store has no groups. */
  groupOf(row: number, store = this.store): string | null {
    return store.groups ? this.groupTitle(store.groups[row], store) : null;
  }

  // ---- which images, in which order ---------------------------------------------------------

  get filtered(): Int32Array {
    const { classes, group } = this.state;
    const { store } = this;
    const label = classes === "all" ? "all" : classes === "none" ? -1 : Number(classes);
    if (group === null) return rowsOfClass(store, label);
    const rows = rowsWith(store.groups!, group);
    if (label === "all") return rows;
    // The same images stay the same array, so that the grid does not jump.
    const key = `${classes}|${group}`;
    if (this.ofGroup.key !== key) {
      this.ofGroup = { key, rows: rows.filter((row) => store.labels[row] === label) };
    }
    return this.ofGroup.rows;
  }

  /** Rows in the order shown: the store's order until every figure to sort by is known. */
  get order(): Int32Array {
    const { sort, map, classes, group } = this.state;
    const rows = this.filtered;
    if (sort === "store" || this.sortPending().length > 0) return rows;
    const key = [sort, map, this.plane, classes, group, this.figures.size].join("|");
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

  private meansPending(store: Store): number[] {
    const { map } = this.state;
    return this.meansIn(store)
      .missing()
      .filter((chunk) => !store.problems.has(`${map}/${chunk}`));
  }

  /** What is to be read of each store, beyond what is on the screen. */
  private pending(): [Store, number[]][] {
    const { view, sort } = this.state;
    if (view === "images") return sort === "store" ? [] : [[this.store, this.sortPending()]];
    if (view === "about") return [];
    const averaged = this.stores.filter((store) => this.meansIn(store).wanted);
    return averaged.map((store) => [store, this.meansPending(store)]);
  }

  /** What has to be read for what is shown, beyond what is on the screen. */
  work(): Work | null {
    const { view, map } = this.state;
    const pending = this.pending();
    const left = pending.reduce((sum, [, chunks]) => sum + chunks.length, 0);
    if (left === 0) return null;
    const images = view === "images";
    const what = images
      ? `Sorting by ${this.sortFigure!.name} needs ${map} of ${plural(this.filtered.length, "image")}`
      : `Class means need ${map} of every image they are the mean of`;
    let total = images ? chunksOfRows(this.filtered, this.info).length : 0;
    let cost = 0;
    for (const [store, chunks] of pending) {
      if (!images) total += store.chunkCount(map);
      cost += (store.info(map).storedBytes * chunks.length) / store.chunkCount(map);
    }
    const waiting = cost > UNASKED_BYTES && !this.allowed.has(map);
    return { what, done: Math.max(0, total - left), total, cost, waiting };
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
    const waiting = this.work()?.waiting;
    const pending = new Map(waiting ? [] : this.pending());
    for (const store of this.beside ? [this.store, this.beside.store] : [this.store]) {
      const chunks = pending.get(store) ?? [];
      store.wantInBackground(chunks.map((chunk) => [this.state.map, chunk]));
    }
  }

  private arrived(map: string, chunk: number): void {
    if (this.store.maps.has(map)) {
      const slab = this.store.slab(map, chunk * this.store.info(map).chunkImages);
      if (slab) {
        const figures = this.figuresOf(map);
        figures.ingest(chunk, slab);
        this.ingestMeans(this.store, map, chunk);
        if (map === this.state.map && this.state.mode === null && this.info.hasModes) {
          this.set({ mode: firstVarying(figures) });
        }
      }
    }
    this.redraw();
  }

  private ingestMeans(store: Store, map: string, chunk: number): void {
    const info = store.maps.get(map);
    if (!info) return;
    const slab = store.slab(map, chunk * info.chunkImages);
    if (slab) this.meansByMap.get(info)?.ingest(chunk, slab);
  }

  /** Compare the metadata with the manifest: a check that the first view does not wait for. */
  async checkMetadata(): Promise<void> {
    for (const store of this.beside ? [this.store, this.beside.store] : [this.store]) {
      const { says, damaged } = await store.checkMetadata();
      if (damaged) this.metadataProblems.push(`${store.name}: ${says}`);
    }
    this.redraw();
  }

  get busy(): boolean {
    return this.store.busy || !!this.beside?.store.busy;
  }

  retry(): void {
    this.store.retry();
    this.beside?.retry();
    this.changed();
  }

  /** What cannot be read, in words. */
  get problems(): string[] {
    const { beside } = this;
    return [
      ...(this.besideProblem ? [this.besideProblem] : []),
      ...this.metadataProblems,
      ...[...this.store.problems.values()].map((problem) => problem.text),
      ...[...(beside?.store.problems.values() ?? [])].map(
        (problem) => `${beside!.names[1]}: ${problem.text}`,
      ),
    ];
  }

  describeImage(row: number, store = this.store): string {
    const name = this.className(row, store);
    const group = this.groupOf(row, store);
    return (
      `image ${show(row)}, ${store.id(row)}${name ? `, class ${name}` : ""}` +
      (group === null ? "" : `, group ${group}`)
    );
  }
}

/** A constant mode has nothing to see; the first that is not is the one to begin with. */
function firstVarying(figures: MapFigures): number {
  for (let mode = 0; mode < figures.info.modes; mode++) {
    if (!figures.isConstant(mode)) return mode;
  }
  return 0;
}
