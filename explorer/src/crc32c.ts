// CRC-32C (Castagnoli), and the zarr codec that checks it.
// zarrita's own crc32c codec removes the checksum without looking at it, so a damaged chunk
// would be shown as data; this one takes its place.

const POLYNOMIAL = 0x82f63b78; // reflected

const TABLES: Uint32Array[] = (() => {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) {
      value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    }
    tables[0][byte] = value >>> 0;
  }
  for (let byte = 0; byte < 256; byte++) {
    for (let k = 1; k < 8; k++) {
      const before = tables[k - 1][byte];
      tables[k][byte] = (tables[0][before & 255] ^ (before >>> 8)) >>> 0;
    }
  }
  return tables;
})();

/** The checksum of `bytes`, eight bytes a step. */
export function crc32c(bytes: Uint8Array): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  let crc = 0xffffffff;
  let at = 0;
  for (; at + 8 <= bytes.length; at += 8) {
    crc ^= bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    crc =
      t7[crc & 255] ^
      t6[(crc >>> 8) & 255] ^
      t5[(crc >>> 16) & 255] ^
      t4[crc >>> 24] ^
      t3[bytes[at + 4]] ^
      t2[bytes[at + 5]] ^
      t1[bytes[at + 6]] ^
      t0[bytes[at + 7]];
  }
  for (; at < bytes.length; at++) crc = t0[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A zarr codec that throws where the checksum is not that of the bytes. */
export class CheckedCrc32c {
  readonly kind = "bytes_to_bytes" as const;

  static fromConfig(): CheckedCrc32c {
    return new CheckedCrc32c();
  }

  encode(): Uint8Array {
    throw new Error("the explorer does not write");
  }

  decode(bytes: Uint8Array): Uint8Array {
    if (bytes.length < 4) throw new Error("it is too short to hold a checksum");
    const body = bytes.subarray(0, bytes.length - 4);
    const end = bytes.length - 4;
    const said =
      (bytes[end] | (bytes[end + 1] << 8) | (bytes[end + 2] << 16) | (bytes[end + 3] << 24)) >>> 0;
    const found = crc32c(body);
    if (said !== found) {
      throw new Error(`its checksum is ${hex(found)}, the file says ${hex(said)}`);
    }
    return body;
  }

  computeEncodedSize(size: number): number {
    return size + 4;
  }
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}
