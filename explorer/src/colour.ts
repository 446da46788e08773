// From values to colours: tables, ranges, and painting a map on a canvas.

import { TABLES } from "./colour_tables.js";
import type { Extent, MapFigures } from "./figures.js";
import { show } from "./format.js";

export type Lut = Uint8ClampedArray; // (256, 3)

const luts = new Map<string, Lut>();

/** The colour names a user can choose. */
export const COLOURS = [...Object.keys(TABLES), "grey"];

export function lut(name: string): Lut {
  let table = luts.get(name);
  if (!table) {
    table = name === "difference" ? diverging() : name === "grey" ? grey() : fromHex(TABLES[name]);
    luts.set(name, table);
  }
  return table;
}

function interpolate(knots: number[][]): Lut {
  const table = new Uint8ClampedArray(256 * 3);
  for (let k = 0; k < 256; k++) {
    const at = (k / 255) * (knots.length - 1);
    const below = Math.min(Math.floor(at), knots.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * k + c] = knots[below][c] + (at - below) * (knots[below + 1][c] - knots[below][c]);
    }
  }
  return table;
}

function fromHex(hex: string): Lut {
  const knots: number[][] = [];
  for (let k = 0; k < hex.length; k += 6) {
    knots.push([0, 2, 4].map((c) => parseInt(hex.slice(k + c, k + c + 2), 16)));
  }
  return interpolate(knots);
}

function grey(): Lut {
  return interpolate([
    [16, 16, 16],
    [245, 245, 245],
  ]);
}

/** Blue, near white, orange: apart for every kind of colour vision, equal in weight. */
function diverging(): Lut {
  return interpolate([
    [8, 48, 107],
    [33, 113, 181],
    [130, 181, 221],
    [244, 244, 242],
    [246, 178, 107],
    [217, 102, 20],
    [115, 42, 4],
  ]);
}

export interface Range {
  low: number;
  high: number;
  log: boolean;
  constant: boolean;
  text: string; // what the range was taken from
}

export type RangeChoice = "shared" | "full" | "image" | `${number}..${number}`;
export type ScaleChoice = "auto" | "linear" | "log";

const LOG_RATIO = 30; // positive values that span this are shown on a logarithmic scale

export function decideScale(low: number, high: number, scale: ScaleChoice): boolean {
  if (low <= 0) return false;
  return scale === "log" || (scale === "auto" && high / low >= LOG_RATIO);
}

/** The numbers of a fixed range, or null where the choice is another one or is no range. */
export function fixedRange(choice: string): [number, number] | null {
  const parts = choice.split("..");
  if (parts.length !== 2 || parts.some((part) => part.trim() === "")) return null;
  const [low, high] = parts.map(Number);
  return Number.isFinite(low) && Number.isFinite(high) && low < high ? [low, high] : null;
}

/** The colour range for one map and mode; `values` are those of one image. */
export function colourRange(
  figures: MapFigures,
  plane: number,
  choice: string,
  scale: ScaleChoice,
  values?: Float64Array,
): Range {
  const extent: Extent = figures.extent(plane);
  const fixed = fixedRange(choice);
  let low: number;
  let high: number;
  let text: string;
  if (fixed) {
    [low, high] = fixed;
    text = "a fixed range";
  } else if (choice === "image") {
    [low, high] = values ? bounds(values) : [extent.min, extent.max];
    text = values ? "smallest to largest value of this image" : "each image its own range";
  } else if (choice === "full") {
    [low, high] = [extent.min, extent.max];
    text = `smallest to largest value of ${images(extent, figures)}`;
  } else {
    [low, high] = figures.quantiles(plane, 0.005, 0.995);
    if (!(low < high)) [low, high] = [extent.min, extent.max];
    text = `99 % of the values of ${images(extent, figures)}`;
  }
  return {
    low,
    high,
    text,
    log: decideScale(low, high, scale),
    constant: !(low < high),
  };
}

function images(extent: Extent, figures: MapFigures): string {
  const n = figures.info.shape[0];
  return extent.images === n
    ? `all ${show(n)} images`
    : `the ${show(extent.images)} images read so far`;
}

/** The ends of a range for maps shown together: all of their values, or 99 % of them. */
export function ends(maps: Float64Array[], full: boolean): [number, number] {
  const all = new Float64Array(maps.reduce((sum, values) => sum + values.length, 0));
  let at = 0;
  for (const values of maps) {
    all.set(values, at);
    at += values.length;
  }
  all.sort();
  const cut = full ? 0 : 0.005;
  const pick = (q: number): number => all[Math.round(q * (all.length - 1))];
  const [low, high] = [pick(cut), pick(1 - cut)];
  return low < high ? [low, high] : [all[0], all[all.length - 1]];
}

/** A range for differences: the same below 0 as above. */
export function symmetricRange(maps: Float64Array[], full: boolean): Range | null {
  if (maps.length === 0) return null;
  const sizes = maps.map((values) => values.map(Math.abs));
  const spread = ends(sizes, full)[1];
  return {
    low: -spread,
    high: spread,
    log: false,
    constant: spread === 0,
    text: full ? "symmetric about 0" : "symmetric about 0, 99 % of the values",
  };
}

export function bounds(values: ArrayLike<number>): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (let k = 0; k < values.length; k++) {
    if (values[k] < low) low = values[k];
    if (values[k] > high) high = values[k];
  }
  return [low, high];
}

/** Position of `value` in the range, 0 to 1. */
export function position(value: number, range: Range): number {
  const { low, high, log } = range;
  if (range.constant) return 0.5;
  const at = log
    ? (Math.log(Math.max(value, low)) - Math.log(low)) / (Math.log(high) - Math.log(low))
    : (value - low) / (high - low);
  return Math.min(1, Math.max(0, at));
}

/** Paint values, one pixel each; what is not a number stays transparent. */
export function paintMap(
  canvas: HTMLCanvasElement,
  values: Float64Array,
  rows: number,
  cols: number,
  table: Lut,
  range: Range,
): void {
  resize(canvas, cols, rows);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(cols, rows);
  const pixels = image.data;
  for (let k = 0; k < rows * cols; k++) {
    if (Number.isNaN(values[k])) continue;
    const at = 3 * Math.round(255 * position(values[k], range));
    pixels[4 * k] = table[at];
    pixels[4 * k + 1] = table[at + 1];
    pixels[4 * k + 2] = table[at + 2];
    pixels[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Paint a thumbnail. */
export function paintImage(
  canvas: HTMLCanvasElement,
  data: Uint8Array,
  base: number,
  height: number,
  width: number,
): void {
  resize(canvas, width, height);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, height);
  for (let k = 0; k < height * width; k++) {
    image.data[4 * k] = data[base + 3 * k];
    image.data[4 * k + 1] = data[base + 3 * k + 1];
    image.data[4 * k + 2] = data[base + 3 * k + 2];
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** A bar from low to high. */
export function paintBar(canvas: HTMLCanvasElement, table: Lut): void {
  resize(canvas, 256, 1);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(256, 1);
  for (let k = 0; k < 256; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = table[3 * k + c];
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function resize(canvas: HTMLCanvasElement, width: number, height: number): void {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}
