// Whether what is shown would be the same if it were measured again, and what to look at if not.

import type { App } from "./app.js";
import { plural } from "./format.js";
import type { MapInfo } from "./metadata.js";
import { repeatCount } from "./repeats.js";
import type { State } from "./state.js";
import type { Slab } from "./store.js";

const RELIABLE = 0.9;

/** Some images of a map, and their repeats. */
interface Repeated {
  info: MapInfo;
  measured: Slab;
  again: Slab;
  repeats: number;
  first: number;
  end: number; // one past the last image
}

export interface Advice {
  text: string;
  instead: Partial<State> | null; // what is reliable, where anything is known to be
}

/** Where repeats in memory say that a map's raw values are not reliable: how far, and what is. */
export function advice(app: App, row: number): Advice | null {
  const { map } = app.state;
  const own = inMemory(app, map, row);
  if (!own) return null;
  const raw = reliability(own, app.plane, false);
  if (!(raw < RELIABLE)) return null;
  const log = reliability(own, app.plane, true);
  const exact = `${map}_exact`;
  const ofExact = inMemory(app, exact, row);
  const exactLog = ofExact ? reliability(ofExact, app.plane, true) : undefined;
  let text =
    `Rounding decides much of raw ${app.title}: reliability ${shown(raw)} over ` +
    `${plural(own.repeats, "repeat")} (its logarithm ${shown(log)}), images ${own.first} to ` +
    `${own.end - 1}.`;
  let instead: Partial<State> | null = null;
  if (app.store.maps.has(exact) && (exactLog === undefined || exactLog >= RELIABLE)) {
    const known = exactLog === undefined ? "" : ` (${shown(exactLog)})`;
    text += ` Look at the logarithm of ${exact}${known}.`;
    instead = { map: exact, scale: "log" };
  } else if (log >= RELIABLE) {
    if (app.range().log) return null;
    text += " Look at its logarithm.";
    instead = { scale: "log" };
  }
  return { text, instead };
}

function inMemory(app: App, map: string, row: number): Repeated | null {
  const { store } = app;
  const info = store.maps.get(map);
  const of = store.repeatsOf(map);
  const measured = info?.array.dtype === "float32" && store.slab(map, row);
  const again = of && store.slab(of.name, row);
  if (!info || !measured || !again) return null;
  const first = Math.max(measured.first, again.first);
  const end = Math.min(measured.first + measured.count, again.first + again.count);
  return { info, measured, again, repeats: repeatCount(of), first, end };
}

const known = new WeakMap<Slab, Map<string, number>>();

/**
 * `1 - W / T` of one mode (or the sum of all): W is the mean variance between measurements of a
 * value, T the variance of all values, both with ddof 1. NaN where all values are one, or have no
 * logarithm. What `frictionstore analyze reliability` says of these images.
 */
function reliability(of: Repeated, plane: number, log: boolean): number {
  let found = known.get(of.again);
  if (!found) known.set(of.again, (found = new Map()));
  const key = `${plane}|${log}|${of.first}`;
  const before = found.get(key);
  if (before !== undefined) return before;
  const values = measurements(of, plane, log);
  const width = of.repeats + 1;
  let within = 0;
  for (let at = 0; at < values.length; at += width) {
    within += squares(values.subarray(at, at + width)) / of.repeats;
  }
  const total = squares(values) / (values.length - 1);
  const result = total === 0 ? NaN : 1 - within / (values.length / width) / total;
  found.set(key, result);
  return result;
}

/** Every value beside its repeats. */
function measurements(of: Repeated, plane: number, log: boolean): Float64Array {
  const { info, measured, again, repeats, first, end } = of;
  const { modes } = info;
  const [from, to] = plane < modes ? [plane, plane + 1] : [0, modes];
  const start = (first - measured.first) * measured.imageSize;
  const startAgain = (first - again.first) * measured.imageSize;
  const cells = ((end - first) * measured.imageSize) / modes;
  const out = new Float64Array(cells * (repeats + 1));
  for (let k = 0; k < out.length; k++) {
    const cell = Math.floor(k / (repeats + 1));
    const repeat = (k % (repeats + 1)) - 1;
    for (let m = from; m < to; m++) {
      const at = cell * modes + m;
      out[k] +=
        repeat < 0 ? measured.data[start + at] : again.data[(startAgain + at) * repeats + repeat];
    }
    if (log) out[k] = out[k] > 0 ? Math.log10(out[k]) : NaN;
  }
  return out;
}

/** Sum of the squared distances from the mean. */
function squares(values: Float64Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
}

/** Two decimals, cut off: what is below a bound is not shown as being at it. */
function shown(value: number): string {
  return Number.isNaN(value) ? "not defined" : (Math.floor(value * 100) / 100).toFixed(2);
}
