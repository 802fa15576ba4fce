export { CapturedMemory } from "./captured-memory.ts";
export { type ChunkDigest, digestChunks, verifyChunks } from "./chunk-digest.ts";
export { foldDiskLayers } from "./disk-fold.ts";
export { planFold } from "./fold-plan.ts";
export {
  SandboxFolder,
  cacheEntryPattern,
  defaultCacheFolder,
  defaultKeyFile,
  defaultStateFolder,
  keyFileName,
  stateEntryPattern,
  stateFiles,
  templatesFolder,
  vmmCopyFolder,
  vmmCopyPrefix,
} from "./folders.ts";
export { assertFreeSpace } from "./free-space.ts";
export { KeyFile } from "./key-file.ts";
export type {
  SavedDiskLayer,
  SavedIdentity,
  SavedMachine,
  SavedMemory,
  SavedMemoryLayer,
  SnapshotManifest,
  TemplateManifest,
} from "./manifest.ts";
export { type MemoryLayer, type MemoryLayerDigest, layerBytes } from "./memory-layer.ts";
export {
  MemoryStack,
  type PageOrigin,
  type ReadableMemory,
  type StackedLayer,
  type WritableMemory,
} from "./memory-stack.ts";
export {
  type Exposure,
  claimStateFolder,
  exposureOf,
  refuseForeignState,
  stateExposures,
} from "./owner-only.ts";
export { type PageRun, pageBytes, stateData } from "./page-map.ts";
export { createOverlay } from "./qcow2-overlay.ts";
export { type SealingKey, type SealingKeys, Sealer, sealingKeyOf } from "./sealing.ts";
export type { LayerUse, SnapshotLedger } from "./snapshot-ledger.ts";
export {
  SnapshotStore,
  type StagedSnapshot,
  sealSnapshots,
  snapshotFiles,
} from "./snapshot-store.ts";
export {
  type StagedTemplate,
  type Template,
  TemplateStore,
  templateIdPattern,
  templateNamePattern,
} from "./template-store.ts";
export {
  type Difference,
  type Environment,
  checkSettings,
  daemonSettings,
  differingSettings,
  readSetting,
  settingNames,
  settings,
} from "./settings.ts";
