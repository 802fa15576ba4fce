export { ConnectionDispatch, type DispatchRule } from "./connection-dispatch.ts";
export {
  bringUp,
  keepTap,
  openBoundSocket,
  openTap,
  openTcpSocket,
  pinNeighbour,
  setHardwareAddress,
} from "./network-device.ts";
export { makeNode, setFileTimes } from "./file-node.ts";
export { type DiskPath } from "./disk-path.ts";
export { dataRanges, keepsHoles, nextDataRange, tryShareBlocks } from "./file-extents.ts";
export { type ViewEntry, hideFrom, withView } from "./filesystem-view.ts";
export { descriptorsMax } from "./descriptor-limit.ts";
export { type NearNetwork, NearNetworks, nearNetworksOf } from "./near-networks.ts";
export { NetworkNamespace } from "./network-namespace.ts";
export { type AddressRange, mappedPages, ownPages, pageBytes } from "./pagemap.ts";
export { routeEverythingHere } from "./route.ts";
export { dropFromCache, readAhead, readAheadBytesMax } from "./read-ahead.ts";
export { measureTscKhz } from "./timestamp-counter.ts";
export { setWallClock } from "./clock.ts";
export { reseedKernel, reseedOpenSsl } from "./entropy.ts";
export { shrinkGrownHeap } from "./heap.ts";
export {
  type InotifyEvent,
  addInotifyWatch,
  inotify,
  openInotify,
  parseInotify,
  removeInotifyWatch,
} from "./inotify.ts";
export { sha256InBackground } from "./sha256.ts";
export {
  type ProcessMemoryPiece,
  type ProcessMemoryRange,
  readProcessMemory,
  writeProcessMemory,
} from "./process-memory.ts";
export { bindReadOnly } from "./mount.ts";
export { type PrivateMount, inMountsOf, withMounts } from "./mount-namespace.ts";
export { type Pipe, openPipe } from "./pipe.ts";
export { type Pty, openPty, resizePty } from "./pty.ts";
export {
  type DestroyedConnections,
  type TcpConnectionName,
  destroyTcpConnections,
} from "./socket-diag.ts";
export { type Xattr, hasXattrs, readXattrs, removeXattr, writeXattr } from "./xattr.ts";
export { type FileLock, tryLockFile } from "./file-lock.ts";
export {
  type MemoryMapping,
  discardMemory,
  mapAnonymously,
  mapFile,
  mapFilePrivately,
  mapTouched,
  populateMapping,
  readMemory,
  writeMemory,
} from "./memory-mapping.ts";
export { killByPidfd, openPidfd } from "./pidfd.ts";
export { pollReadable } from "./poll.ts";
export {
  type ReceivedMessage,
  acceptUnix,
  connectUnix,
  listenUnix,
  peerProcess,
  receiveWithFds,
  sendWithFds,
  trySend,
} from "./unix-socket.ts";
export {
  type FillResult,
  type UserfaultEvent,
  Userfaults,
  openUserfaultfd,
  registerWithUserfaultfd,
} from "./userfaultfd.ts";
