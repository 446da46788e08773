// A second store beside the first: the same images, by their ids, and the maps that both have.

import type { MapInfo } from "./metadata.js";
import type { Store } from "./store.js";

export class Beside {
  /** What to call the first store and the second where both are spoken of. */
  readonly names: [string, string];
  private rows: Int32Array | undefined; // of every image of the first; -1: not in the second
  private asked = false;
  onready: () => void = () => {};

  constructor(
    private readonly first: Store,
    readonly store: Store,
  ) {
    const { name } = store;
    this.names = [first.name, name === first.name ? `${name} (2)` : name];
  }

  /** The map of this name, where it has the same axes in both. */
  map(name: string): MapInfo | undefined {
    const info = this.store.maps.get(name);
    return info && shapeOf(info) === shapeOf(this.first.info(name)) ? info : undefined;
  }

  /** Why a map is not in both, in words. */
  lacks(name: string): string {
    const info = this.store.maps.get(name);
    return info
      ? `${name} of one image is ${shapeOf(info)} in ${this.names[1]}, ` +
          `${shapeOf(this.first.info(name))} in ${this.names[0]}`
      : `${this.names[1]} has no map ${name}`;
  }

  /** The second store's row of the same image: -1 where it has none, undefined while ids are read. */
  row(row: number): number | undefined {
    this.read();
    return this.rows?.[row];
  }

  /** The first image that both have, or 0. */
  get common(): number {
    this.read();
    return Math.max(0, this.rows?.findIndex((row) => row >= 0) ?? 0);
  }

  /** The second store's class of the same name, or -1. */
  label(label: number): number {
    return this.store.classNames.indexOf(this.first.classNames[label]);
  }

  retry(): void {
    this.asked = false;
    this.store.retry();
  }

  private read(): void {
    if (this.asked) return;
    this.asked = true;
    void Promise.all([this.first.allIds(), this.store.allIds()]).then(([mine, theirs]) => {
      const rowOf = new Map<string | undefined, number>([[undefined, -1]]);
      // An id that two images have is no image's own.
      theirs.forEach((id, row) => rowOf.set(id, rowOf.has(id) ? -1 : row));
      this.rows = Int32Array.from({ length: this.first.n }, (_, row) => rowOf.get(mine[row]) ?? -1);
      this.onready();
    });
  }
}

/** Axes of one image's map. */
function shapeOf(info: MapInfo): string {
  return info.shape.slice(1).join(" × ");
}
