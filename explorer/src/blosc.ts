// Blosc 1 frames whose blocks are compressed with zstd: what a store's chunks are.
//
// The decoder that zarrita brings is WebAssembly with glue that builds functions from strings,
// which a page that runs nothing but its own script must not allow, and it is half a megabyte.
// Frame: 16 bytes of header (version, inner version, flags, type size, then little-endian
// uint32s: decoded size, block size, encoded size), the start of every block, the blocks. A block
// is one stream, or one per byte of the type; a stream is its size and its bytes, stored as they
// are where that size is the decoded one.

import { decompress } from "fzstd";

const HEADER = 16;
const BYTE_SHUFFLE = 1;
const STORED = 2;
const BIT_SHUFFLE = 4;
const ONE_STREAM = 16;
const ZSTD = 4;
const MOST_STREAMS = 16;
const SMALLEST_STREAM = 128;

export function bloscDecode(frame: Uint8Array): Uint8Array {
  if (frame.length < HEADER) throw new Error("it is too short for a blosc frame");
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const flags = frame[2];
  const typeSize = frame[3];
  const size = view.getUint32(4, true);
  const blockSize = view.getUint32(8, true);
  const encoded = view.getUint32(12, true);
  if (encoded !== frame.length) {
    throw new Error(`it has ${frame.length} bytes, its blosc header says ${encoded}`);
  }
  if (size === 0) return new Uint8Array(0);
  if (flags & STORED) {
    if (frame.length !== HEADER + size) throw new Error("its stored size is not its decoded size");
    return frame.slice(HEADER);
  }
  if (flags >> 5 !== ZSTD) throw new Error(`it is compressed with format ${flags >> 5}, not zstd`);
  if (blockSize === 0 || typeSize === 0) throw new Error("its blosc header is damaged");

  const out = new Uint8Array(size);
  const blocks = Math.ceil(size / blockSize);
  const shuffled = new Uint8Array(Math.min(blockSize, size));
  for (let block = 0; block < blocks; block++) {
    const start = block * blockSize;
    const length = Math.min(blockSize, size - start);
    const whole = length === blockSize;
    const streams =
      !(flags & ONE_STREAM) &&
      whole &&
      typeSize <= MOST_STREAMS &&
      blockSize / typeSize >= SMALLEST_STREAM
        ? typeSize
        : 1;
    const target = out.subarray(start, start + length);
    const shuffles = (flags & BYTE_SHUFFLE && typeSize > 1) || flags & BIT_SHUFFLE;
    const raw = shuffles ? shuffled.subarray(0, length) : target;
    let at = view.getUint32(HEADER + 4 * block, true);
    const each = length / streams;
    for (let stream = 0; stream < streams; stream++) {
      const count = view.getUint32(at, true);
      const bytes = frame.subarray(at + 4, at + 4 + count);
      const part = raw.subarray(stream * each, (stream + 1) * each);
      if (count === each) {
        part.set(bytes);
      } else {
        const decoded = decompress(bytes, part);
        if (decoded.length !== each) throw new Error("a block decodes to another size");
      }
      at += 4 + count;
    }
    if (flags & BIT_SHUFFLE) bitUnshuffle(raw, target, typeSize);
    else if (shuffles) byteUnshuffle(raw, target, typeSize);
  }
  return out;
}

/** Byte k of every element stands together; what is left over at the end is as it was. */
function byteUnshuffle(from: Uint8Array, to: Uint8Array, typeSize: number): void {
  const count = Math.floor(from.length / typeSize);
  for (let k = 0; k < typeSize; k++) {
    const base = k * count;
    for (let i = 0, at = k; i < count; i++, at += typeSize) to[at] = from[base + i];
  }
  to.set(from.subarray(count * typeSize), count * typeSize);
}

/** Bit b of byte k of every element stands together, eight elements a byte. */
function bitUnshuffle(from: Uint8Array, to: Uint8Array, typeSize: number): void {
  const count = Math.floor(from.length / typeSize / 8) * 8;
  const row = count / 8;
  for (let k = 0; k < typeSize; k++) {
    for (let group = 0; group < row; group++) {
      // Two words hold the eight planes of eight elements; three swaps transpose the bits.
      const base = k * 8 * row + group;
      let low =
        from[base] |
        (from[base + row] << 8) |
        (from[base + 2 * row] << 16) |
        (from[base + 3 * row] << 24);
      let high =
        from[base + 4 * row] |
        (from[base + 5 * row] << 8) |
        (from[base + 6 * row] << 16) |
        (from[base + 7 * row] << 24);
      let swap = (low ^ (low >>> 7)) & 0x00aa00aa;
      low ^= swap ^ (swap << 7);
      swap = (high ^ (high >>> 7)) & 0x00aa00aa;
      high ^= swap ^ (swap << 7);
      swap = (low ^ (low >>> 14)) & 0x0000cccc;
      low ^= swap ^ (swap << 14);
      swap = (high ^ (high >>> 14)) & 0x0000cccc;
      high ^= swap ^ (swap << 14);
      const first = (low & 0x0f0f0f0f) | ((high & 0x0f0f0f0f) << 4);
      const last = ((low >>> 4) & 0x0f0f0f0f) | (high & 0xf0f0f0f0);
      const element = 8 * group * typeSize + k;
      for (let e = 0; e < 4; e++) {
        to[element + e * typeSize] = first >>> (8 * e);
        to[element + (e + 4) * typeSize] = last >>> (8 * e);
      }
    }
  }
  to.set(from.subarray(count * typeSize), count * typeSize);
}
