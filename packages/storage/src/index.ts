export { digestFile, verifyFile } from "./file-digest.ts";
export {
  SandboxFolder,
  defaultCacheFolder,
  defaultStateFolder,
  stateFiles,
  templatesFolder,
  vmmCopyFolder,
  vmmCopyPrefix,
} from "./folders.ts";
export { assertFreeSpace } from "./free-space.ts";
export type {
  FileDigest,
  SavedIdentity,
  SavedMachine,
  SnapshotManifest,
  TemplateManifest,
} from "./manifest.ts";
export {
  type MemoryDiffDigest,
  type ReadableMemory,
  type WritableMemory,
  applyMemoryDiff,
  writeMemoryDiff,
} from "./memory-diff.ts";
export { createOverlay } from "./qcow2-overlay.ts";
export {
  type StagedSnapshot,
  openSnapshot,
  removeOtherSnapshots,
  removeStagedSnapshots,
  snapshotFiles,
  stageSnapshot,
} from "./snapshot-store.ts";
export { type StagedTemplate, type Template, TemplateStore } from "./template-store.ts";
