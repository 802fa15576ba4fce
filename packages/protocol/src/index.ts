export * from "./lifecycle.ts";
