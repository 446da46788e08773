// The codecs of a store's chunks, made known to zarrita; the explorer does not write.

import { decompress } from "fzstd";
import * as zarr from "zarrita";
import { bloscDecode } from "./blosc.js";
import { CheckedCrc32c } from "./crc32c.js";

/** A zarr codec from its decoding; the explorer does not write. */
function readingCodec(decode: (bytes: Uint8Array) => Uint8Array): () => Promise<never> {
  const codec = {
    kind: "bytes_to_bytes" as const,
    decode,
    encode: () => {
      throw new Error("the explorer does not write");
    },
  };
  return async () => ({ fromConfig: () => codec }) as never;
}

zarr.registry.set("crc32c", async () => CheckedCrc32c as never);
zarr.registry.set("blosc", readingCodec(bloscDecode));
// A copy of exact size: zarrita's string codec reads the buffer from its beginning.
zarr.registry.set(
  "zstd",
  readingCodec((bytes) => new Uint8Array(decompress(bytes))),
);
