export { hookMoments, hooksFolder } from "./config.ts";
export { type NativeFolder, bundleAgent, nativeFolders } from "./bundle.ts";
