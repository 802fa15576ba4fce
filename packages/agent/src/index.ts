export { hookMoments, hooksFolder } from "./config.ts";
export { type NativeFolder, bundleAgent, guestModulesFolder, nativeFolders } from "./bundle.ts";
