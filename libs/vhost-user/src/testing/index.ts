export { BLK_CONFIG_BYTES, parseBlkConfig, WRITEBACK_OFFSET, type BlkConfig } from './blk-config.js';
export { CompletionPump } from './completion-pump.js';
export { DirtyBitmap } from './dirty-bitmap.js';
export { FakeBlkDisk, zeroRanges, type FakeDiskOptions, type ZeroRange } from './fake-blk-disk.js';
export { FakeDevice, type FakeDeviceOptions } from './fake-device.js';
export { FakeFrontend, Refused, regionBytes, type VringAddresses } from './fake-frontend.js';
export { FakeQueue, type FakeQueueOptions, type Notify } from './fake-queue.js';
export { InflightArea } from './inflight-area.js';
export { Disconnected, MessageStream, type ReceivedMessage } from './message-stream.js';
export { pollUntil, TimedOut } from './poll.js';
export {
  type BlkReply,
  type BlkRequest,
  collectReply,
  type Framing,
  placeRequest,
} from './request-pieces.js';
export {
  BACKEND_MESSAGE,
  FLAG,
  MESSAGE,
  PROTOCOL_FEATURE,
  VRING_LOG,
  VRING_NO_FD,
} from './vhost-user-numbers.js';
