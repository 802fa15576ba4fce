/**
 * SHA-256 in Node's thread pool, without copying the bytes.
 *
 * Web Crypto first copies its input on the calling thread, into fresh memory each time: for a MiB
 * that costs this thread as much as the hash itself. OpenSSL, which Node exports, takes a pointer.
 */
import { TorporError } from "@torpor/std";
import { self } from "./libc.ts";

const digestBytes = 32;

const evpSha256 = self.func("void *EVP_sha256()") as () => unknown;
const evpDigest = self.func(
  "int EVP_Digest(const void *data, size_t length, void *digest, void *size, void *type, void *engine)",
) as unknown as {
  async(
    data: Uint8Array,
    lengthBytes: number,
    digest: Buffer,
    size: null,
    type: unknown,
    engine: null,
    done: (error: Error | null, result: number) => void,
  ): void;
};
const algorithm = evpSha256();

/** Hashes bytes. @param bytes Must not change until the promise settles. @returns hex */
export function sha256InBackground(bytes: Uint8Array): Promise<string> {
  const digest = Buffer.alloc(digestBytes);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  evpDigest.async(bytes, bytes.length, digest, null, algorithm, null, (error, result) => {
    if (error === null && result === 1) resolve(digest.toString("hex"));
    else reject(new TorporError("internal", "EVP_Digest failed", { cause: error }));
  });
  return promise;
}
