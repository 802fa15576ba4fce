export { type NativeFolder, bundleAgent, nativeFolders } from "./bundle.ts";
