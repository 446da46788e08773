// Numbers about one image's map, and what is known about all images read so far.

import type { MapInfo } from "./metadata.js";
import type { Slab, Store } from "./store.js";

export interface Figure {
  id: string;
  name: string;
  meaning: string;
}

export const FIGURES: Figure[] = [
  { id: "mean", name: "mean", meaning: "mean over the patches" },
  { id: "std", name: "standard deviation", meaning: "over the patches, ddof 1" },
  { id: "cv", name: "CV", meaning: "standard deviation over mean" },
  { id: "min", name: "minimum", meaning: "smallest value of any patch" },
  { id: "max", name: "maximum", meaning: "largest value of any patch" },
  {
    id: "entropy",
    name: "entropy",
    meaning: "entropy of the patches' share of the total, divided by log(patches): 1 is uniform",
  },
  { id: "hot", name: "hot spots", meaning: "patches above twice the image's mean" },
  {
    id: "moran",
    name: "Moran's I",
    meaning: "spatial autocorrelation, queen neighbours: 0 is none, 1 is smooth",
  },
];

export const figureIndex = (id: string): number => FIGURES.findIndex((figure) => figure.id === id);

/** The figures of one map of `rows` x `cols` values, in the order of `FIGURES`, into `out`. */
export function figuresOf(
  values: Float64Array,
  rows: number,
  cols: number,
  out: Float64Array,
  at: number,
): void {
  const n = rows * cols;
  let min = Infinity,
    max = -Infinity,
    sum = 0;
  for (let k = 0; k < n; k++) {
    const value = values[k];
    sum += value;
    if (value < min) min = value;
    if (value > max) max = value;
  }
  const mean = sum / n;
  let squares = 0,
    hot = 0,
    entropy = 0;
  for (let k = 0; k < n; k++) {
    const difference = values[k] - mean;
    squares += difference * difference;
    if (values[k] > 2 * mean) hot++;
    const share = values[k] / sum;
    if (share > 0) entropy -= share * Math.log(share);
  }
  const constant = min === max;
  const std = n > 1 ? Math.sqrt(squares / (n - 1)) : NaN;
  out[at] = mean;
  out[at + 1] = constant && n > 1 ? 0 : std;
  out[at + 2] = mean === 0 ? NaN : (constant && n > 1 ? 0 : std) / mean;
  out[at + 3] = min;
  out[at + 4] = max;
  out[at + 5] = min >= 0 && sum > 0 && n > 1 ? entropy / Math.log(n) : NaN;
  out[at + 6] = hot;
  out[at + 7] = constant ? NaN : moran(values, rows, cols, mean, squares);
}

/** Moran's I = (n / W) sum_ij w_ij z_i z_j / sum_i z_i^2, each neighbour pair counted twice in W. */
function moran(
  values: Float64Array,
  rows: number,
  cols: number,
  mean: number,
  squares: number,
): number {
  let cross = 0,
    pairs = 0;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const z = values[r * cols + c] - mean;
      let near = 0;
      if (c + 1 < cols) {
        near += values[r * cols + c + 1] - mean;
        pairs++;
      }
      if (r + 1 < rows) {
        const below = (r + 1) * cols + c;
        near += values[below] - mean;
        pairs++;
        if (c > 0) {
          near += values[below - 1] - mean;
          pairs++;
        }
        if (c + 1 < cols) {
          near += values[below + 1] - mean;
          pairs++;
        }
      }
      cross += z * near;
    }
  }
  return ((rows * cols) / pairs) * (cross / squares);
}

/** One image's values at a mode into `out`; mode `info.modes` is the sum over modes. */
export function modeValues(
  slab: Slab,
  info: MapInfo,
  row: number,
  mode: number,
  out: Float64Array,
): Float64Array {
  const { modes } = info;
  const cells = slab.imageSize / modes;
  const base = (row - slab.first) * slab.imageSize;
  const { data } = slab;
  if (mode < modes) {
    for (let k = 0; k < cells; k++) out[k] = data[base + k * modes + mode];
  } else {
    for (let k = 0; k < cells; k++) {
      let sum = 0;
      for (let m = 0; m < modes; m++) sum += data[base + k * modes + m];
      out[k] = sum;
    }
  }
  return out;
}

const SAMPLE = 2048; // values per chunk and mode kept for quantiles
const MOST_SAMPLED = 200_000; // values that quantiles are taken of
const GOLDEN = 0.6180339887498949;

/**
 * Values spread evenly over the images and patches of a chunk. Multiples of the golden ratio fall
 * between those before them, so any beginning of the sample is spread evenly too; a fixed step
 * would fall on the same column of every image.
 */
function sampled(slab: Slab, info: MapInfo, plane: number): Float64Array {
  const { modes } = info;
  const total = (slab.count * slab.imageSize) / modes;
  const out = new Float64Array(Math.min(SAMPLE, total));
  for (let k = 0; k < out.length; k++) {
    const base = (total <= SAMPLE ? k : Math.floor(((k * GOLDEN) % 1) * total)) * modes;
    if (plane < modes) out[k] = slab.data[base + plane];
    else for (let m = 0; m < modes; m++) out[k] += slab.data[base + m];
  }
  return out;
}

interface ChunkFigures {
  first: number;
  count: number;
  figures: Float64Array; // (count, modes + 1, FIGURES.length)
  min: Float64Array; // (modes + 1)
  max: Float64Array;
  sample: Float64Array[];
}

export interface Extent {
  min: number;
  max: number;
  images: number;
}

/** Figures of every chunk of one map that was read, whatever it was read for. */
export class MapFigures {
  private readonly chunks = new Map<number, ChunkFigures>();
  private readonly quantileCache = new Map<string, [number, number]>();
  readonly planes: number;

  constructor(readonly info: MapInfo) {
    this.planes = info.hasModes ? info.modes + 1 : 1;
  }

  /** Chunks whose figures are known. */
  get size(): number {
    return this.chunks.size;
  }

  has(chunk: number): boolean {
    return this.chunks.has(chunk);
  }

  ingest(chunk: number, slab: Slab): void {
    if (this.chunks.has(chunk)) return;
    const { info, planes } = this;
    const [, rows, cols] = info.shape;
    const width = FIGURES.length;
    const entry: ChunkFigures = {
      first: slab.first,
      count: slab.count,
      figures: new Float64Array(slab.count * planes * width),
      min: new Float64Array(planes).fill(Infinity),
      max: new Float64Array(planes).fill(-Infinity),
      sample: [],
    };
    const cells = rows * cols;
    const values = new Float64Array(cells);
    for (let plane = 0; plane < planes; plane++) {
      for (let k = 0; k < slab.count; k++) {
        modeValues(slab, info, slab.first + k, plane, values);
        const at = (k * planes + plane) * width;
        figuresOf(values, rows, cols, entry.figures, at);
        if (entry.figures[at + 3] < entry.min[plane]) entry.min[plane] = entry.figures[at + 3];
        if (entry.figures[at + 4] > entry.max[plane]) entry.max[plane] = entry.figures[at + 4];
      }
      entry.sample.push(sampled(slab, info, plane));
    }
    this.chunks.set(chunk, entry);
    this.quantileCache.clear();
  }

  figure(row: number, plane: number, figure: number): number | undefined {
    const entry = this.chunks.get(Math.floor(row / this.info.chunkImages));
    if (!entry) return undefined;
    return entry.figures[((row - entry.first) * this.planes + plane) * FIGURES.length + figure];
  }

  extent(plane: number): Extent {
    const extent = { min: Infinity, max: -Infinity, images: 0 };
    for (const entry of this.chunks.values()) {
      extent.min = Math.min(extent.min, entry.min[plane]);
      extent.max = Math.max(extent.max, entry.max[plane]);
      extent.images += entry.count;
    }
    return extent;
  }

  /** Whether all values read so far are one number. */
  isConstant(plane: number): boolean {
    const extent = this.extent(plane);
    return extent.images > 0 && extent.min === extent.max;
  }

  /** Estimates of two quantiles over the images read so far. */
  quantiles(plane: number, low: number, high: number): [number, number] {
    const key = `${plane}/${low}/${high}`;
    const known = this.quantileCache.get(key);
    if (known) return known;
    const each = Math.max(1, Math.floor(MOST_SAMPLED / this.chunks.size));
    const parts = [...this.chunks.values()].map((entry) => entry.sample[plane].subarray(0, each));
    const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    all.sort();
    const pick = (q: number): number => all[Math.round(q * (all.length - 1))];
    const result: [number, number] = [pick(low), pick(high)];
    this.quantileCache.set(key, result);
    return result;
  }
}

/** Sums of the maps of one class (or of all images), chunk by chunk. */
class ClassSum {
  readonly sum: Float64Array;
  readonly logs: Float64Array;
  readonly done = new Set<number>();
  count = 0;
  positive = true; // every value so far, so that each has a logarithm

  constructor(
    size: number,
    readonly label: number | "all",
    readonly needed: readonly number[],
  ) {
    this.sum = new Float64Array(size);
    this.logs = new Float64Array(size);
  }

  add(chunk: number, slab: Slab, labels: Int32Array): void {
    if (this.done.has(chunk)) return;
    this.done.add(chunk);
    for (let k = 0; k < slab.count; k++) {
      if (this.label !== "all" && labels[slab.first + k] !== this.label) continue;
      this.count++;
      const base = k * slab.imageSize;
      for (let v = 0; v < slab.imageSize; v++) {
        const value = slab.data[base + v];
        this.sum[v] += value;
        this.positive &&= value > 0;
        if (this.positive) this.logs[v] += Math.log(value);
      }
    }
  }
}

export interface ClassMean {
  values: Float64Array; // (row, col, mode)
  count: number; // images it is the mean of
  of: number; // images the class has
  complete: boolean;
  robust: boolean; // the geometric mean, which single patches do not decide
}

/** Class means of one map, for the classes that were asked for. */
export class ClassMeans {
  private readonly sums = new Map<number | "all", ClassSum>();

  constructor(
    readonly store: Store,
    readonly info: MapInfo,
  ) {}

  want(label: number | "all"): void {
    if (this.sums.has(label)) return;
    const size = this.info.shape.slice(1).reduce((a, b) => a * b, 1);
    const sum = new ClassSum(size, label, chunksOfRows(rowsOfClass(this.store, label), this.info));
    this.sums.set(label, sum);
    for (const chunk of sum.needed) {
      const slab = this.store.slab(this.info.name, chunk * this.info.chunkImages);
      if (slab) sum.add(chunk, slab, this.store.labels);
    }
  }

  ingest(chunk: number, slab: Slab): void {
    for (const sum of this.sums.values()) sum.add(chunk, slab, this.store.labels);
  }

  /** Whether any class was asked for. */
  get wanted(): boolean {
    return this.sums.size > 0;
  }

  /** Chunks that hold images of the classes asked for and were not added yet. */
  missing(): number[] {
    const missing = new Set<number>();
    for (const sum of this.sums.values()) {
      for (const chunk of sum.needed) if (!sum.done.has(chunk)) missing.add(chunk);
    }
    return [...missing].sort((a, b) => a - b);
  }

  /** Whether geometric means are shown: of a positive map that is not counts. */
  get robust(): boolean {
    const { dtype } = this.info.array;
    return dtype.startsWith("float") && [...this.sums.values()].every((sum) => sum.positive);
  }

  mean(label: number | "all", raw = false): ClassMean | undefined {
    const sum = this.sums.get(label);
    const rows = rowsOfClass(this.store, label);
    if (!sum || sum.count === 0) return undefined;
    const robust = this.robust && !raw;
    return {
      values: robust
        ? sum.logs.map((value) => Math.exp(value / sum.count))
        : sum.sum.map((value) => value / sum.count),
      robust,
      count: sum.count,
      of: rows.length,
      complete: sum.count === rows.length,
    };
  }
}

const rowsCache = new WeakMap<Int32Array, Map<number | "all", Int32Array>>();
const noRows = new Int32Array(0);

/** Positions of a class's images, in the store's order; found for all classes in one pass. */
export function rowsOfClass(store: Store, label: number | "all"): Int32Array {
  return rowsWith(store.labels, label);
}

/** Positions of the images that have a number, such as a group's. */
export function rowsWith(numbers: Int32Array, value: number | "all"): Int32Array {
  let known = rowsCache.get(numbers);
  if (!known) {
    known = new Map<number | "all", Int32Array>([["all", Int32Array.from(numbers.keys())]]);
    const lists = new Map<number, number[]>();
    numbers.forEach((own, row) => {
      const list = lists.get(own);
      if (list) list.push(row);
      else lists.set(own, [row]);
    });
    for (const [own, list] of lists) known.set(own, Int32Array.from(list));
    rowsCache.set(numbers, known);
  }
  return known.get(value) ?? noRows;
}

const chunksCache = new WeakMap<Int32Array, Map<number, number[]>>();

/** Chunks that hold the images `rows`, in order. */
export function chunksOfRows(rows: Int32Array, info: MapInfo): number[] {
  let known = chunksCache.get(rows);
  if (!known) chunksCache.set(rows, (known = new Map()));
  let chunks = known.get(info.chunkImages);
  if (!chunks) {
    const seen = new Set<number>();
    for (const row of rows) seen.add(Math.floor(row / info.chunkImages));
    known.set(info.chunkImages, (chunks = [...seen]));
  }
  return chunks;
}
