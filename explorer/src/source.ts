// Reading files of a store over HTTP: few requests, sizes checked, errors that name the file.
// zarrita asks for byte ranges one by one; ranges asked for at the same moment are fetched together.

import type { AbsolutePath, AsyncReadable, RangeQuery } from "zarrita";

const WHOLE_FILE = 256 * 1024; // files up to this size are fetched whole, once
const GAP = 64 * 1024; // ranges closer than this are fetched together, with what lies between
const LARGEST_RANGE = 16 * 1024 * 1024;
const LARGEST_WHOLE = 64 * 1024 * 1024; // what is accepted from a server that ignores ranges

/** A failure a person can act on: the message is one sentence. */
export class ReadError extends Error {}

/** The innermost message of an error, without the wrapping of codec pipelines. */
export function reason(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause !== undefined && !(inner instanceof ReadError)) {
    inner = inner.cause;
  }
  return inner instanceof Error ? inner.message : String(inner);
}

interface Waiting {
  start: number;
  end: number;
  resolve: (bytes: Uint8Array) => void;
  reject: (error: unknown) => void;
}

export class HttpSource implements AsyncReadable {
  /** Expected size of each file, where the store's metadata says it. */
  sizes: Record<string, number> = {};
  /** The CRC-32C of every chunk of each file and of its index, in hex, where it is known. */
  checksums: Record<string, string> = {};
  /** The raw index of each shard that was read. */
  readonly indexes = new Map<string, Uint8Array>();
  private readonly whole = new Map<string, Promise<Uint8Array>>();
  private readonly waiting = new Map<string, Waiting[]>();

  constructor(readonly base: URL) {}

  url(key: string): string {
    const url = new URL(this.base);
    const folder = url.pathname.endsWith("/") ? url.pathname : `${url.pathname}/`;
    url.pathname = folder + key;
    url.hash = "";
    return url.href;
  }

  /** A whole file, or undefined where there is none. */
  async get(path: AbsolutePath): Promise<Uint8Array | undefined> {
    const key = path.slice(1);
    const response = await this.fetch(key, {});
    if (response.status === 404) return undefined;
    return new Uint8Array(await body(response, key));
  }

  async getRange(path: AbsolutePath, range: RangeQuery): Promise<Uint8Array | undefined> {
    const key = path.slice(1);
    const size = this.sizes[key];
    if (size === undefined) {
      throw new ReadError(`${key} is not a file that the store's metadata names`);
    }
    const suffix = "suffixLength" in range;
    const length = suffix ? range.suffixLength : range.length;
    const start = suffix ? size - range.suffixLength : range.offset;
    if (start < 0 || length < 0 || start + length > size) {
      throw new ReadError(
        `${key} has ${size} bytes, but bytes ${start} to ${start + length} are asked for: ` +
          "its index is damaged",
      );
    }
    const bytes =
      size <= WHOLE_FILE
        ? (await this.wholeFile(key, size)).slice(start, start + length)
        : await this.queued(key, start, start + length);
    this.checkPlace(key, bytes, suffix ? undefined : start);
    if (suffix) this.indexes.set(key, bytes);
    return bytes;
  }

  /** A file that is sound in itself may still be another shard's: the metadata knows its sums. */
  private checkPlace(key: string, bytes: Uint8Array, offset: number | undefined): void {
    const row = this.checksums[key];
    if (row === undefined) return;
    let expected = row.slice(-8);
    if (offset !== undefined) {
      const index = this.indexes.get(key);
      if (!index) return;
      const view = new DataView(index.buffer, index.byteOffset, index.byteLength);
      let entry = 0;
      while (
        entry * 16 + 16 < index.length &&
        view.getBigUint64(entry * 16, true) !== BigInt(offset)
      ) {
        entry++;
      }
      expected = row.slice(8 * entry, 8 * entry + 8);
    }
    const found = Array.from(bytes.slice(-4), (b) => b.toString(16).padStart(2, "0")).join("");
    if (found !== expected) {
      throw new ReadError(
        `its checksum is ${found}, the store's metadata says ${expected || "nothing"}: it is ` +
          "damaged, or was replaced",
      );
    }
  }

  /** Forget a file that was fetched whole, so that a second try asks again. */
  forget(key: string): void {
    this.whole.delete(key);
  }

  private wholeFile(key: string, size: number): Promise<Uint8Array> {
    let promise = this.whole.get(key);
    if (!promise) {
      promise = this.fetch(key, {}).then(async (response) => {
        const bytes = new Uint8Array(await body(response, key));
        if (response.status === 404) throw new ReadError(`${key} is missing`);
        if (bytes.length !== size) throw wrongSize(key, bytes.length, size);
        return bytes;
      });
      promise.catch(() => this.whole.delete(key));
      this.whole.set(key, promise);
    }
    return promise;
  }

  private queued(key: string, start: number, end: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const queue = this.waiting.get(key);
      if (queue) {
        queue.push({ start, end, resolve, reject });
      } else {
        this.waiting.set(key, [{ start, end, resolve, reject }]);
        setTimeout(() => this.flush(key), 0);
      }
    });
  }

  private flush(key: string): void {
    const queue = this.waiting.get(key) ?? [];
    this.waiting.delete(key);
    queue.sort((a, b) => a.start - b.start);
    let group: Waiting[] = [];
    let end = 0;
    for (const item of queue) {
      const joins =
        group.length > 0 &&
        item.start - end <= GAP &&
        Math.max(end, item.end) - group[0].start <= LARGEST_RANGE;
      if (!joins && group.length > 0) {
        void this.fetchGroup(key, group, end);
        group = [];
      }
      end = group.length > 0 ? Math.max(end, item.end) : item.end;
      group.push(item);
    }
    if (group.length > 0) void this.fetchGroup(key, group, end);
  }

  private async fetchGroup(key: string, group: Waiting[], end: number): Promise<void> {
    const start = group[0].start;
    try {
      const bytes = await this.fetchRange(key, start, end);
      for (const item of group) item.resolve(bytes.slice(item.start - start, item.end - start));
    } catch (error) {
      for (const item of group) item.reject(error);
    }
  }

  private async fetchRange(key: string, start: number, end: number): Promise<Uint8Array> {
    const known = this.whole.get(key);
    if (known) return (await known).slice(start, end);
    const response = await this.fetch(key, { Range: `bytes=${start}-${end - 1}` });
    const size = this.sizes[key];
    if (response.status === 404) throw new ReadError(`${key} is missing`);
    if (response.status === 416) {
      throw new ReadError(`${key} is shorter than the ${size} bytes it should have`);
    }
    if (response.status === 200) {
      // The server ignores ranges. A file of moderate size is kept whole; a large one is refused.
      if (size > LARGEST_WHOLE) {
        throw new ReadError(
          `the server ignores range requests, and ${key} has ${size} bytes: serve the store ` +
            "from a host with range requests, or with frictionstore view",
        );
      }
      const bytes = new Uint8Array(await body(response, key));
      if (bytes.length !== size) throw wrongSize(key, bytes.length, size);
      this.whole.set(key, Promise.resolve(bytes));
      return bytes.slice(start, end);
    }
    const total = response.headers.get("Content-Range")?.split("/")[1];
    if (total !== undefined && total !== "*" && Number(total) !== size) {
      throw wrongSize(key, Number(total), size);
    }
    const bytes = new Uint8Array(await body(response, key));
    if (bytes.length !== end - start) {
      throw new ReadError(
        `${key}: the server sent ${bytes.length} bytes where ${end - start} were asked for`,
      );
    }
    return bytes;
  }

  private async fetch(key: string, headers: Record<string, string>): Promise<Response> {
    let response: Response;
    try {
      // No cache: a range from an old file beside an index from a new one would be a puzzle.
      response = await fetch(this.url(key), { headers, cache: "no-store" });
    } catch {
      throw new ReadError(
        `${this.url(key)} cannot be reached: the server is down, or it does not let pages of ` +
          "another host read it (CORS)",
      );
    }
    if (response.ok || response.status === 404 || response.status === 416) return response;
    const reason = response.status === 401 || response.status === 403 ? "no permission" : "failed";
    throw new ReadError(`${this.url(key)}: ${reason} (the server answered ${response.status})`);
  }
}

async function body(response: Response, key: string): Promise<ArrayBuffer> {
  try {
    return await response.arrayBuffer();
  } catch {
    throw new ReadError(`${key}: the transfer was interrupted`);
  }
}

function wrongSize(key: string, found: number, expected: number): ReadError {
  return new ReadError(`${key} has ${found} bytes, expected ${expected}`);
}
