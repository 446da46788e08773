// What a store's zarr.json says, and whether its manifest names it.

import * as zarr from "zarrita";
import "./codecs.js";
import { changeMap } from "./repeats.js";
import { HttpSource, ReadError, reason } from "./source.js";

const ATTRIBUTES = "frictionstore";
const FORMATS = [1, 2];

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

/** What the manifest says: its own hash, a sentence, and whether the store is damaged. */
export interface MetadataCheck {
  digest: string;
  says: string;
  damaged: boolean;
}

/** A store without its values. */
export class Metadata {
  readonly maps = new Map<string, MapInfo>();
  thumbnails: MapInfo | undefined;
  classNames: string[] = [];
  groupNames: string[] = [];
  n = 0;
  grid: [number, number] = [0, 0];
  attributes: Record<string, unknown> = {};
  protected readonly index = new Map<string, MapInfo>(); // and repeats
  private metadataCheck: Promise<MetadataCheck> | undefined;

  constructor(
    readonly source: HttpSource,
    readonly document: Uint8Array,
    where: string,
  ) {
    let group: Record<string, any>;
    try {
      group = JSON.parse(new TextDecoder().decode(document));
    } catch {
      throw new ReadError(`${where} is damaged: its zarr.json is not JSON`);
    }
    const own = group?.attributes?.[ATTRIBUTES];
    if (typeof own !== "object" || own === null) {
      throw new ReadError(`${where} is not a store of frictionstore: its attributes have no entry`);
    }
    if (!FORMATS.includes(own.format)) {
      const known = FORMATS.join(" and ");
      throw new ReadError(`${where} has format ${own.format}, this explorer reads ${known}`);
    }
    if (own.complete !== true) {
      throw new ReadError(`${where} is not complete: run its extraction again`);
    }
    const documents = group.consolidated_metadata?.metadata;
    const names = own.class_names;
    const groups = own.group_names;
    const sizes = own.shard_bytes;
    if (
      typeof documents !== "object" ||
      documents === null ||
      !documents.label ||
      !documents.image_id ||
      !Array.isArray(names) ||
      (documents.group ? !Array.isArray(groups) : groups !== undefined) ||
      typeof sizes !== "object" ||
      sizes === null
    ) {
      throw new ReadError(`${where} is damaged: its zarr.json lacks what a store has`);
    }
    this.attributes = own;
    this.classNames = names.map(String);
    this.groupNames = (groups ?? []).map(String);
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

  /** Whether the metadata that was read is what the manifest names. */
  checkMetadata(): Promise<MetadataCheck> {
    this.metadataCheck ??= this.compareManifest().catch((error) => {
      this.metadataCheck = undefined;
      return { digest: "–", says: reason(error), damaged: false };
    });
    return this.metadataCheck;
  }

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
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as BufferSource));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
