export * from "./client.js";
export * from "./rle.js";
export type { components, operations, paths } from "./schema.js";
