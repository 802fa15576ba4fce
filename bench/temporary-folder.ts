/** A folder that is removed with what needs it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Makes an empty folder, which `undo` removes. */
export async function temporaryFolder(undo: AsyncDisposableStack): Promise<string> {
  return undo.adopt(await mkdtemp(join(tmpdir(), "torpor-bench-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
}
