// A store as the explorer sees it: its labels and groups, and its maps a chunk at a time.

import { Metadata, type MapInfo } from "./metadata.js";
import { relativeChange, repeatCount } from "./repeats.js";
import { HttpSource, ReadError, reason } from "./source.js";

const CACHE_BYTES = 256 * 1024 * 1024; // decoded chunks kept
const AT_ONCE = 6; // chunks read at the same time

/** The decoded images of one chunk. */
export interface Slab {
  first: number;
  count: number;
  imageSize: number; // values per image
  data: Float32Array | Uint8Array;
}

export interface Problem {
  map: string;
  first: number;
  last: number;
  text: string;
}

type Listener = (map: string, chunk: number) => void;

export class Store extends Metadata {
  readonly name = nameOf(this.source.base);
  labels: Int32Array = new Int32Array(0);
  groups: Int32Array | undefined; // of every image, a position in groupNames
  readonly problems = new Map<string, Problem>();

  private readonly ids: (string | undefined)[] = [];
  private readonly idChunks = new Map<number, Promise<void>>();
  private readonly slabs = new Map<string, Slab>(); // oldest use first
  private cachedBytes = 0;
  private visible: [string, number][] = [];
  private background: [string, number][] = [];
  private readonly active = new Set<string>();
  private readonly listeners: Listener[] = [];

  static async open(url: URL): Promise<Store> {
    const source = new HttpSource(url);
    const bytes = await source.get("/zarr.json");
    if (!bytes) throw new ReadError(`${url.href} is not a store: it has no zarr.json`);
    const store = new Store(source, bytes, url.href);
    const labels = store.wholeArray("label", -1, store.classNames.length || 2 ** 31);
    const groups = store.index.has("group")
      ? store.wholeArray("group", 0, store.groupNames.length)
      : undefined;
    [store.labels, store.groups] = await Promise.all([labels, groups]);
    return store;
  }

  /** A number for every image, from `least` to below `end`. */
  private async wholeArray(name: string, least: number, end: number): Promise<Int32Array> {
    const info = this.info(name);
    const chunks = Math.ceil(this.n / info.chunkImages);
    const parts = await Promise.all(
      Array.from({ length: chunks }, (_, chunk) => this.decode(info, chunk)),
    );
    const all = new Int32Array(this.n);
    for (const part of parts) all.set(part.data.subarray(0, part.count), part.first);
    const wrong = all.findIndex((value) => value < least || value >= end);
    if (wrong >= 0) {
      throw new ReadError(
        `${name} of image ${wrong} is ${all[wrong]}, expected ${least} to ${end - 1}`,
      );
    }
    return all;
  }

  // ---- names of images, read where they are shown -------------------------------------------

  /** An image's own name; until it is read, its position. */
  id(row: number): string {
    const known = this.ids[row];
    if (known === undefined) void this.loadIds(this.chunkOf("image_id", row));
    return known ?? `image ${row}`;
  }

  /** Names of all images; without those that cannot be read. */
  async allIds(): Promise<readonly (string | undefined)[]> {
    const chunks = this.chunkCount("image_id");
    await Promise.all(Array.from({ length: chunks }, (_, chunk) => this.loadIds(chunk)));
    return this.ids;
  }

  private loadIds(chunk: number): Promise<void> {
    const key = `image_id/${chunk}`;
    if (this.problems.has(key)) return Promise.resolve();
    let loading = this.idChunks.get(chunk);
    if (!loading) {
      const info = this.info("image_id");
      this.active.add(key);
      loading = this.decode(info, chunk)
        .then((slab) => {
          const names = slab.data as unknown as string[];
          for (let k = 0; k < slab.count; k++) this.ids[slab.first + k] = String(names[k]);
        })
        .catch((error) => {
          this.fail(info, chunk, error);
          this.idChunks.delete(chunk);
        })
        .finally(() => {
          this.active.delete(key);
          this.announce("image_id", chunk);
          this.pump();
        });
      this.idChunks.set(chunk, loading);
    }
    return loading;
  }

  private fail(info: MapInfo, chunk: number, error: unknown): void {
    const first = chunk * info.chunkImages;
    const last = Math.min(first + info.chunkImages, this.n) - 1;
    const text = reason(error);
    this.problems.set(`${info.name}/${chunk}`, { map: info.name, first, last, text });
  }

  // ---- chunks -------------------------------------------------------------------------------

  info(map: string): MapInfo {
    const info = map === "image" ? this.thumbnails : (this.maps.get(map) ?? this.index.get(map));
    if (!info) throw new Error(`no map ${map}`);
    return info;
  }

  chunkOf(map: string, row: number): number {
    return Math.floor(row / this.info(map).chunkImages);
  }

  chunkCount(map: string): number {
    return Math.ceil(this.n / this.info(map).chunkImages);
  }

  /** The chunk that holds image `row`, where it is in memory. */
  slab(map: string, row: number): Slab | undefined {
    const key = `${map}/${this.chunkOf(map, row)}`;
    const slab = this.slabs.get(key);
    if (slab) {
      this.slabs.delete(key);
      this.slabs.set(key, slab); // the most recent use is last
    }
    return slab;
  }

  problem(map: string, row: number): Problem | undefined {
    return this.problems.get(`${map}/${this.chunkOf(map, row)}`);
  }

  onSlab(listener: Listener): void {
    this.listeners.push(listener);
  }

  /** What is on the screen: read before anything else; what scrolled away is not read any more. */
  want(chunks: [string, number][]): void {
    this.visible = chunks;
    this.pump();
  }

  /** What a computation needs: read when nothing on the screen is waiting. */
  wantInBackground(chunks: [string, number][]): void {
    this.background = chunks;
    this.pump();
  }

  get busy(): boolean {
    return this.active.size > 0;
  }

  retry(): void {
    for (const key of this.problems.keys()) {
      const [map, chunk] = split(key);
      const info = this.info(map);
      for (const part of info.of ?? [info]) {
        const inside = this.chunkOf(part.name, chunk * info.chunkImages);
        this.source.forget(shardKey(part, inside));
      }
    }
    this.problems.clear();
  }

  private pump(): void {
    for (const queue of [this.visible, this.background]) {
      while (queue.length > 0 && this.active.size < AT_ONCE) {
        const [map, chunk] = queue.shift()!;
        const key = `${map}/${chunk}`;
        if (this.slabs.has(key)) {
          if (queue === this.background) this.announce(map, chunk);
        } else if (!this.active.has(key) && !this.problems.has(key)) {
          this.active.add(key);
          void this.load(map, chunk, key);
        }
      }
    }
  }

  private async load(map: string, chunk: number, key: string): Promise<void> {
    const info = this.info(map);
    try {
      const slab = await this.decode(info, chunk);
      this.slabs.set(key, slab);
      this.cachedBytes += slab.data.byteLength;
      for (const [oldest, old] of this.slabs) {
        if (this.cachedBytes <= CACHE_BYTES || oldest === key) break;
        this.slabs.delete(oldest);
        this.cachedBytes -= old.data.byteLength;
      }
    } catch (error) {
      this.fail(info, chunk, error);
    }
    this.active.delete(key);
    this.announce(map, chunk);
    this.pump();
  }

  private announce(map: string, chunk: number): void {
    for (const listener of this.listeners) listener(map, chunk);
  }

  private async decode(info: MapInfo, chunk: number): Promise<Slab> {
    if (info.of) {
      const row = chunk * info.chunkImages;
      const parts = info.of.map(
        ({ name }) => this.slab(name, row) ?? this.decode(this.info(name), this.chunkOf(name, row)),
      );
      const [measured, again] = await Promise.all(parts);
      return relativeChange(measured, again, repeatCount(info.of[1]), info.chunkImages);
    }
    const first = chunk * info.chunkImages;
    const last = Math.min(first + info.chunkImages, this.n) - 1;
    const file = shardKey(info, chunk);
    try {
      const coordinates = [chunk, ...info.shape.slice(1).map(() => 0)];
      const decoded = await info.array.getChunk(coordinates);
      const index = this.source.indexes.get(file);
      const inShard = chunk % (info.shardImages / info.chunkImages);
      if (!index || isAbsent(index, inShard)) throw new Error("it is missing from the file");
      const imageSize = info.shape.slice(1).reduce((a, b) => a * b, 1);
      const data = decoded.data as Float32Array | Uint8Array;
      if (data.length !== imageSize * info.chunkImages) {
        throw new Error(`it holds ${data.length} values, expected ${imageSize * info.chunkImages}`);
      }
      return { first, count: last - first + 1, imageSize, data };
    } catch (error) {
      throw new ReadError(
        `${info.name} of images ${first} to ${last} cannot be read from ${file}: ${reason(error)}`,
      );
    }
  }
}

function nameOf(base: URL): string {
  const last = decodeURIComponent(base.pathname.replace(/\/+$/, "").split("/").pop() ?? "");
  return last.replace(/\.zarr$/, "") || "store";
}

function shardKey(info: MapInfo, chunk: number): string {
  const unit = Math.floor((chunk * info.chunkImages) / info.shardImages);
  return [info.name, "c", unit, ...info.shape.slice(1).map(() => 0)].join("/");
}

/** zarr reads an absent chunk as fill values; in a complete store there is none. */
function isAbsent(index: Uint8Array, inShard: number): boolean {
  const entry = index.subarray(16 * inShard, 16 * inShard + 8);
  return entry.length < 8 || entry.every((byte) => byte === 255);
}

function split(key: string): [string, number] {
  const [map, chunk] = key.split("/");
  return [map, Number(chunk)];
}
