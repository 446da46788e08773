// What repeats of the measurement say: how far a value moves where its matrix's last bits do.

import type { MapInfo } from "./metadata.js";
import type { Slab } from "./store.js";

/** The map that the page makes of a measured one and its repeats. */
export function changeMap(measured: MapInfo, again: MapInfo): MapInfo {
  return {
    ...measured,
    name: `${measured.name}_change`,
    unit: "1",
    description:
      `largest relative change of ${measured.name} over its ${repeatCount(again)} repeats, ` +
      "computed in this page",
    chunkImages: Math.min(measured.chunkImages, again.chunkImages),
    storedBytes: measured.storedBytes + again.storedBytes,
    of: [measured, again],
  };
}

export function repeatCount(again: MapInfo): number {
  return again.shape[4];
}

/** `max_k |X_k - X| / |X|` of the images that both slabs hold; 0 where nothing moved. */
export function relativeChange(
  measured: Slab,
  again: Slab,
  repeats: number,
  chunkImages: number,
): Slab {
  const { first, count } = again;
  const imageSize = again.imageSize / repeats;
  const data = new Float32Array(imageSize * chunkImages);
  const start = (first - measured.first) * imageSize;
  for (let v = 0; v < count * imageSize; v++) {
    const value = measured.data[start + v];
    let moved = 0;
    for (let k = 0; k < repeats; k++) {
      moved = Math.max(moved, Math.abs(again.data[v * repeats + k] - value));
    }
    data[v] = moved === 0 ? 0 : moved / Math.abs(value);
  }
  return { first, count, imageSize, data };
}

/** A map at one patch: what was measured and each repeat of it, a row each with a value a mode. */
export function atPatch(
  slab: Slab | undefined,
  info: MapInfo,
  row: number,
  cell: number,
): { name: string; values: (number | null)[] }[] {
  const repeats = info.shape.length > 4 ? repeatCount(info) : 1;
  const modes = info.shape[3] ?? 1;
  return Array.from({ length: repeats }, (_, k) => ({
    name: info.shape.length > 4 ? `repeat ${k + 1}` : info.name,
    values: Array.from({ length: modes }, (_, mode) => {
      if (!slab) return null;
      const base = (row - slab.first) * slab.imageSize;
      return slab.data[base + (cell * modes + mode) * repeats + k];
    }),
  }));
}
