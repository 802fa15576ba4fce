/** A certificate for one test, valid for all names below a domain. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Deadline, runCommand } from "@torpor/std";

/** The certificate and its key, as PEM files. */
export interface TestCertificate {
  readonly certPath: string;
  readonly keyPath: string;
  /** The certificate that clients have to trust. */
  readonly ca: Buffer;
}

/**
 * Makes a certificate in the folder. A wildcard does not cover names right below a top-level
 * domain, `localhost` included.
 */
export async function makeCertificate(folder: string, domain: string): Promise<TestCertificate> {
  const certPath = join(folder, "cert.pem");
  const keyPath = join(folder, "key.pem");
  await runCommand(
    [
      "openssl",
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
      ...["-days", "1", "-subj", "/CN=localhost", "-keyout", keyPath, "-out", certPath],
      ...["-addext", `subjectAltName=DNS:*.${domain}`],
    ],
    Deadline.after(10_000, "making a certificate"),
  );
  return { certPath, keyPath, ca: await readFile(certPath) };
}
