export { BugError, assert, assertNever } from "./assert.ts";
export { type CommandOptions, type CommandResult, runCommand } from "./command.ts";
export { Deadline, budgetFactor, readBudgetFactor } from "./deadline.ts";
export { flush, flushFolder, renameDurably, writeFileDurably } from "./durable.ts";
export {
  type Effect,
  type ErrorBody,
  type ErrorCode,
  type Retry,
  TorporError,
  type TorporErrorOptions,
  errorTable,
  ignoreFailure,
  systemCode,
} from "./errors.ts";
export { type LogFields, type Logger, jsonLogger, silentLogger } from "./log.ts";
export { type MemoryPiece, type MemoryRange, joinRanges, totalBytes } from "./memory-ranges.ts";
export { nearestName, nearestNames } from "./nearest-name.ts";
export {
  type JsonObject,
  optional,
  parseBoolean,
  parseInteger,
  parseIntegerText,
  parseJson,
  parseObject,
  parseOneOf,
  parseString,
  parseStringMap,
  shownValue,
} from "./parse.ts";
export {
  type Failpoint,
  type FailpointAnswer,
  type RunStepsOptions,
  type Step,
  type StepTiming,
  runSteps,
} from "./steps.ts";
