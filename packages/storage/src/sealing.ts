/**
 * Secrets at rest: sealing turns a text into one that only a holder of the key can read or change.
 *
 *     sealed-1:<key id>:<base64url of nonce, ciphertext and tag>      AES-256-GCM
 *
 * The key's id lets a key be replaced while older texts still name theirs. The place of a text,
 * such as the id of its database row, is authenticated with it, so that a sealed text opens nowhere
 * else.
 */
import {
  type KeyObject,
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  randomBytes,
} from "node:crypto";
import { TorporError } from "@torpor/std";

const format = "sealed-1";
const algorithm = "aes-256-gcm";
/** The length of an AES-256 key. */
export const sealingKeyBytes = 32;
/**
 * LIMIT: random nonces of 96 bits may seal 2^32 texts with one key (NIST SP 800-38D, 8.3). A
 * sandbox's row is sealed with each change of state, so that at 100 changes a second a key lasts
 * for more than a year; a new one takes a line in the key file.
 */
const nonceBytes = 12;
const tagBytes = 16;

/** A key and its id. */
export interface SealingKey {
  /** Derived from the key; reveals nothing about it. */
  readonly id: string;
  readonly key: KeyObject;
}

/** A source of keys: a file of this host, or what the hosts of a cluster share. */
export interface SealingKeys {
  /**
   * The key that seals from now on. @throws storage.failed when there is none and none can be made
   */
  current(): SealingKey;
  /** Finds the key with this id; undefined if it is not among them. */
  find(keyId: string): SealingKey | undefined;
  /** Where the keys come from, for messages. */
  readonly place: string;
}

/** Makes a key of its bytes. @param bytes `sealingKeyBytes` of them */
export function sealingKeyOf(bytes: Buffer): SealingKey {
  const id = createHash("sha256").update("torpor sealing key id").update(bytes).digest("hex");
  return { id: id.slice(0, 16), key: createSecretKey(bytes) };
}

/** Seals and opens texts with the keys of one source. */
export class Sealer {
  readonly #keys: SealingKeys;

  constructor(keys: SealingKeys) {
    this.#keys = keys;
  }

  /** Seals a text. @param place What the text belongs to; `open` needs the same. */
  seal(text: string, place: string): string {
    const { id, key } = this.#keys.current();
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv(algorithm, key, nonce);
    cipher.setAAD(Buffer.from(place));
    const ciphertext = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
    const sealed = Buffer.concat([nonce, ciphertext, cipher.getAuthTag()]);
    return `${format}:${id}:${sealed.toString("base64url")}`;
  }

  /**
   * Opens a sealed text.
   * @throws secrets.locked without the key it was sealed with; secrets.damaged when it is not what
   * `seal` returned for this place
   */
  open(sealed: string, place: string): string {
    const [name, keyId, encoded, rest] = sealed.split(":");
    const bytes = Buffer.from(encoded ?? "", "base64url");
    const isWhole = name === format && rest === undefined && bytes.length >= nonceBytes + tagBytes;
    if (!isWhole || keyId === undefined) throw damaged(place);
    const found = this.#keys.find(keyId);
    if (found === undefined) throw locked(place, keyId, this.#keys.place);
    const decipher = createDecipheriv(algorithm, found.key, bytes.subarray(0, nonceBytes));
    decipher.setAAD(Buffer.from(place));
    decipher.setAuthTag(bytes.subarray(-tagBytes));
    try {
      const text = decipher.update(bytes.subarray(nonceBytes, -tagBytes));
      return Buffer.concat([text, decipher.final()]).toString("utf8");
    } catch (cause) {
      throw damaged(place, cause);
    }
  }
}

function locked(place: string, keyId: string, keysPlace: string): TorporError {
  return new TorporError(
    "secrets.locked",
    `the secrets of ${place} are sealed with the key ${keyId}, which is not in ${keysPlace}`,
  );
}

function damaged(place: string, cause?: unknown): TorporError {
  return new TorporError("secrets.damaged", `the sealed secrets of ${place} are damaged`, {
    cause,
  });
}
