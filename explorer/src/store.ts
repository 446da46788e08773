// A store as the explorer sees it: its metadata, its labels, and its maps a chunk at a time.

import * as zarr from "zarrita";
import "./codecs.js";
import { changeMap, relativeChange, repeatCount } from "./repeats.js";
import { HttpSource, ReadError } from "./source.js";

const ATTRIBUTES = "frictionstore";
const FORMAT = 1;
const CACHE_BYTES = 256 * 1024 * 1024; // decoded chunks kept
const AT_ONCE = 6; // chunks read at the same time

/** One array with the axes (image, row, col[, mode]), or thumbnails (image, y, x, channel). */
export interface MapInfo {
  name: string;
  unit: string;
  description: string;
  shape: number[];
  modes: number; // 1 where there is no mode axis
  hasModes: boolean;
  chunkImages: number;
  shardImages: number;
  storedBytes: number;
  array: zarr.Array<zarr.DataType>;
  of?: [measured: MapInfo, again: MapInfo]; // what the page computes it of
}

/** The decoded images of one chunk. */
export interface Slab {
  first: number;
  count: number;
  imageSize: number; // values per image
  data: Float32Array | Uint8Array;
}

/** What the manifest says: its own hash, a sentence, and whether the store is damaged. */
export interface MetadataCheck {
  digest: string;
  says: string;
  damaged: boolean;
}

export interface Problem {
  map: string;
  first: number;
  last: number;
  text: string;
}

type Listener = (map: string, chunk: number) => void;

export class Store {
  readonly maps = new Map<string, MapInfo>();
  thumbnails: MapInfo | undefined;
  classNames: string[] = [];
  labels: Int32Array = new Int32Array(0);
  n = 0;
  grid: [number, number] = [0, 0];
  attributes: Record<string, unknown> = {};
  readonly problems = new Map<string, Problem>();

  private readonly ids: (string | undefined)[] = [];
  private readonly idChunks = new Map<number, Promise<void>>();
  private readonly slabs = new Map<string, Slab>(); // oldest use first
  private cachedBytes = 0;
  private visible: [string, number][] = [];
  private background: [string, number][] = [];
  private readonly active = new Set<string>();
  private readonly listeners: Listener[] = [];

  private constructor(
    readonly source: HttpSource,
    readonly name: string,
    readonly document: Uint8Array,
  ) {}

  static async open(url: URL): Promise<Store> {
    const source = new HttpSource(url);
    const bytes = await source.get("/zarr.json");
    if (!bytes) throw new ReadError(`${url.href} is not a store: it has no zarr.json`);
    const last = decodeURIComponent(url.pathname.replace(/\/+$/, "").split("/").pop() ?? "");
    const store = new Store(source, last.replace(/\.zarr$/, "") || "store", bytes);
    store.readMetadata(bytes, url.href);
    await store.readLabels();
    return store;
  }

  private readMetadata(bytes: Uint8Array, where: string): void {
    let group: Record<string, any>;
    try {
      group = JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      throw new ReadError(`${where} is damaged: its zarr.json is not JSON`);
    }
    const own = group?.attributes?.[ATTRIBUTES];
    if (typeof own !== "object" || own === null) {
      throw new ReadError(`${where} is not a store of frictionstore: its attributes have no entry`);
    }
    if (own.format !== FORMAT) {
      throw new ReadError(`${where} has format ${own.format}, this explorer reads ${FORMAT}`);
    }
    if (own.complete !== true) {
      throw new ReadError(`${where} is not complete: run its extraction again`);
    }
    const documents = group.consolidated_metadata?.metadata;
    const names = own.class_names;
    const sizes = own.shard_bytes;
    if (
      typeof documents !== "object" ||
      documents === null ||
      !documents.label ||
      !documents.image_id ||
      !Array.isArray(names) ||
      typeof sizes !== "object" ||
      sizes === null
    ) {
      throw new ReadError(`${where} is damaged: its zarr.json lacks what a store has`);
    }
    this.attributes = own;
    this.classNames = names.map(String);
    this.source.sizes = { ...sizes };
    this.source.checksums = { ...own.shard_crc32c };
    for (const [name, document] of Object.entries<any>(documents)) {
      const info = this.mapInfo(name, document, where);
      if (name === "label") this.n = info.shape[0];
      if (name === "image") this.thumbnails = info;
      // Repeats of a measurement are not maps of their own: what they change is one.
      else if (info.shape.length > 1 && info.shape.length < 5) this.maps.set(name, info);
      else this.index.set(name, info);
    }
    for (const info of [...this.maps.values()]) {
      const again = this.repeatsOf(info.name);
      if (!again || info.array.dtype !== "float32") continue;
      this.maps.set(`${info.name}_change`, changeMap(info, again));
    }
    const first = this.maps.values().next().value;
    if (!first) throw new ReadError(`${where} has no map on the patch grid`);
    this.grid = [first.shape[1], first.shape[2]];
    // In the order people look for them, whatever the order of the metadata.
    const order = [
      ...["friction", "settle", "friction_exact", "settle_exact"],
      ...["friction_change", "friction_exact_change"],
      ...["S", "S_orig", "recon_error", "refinement_residual"],
    ];
    const rank = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length);
    const sorted = [...this.maps].sort((a, b) => rank(a[0]) - rank(b[0]));
    this.maps.clear();
    for (const [name, info] of sorted) this.maps.set(name, info);
  }

  private readonly index = new Map<string, MapInfo>(); // and repeats
  repeatsOf(map: string): MapInfo | undefined {
    return this.index.get(`${map}_repeats`);
  }

  private mapInfo(name: string, document: any, where: string): MapInfo {
    try {
      const array = new zarr.Array<zarr.DataType>(this.source, `/${name}`, document);
      const shape = array.shape;
      const hasModes = document.dimension_names.at(-1) === "mode";
      const shard = document.chunk_grid.configuration.chunk_shape[0];
      const stored = Object.entries(this.source.sizes)
        .filter(([key]) => key.startsWith(`${name}/c/`))
        .reduce((sum, [, size]) => sum + size, 0);
      return {
        name,
        shape,
        hasModes,
        array,
        unit: String(document.attributes?.units ?? ""),
        description: String(document.attributes?.description ?? ""),
        modes: hasModes ? shape[3] : 1,
        chunkImages: array.chunks[0],
        shardImages: shard,
        storedBytes: stored,
      };
    } catch (error) {
      throw new ReadError(`${where}: array ${name} cannot be read (${reason(error)})`);
    }
  }

  private async readLabels(): Promise<void> {
    this.labels = Int32Array.from(await this.wholeArray());
    const wrong = this.labels.findIndex(
      (label) => label < -1 || (label >= this.classNames.length && this.classNames.length > 0),
    );
    if (wrong >= 0) {
      throw new ReadError(
        `label of image ${wrong} is ${this.labels[wrong]}, expected -1 to ` +
          `${this.classNames.length - 1}`,
      );
    }
  }

  private async wholeArray(): Promise<number[]> {
    const info = this.index.get("label")!;
    const chunks = Math.ceil(this.n / info.chunkImages);
    const parts = await Promise.all(
      Array.from({ length: chunks }, (_, chunk) => this.decode(info, chunk)),
    );
    return parts.flatMap((part) => Array.from(part.data.subarray(0, part.count)));
  }

  // ---- names of images, read where they are shown -------------------------------------------

  /** An image's own name; until it is read, its position. */
  id(row: number): string {
    const known = this.ids[row];
    if (known === undefined)
      void this.loadIds(Math.floor(row / this.index.get("image_id")!.chunkImages));
    return known ?? `image ${row}`;
  }

  /** The image of a name, or -1; reads all names. */
  async findId(text: string): Promise<number> {
    const chunks = Math.ceil(this.n / this.index.get("image_id")!.chunkImages);
    await Promise.all(Array.from({ length: chunks }, (_, chunk) => this.loadIds(chunk)));
    return this.ids.indexOf(text);
  }

  private loadIds(chunk: number): Promise<void> {
    const key = `image_id/${chunk}`;
    if (this.problems.has(key)) return Promise.resolve();
    let loading = this.idChunks.get(chunk);
    if (!loading) {
      const info = this.index.get("image_id")!;
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

  // ---- the manifest -------------------------------------------------------------------------

  /** Whether the metadata that was read is what the manifest names. */
  checkMetadata(): Promise<MetadataCheck> {
    this.metadataCheck ??= this.compareManifest().catch((error) => {
      this.metadataCheck = undefined;
      return { digest: "–", says: reason(error), damaged: false };
    });
    return this.metadataCheck;
  }

  private metadataCheck: Promise<MetadataCheck> | undefined;

  private async compareManifest(): Promise<MetadataCheck> {
    const manifest = await this.source.get("/MANIFEST.sha256");
    if (!manifest) {
      return { digest: "–", says: "MANIFEST.sha256 is missing: it is not complete", damaged: true };
    }
    // Browsers compute hashes for pages from https and from this machine only.
    if (!crypto.subtle) {
      const digest = "not computed: this page was not opened over https";
      return { digest, says: "there, not compared", damaged: false };
    }
    const lines = new TextDecoder().decode(manifest).split("\n");
    const line = lines.find((text) => text.endsWith("  zarr.json"));
    const matches = line?.slice(0, 64) === (await sha256(this.document));
    return {
      digest: await sha256(manifest),
      says: matches
        ? "names the metadata this page has read; chunks are checked one by one as they are read"
        : "MANIFEST.sha256 names another zarr.json than this page has read: it is damaged",
      damaged: !matches,
    };
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

function shardKey(info: MapInfo, chunk: number): string {
  const unit = Math.floor((chunk * info.chunkImages) / info.shardImages);
  return [info.name, "c", unit, ...info.shape.slice(1).map(() => 0)].join("/");
}

/** zarr reads an absent chunk as fill values; in a complete store there is none. */
function isAbsent(index: Uint8Array, inShard: number): boolean {
  const entry = index.subarray(16 * inShard, 16 * inShard + 8);
  return entry.length < 8 || entry.every((byte) => byte === 255);
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as BufferSource));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function split(key: string): [string, number] {
  const [map, chunk] = key.split("/");
  return [map, Number(chunk)];
}

/** The innermost message of an error, without the wrapping of codec pipelines. */
export function reason(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause !== undefined && !(inner instanceof ReadError)) {
    inner = inner.cause;
  }
  return inner instanceof Error ? inner.message : String(inner);
}
