// oxlint-disable-next-line no-unassigned-import -- wanted for its effect
import "./native-base64.ts";
export * from "./gen/filesystem/filesystem_pb.js";
export * from "./gen/process/process_pb.js";
export * from "./lifecycle.ts";
export { outputOffsetHeader } from "./output-offset.ts";
export { envdVersion } from "./version.ts";
