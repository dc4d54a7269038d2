export { BLK_CONFIG_BYTES, parseBlkConfig, WRITEBACK_OFFSET, type BlkConfig } from './blk-config.js';
export {
  FakeBlkDisk,
  type BlkReply,
  type BlkRequest,
  type FakeDiskOptions,
  type Framing,
} from './fake-blk-disk.js';
export { FakeFrontend, Refused, regionBytes, type VringAddresses } from './fake-frontend.js';
export { FakeQueue, type Notify } from './fake-queue.js';
export { Disconnected, MessageStream, type ReceivedMessage } from './message-stream.js';
export { pollUntil, TimedOut } from './poll.js';
export { BACKEND_MESSAGE, FLAG, MESSAGE, PROTOCOL_FEATURE, VRING_NO_FD } from './vhost-user-numbers.js';
