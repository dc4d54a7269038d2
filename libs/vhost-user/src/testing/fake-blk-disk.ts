import {
  BLK_FEATURE,
  BLK_STATUS,
  BLK_TYPE,
  RING_FEATURE,
  bits,
  type GuestRam,
  type RamRegion,
  type RamRegionSpec,
  type Segment,
} from '@cairn/virtio/testing';
import { BLK_CONFIG_BYTES, parseBlkConfig, WRITEBACK_OFFSET, type BlkConfig } from './blk-config.js';
import { CompletionPump } from './completion-pump.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import { FakeDevice, type FakeDeviceOptions } from './fake-device.js';
import type { FakeFrontend } from './fake-frontend.js';
import type { FakeQueue } from './fake-queue.js';
import { Disconnected } from './message-stream.js';
import {
  collectReply,
  placeRequest,
  type BlkReply,
  type BlkRequest,
  type Framing,
} from './request-pieces.js';
import { PROTOCOL_FEATURE } from './vhost-user-numbers.js';

/** How to attach. */
export type FakeDiskOptions = FakeDeviceOptions;

/** A range of DISCARD and WRITE_ZEROES. */
export interface ZeroRange {
  offsetBytes: number;
  lengthBytes: number;
  /** Give the space back (WRITE_ZEROES only; virtio 1.2 §5.2.6). */
  unmap?: boolean;
}

const KNOWN_FEATURES =
  bits(
    ...Object.values(BLK_FEATURE),
    RING_FEATURE.INDIRECT_DESC,
    RING_FEATURE.EVENT_IDX,
    RING_FEATURE.RING_RESET,
  ) | bits(RING_FEATURE.PROTOCOL_FEATURES, RING_FEATURE.VERSION_1);

/**
 * A pretended guest's disk: attaches to a vhost-user-blk socket as QEMU does and does I/O on it.
 *
 *     const disk = await FakeBlkDisk.open(socketPath, { numQueues: 2, packed: true, inflight: true });
 *     await disk.write(4096, Buffer.alloc(4096, 7));           // throws unless the status is OK
 *     await disk.flush();
 *     const bytes = await disk.read(4096, 4096);
 *     const { status } = await disk.request({ type: BLK_TYPE.DISCARD, out });   // any status
 *     await disk.reconnect(socketPath);                        // the back-end died and came back
 *     await disk.detach();                                     // or close(), as a killed VMM
 *
 * Requests may run concurrently. Each rejects with Disconnected when the back-end goes away (with `inflight` it waits
 * for `reconnect` instead), TimedOut when it is silent and DeviceFault when it breaks a rule of the ring.
 */
export class FakeBlkDisk {
  /** Absent where the CONFIG protocol feature was not agreed on. */
  config!: BlkConfig;
  private readonly pump: CompletionPump;
  private closed = false;

  private constructor(
    readonly device: FakeDevice,
    options: FakeDiskOptions,
  ) {
    this.pump = new CompletionPump({
      timeoutMs: options.timeoutMs ?? 10_000,
      isLost: () => device.inflight === undefined && device.frontend.stream.isClosed(),
    });
  }

  /** Connects, negotiates and starts the rings. */
  static async open(socketPath: string, options: FakeDiskOptions = {}): Promise<FakeBlkDisk> {
    const disk = new FakeBlkDisk(await FakeDevice.connect(socketPath, KNOWN_FEATURES, options), options);
    try {
      if (disk.device.hasProtocol(PROTOCOL_FEATURE.CONFIG)) await disk.readConfig();
      await disk.start();
    } catch (error) {
      disk.close();
      throw error;
    }
    return disk;
  }

  get queues(): readonly FakeQueue[] {
    return this.device.queues;
  }

  get ram(): GuestRam {
    return this.device.ram;
  }

  /** Speaks to the back-end; another one after `reconnect`. */
  get frontend(): FakeFrontend {
    return this.device.frontend;
  }

  /** What both sides agreed on. */
  get features(): bigint {
    return this.device.features;
  }

  get protocolFeatures(): bigint {
    return this.device.protocolFeatures;
  }

  get capacityBytes(): number {
    return this.config.capacitySectors * 512;
  }

  has(feature: number): boolean {
    return this.device.has(feature);
  }

  /** Reads bytes; throws unless the status is OK. */
  async read(offsetBytes: number, lengthBytes: number, more: Partial<BlkRequest> = {}): Promise<Uint8Array> {
    const request = { type: BLK_TYPE.IN, sector: offsetBytes / 512, inBytes: lengthBytes, ...more };
    return succeeded('read', await this.request(request)).data;
  }

  /** Writes bytes; throws unless the status is OK. */
  async write(offsetBytes: number, bytes: Uint8Array, more: Partial<BlkRequest> = {}): Promise<void> {
    const request = { type: BLK_TYPE.OUT, sector: offsetBytes / 512, out: bytes, ...more };
    succeeded('write', await this.request(request));
  }

  /** Flushes; throws unless the status is OK. */
  async flush(more: Partial<BlkRequest> = {}): Promise<void> {
    succeeded('flush', await this.request({ type: BLK_TYPE.FLUSH, ...more }));
  }

  /** Gives ranges up; throws unless the status is OK. */
  async discard(ranges: readonly ZeroRange[], more: Partial<BlkRequest> = {}): Promise<void> {
    const request = { type: BLK_TYPE.DISCARD, out: zeroRanges(ranges), ...more };
    succeeded('discard', await this.request(request));
  }

  /** Zeroes ranges; throws unless the status is OK. */
  async writeZeroes(ranges: readonly ZeroRange[], more: Partial<BlkRequest> = {}): Promise<void> {
    const request = { type: BLK_TYPE.WRITE_ZEROES, out: zeroRanges(ranges), ...more };
    succeeded('write zeroes', await this.request(request));
  }

  /** The serial, without its padding. */
  async getId(): Promise<string> {
    const { data } = succeeded('get id', await this.request({ type: BLK_TYPE.GET_ID, inBytes: 20 }));
    return Buffer.from(data).toString('latin1').replace(/\0.*$/s, '');
  }

  /** Reads the configuration space again. */
  async readConfig(): Promise<BlkConfig> {
    this.config = parseBlkConfig(await this.frontend.getConfig(0, BLK_CONFIG_BYTES));
    return this.config;
  }

  /** Turns the device's write cache on or off (virtio 1.2 §5.2.6.2). */
  setWriteback(on: boolean): Promise<void> {
    return this.frontend.setConfig(WRITEBACK_OFFSET, Uint8Array.of(on ? 1 : 0));
  }

  /** Sends any request and returns its status, whatever it is. */
  async request(request: BlkRequest): Promise<BlkReply> {
    const queue = this.queues[request.queue ?? 0];
    if (!queue) throw new Error(`there is no queue ${request.queue}`);
    const { framing = {}, inBytes } = request;
    const pieces = placeRequest(this.ram, request);
    const count = Math.min(pieces.length, (framing.indirectAfter ?? pieces.length) + 1);
    // Somebody else may have been woken first and have taken the room.
    while (queue.ring.freeDescriptors < count) await this.pump.roomFor(queue, count);
    const usedBytes = await this.raw(queue, pieces, framing);
    return collectReply(this.ram, pieces, { inBytes, usedBytes });
  }

  /** Submits a chain as it is given, right or wrong, and resolves to the used length when the device gives it back. */
  raw(queue: FakeQueue, pieces: readonly Segment[], framing: Framing = {}): Promise<number> {
    const head = queue.ring.submit(pieces, { indirectAfter: framing.indirectAfter });
    queue.publish();
    return this.pump.completionOf(queue, head);
  }

  /** Shows the device everything that was submitted while a queue was corked. */
  uncork(queue: FakeQueue): void {
    queue.corked = false;
    queue.publish();
  }

  /** Empties stopped rings, as a driver that resets the device; what was in flight is forgotten. */
  resetRings(): void {
    this.pump.fail(new Disconnected('the driver reset the device'));
    for (const queue of this.queues) queue.reset();
  }

  /** Resets the device while it runs and starts it with empty rings; what was in flight is forgotten. */
  async reset(how: 'message' | 'status' = 'message'): Promise<void> {
    this.pump.fail(new Disconnected('the driver reset the device'));
    await this.device.reset(how);
  }

  /** Resets one queue (virtio 1.2 §2.6.1); it must have nothing in flight. */
  resetQueue(queue: FakeQueue): Promise<void> {
    return this.device.resetQueue(queue);
  }

  /** Starts the rings where they stand, as at first or after `stop`. */
  start(): Promise<void> {
    return this.device.start();
  }

  /**
   * Attaches the same memory and rings to a back-end that came back; `patienceMs`: how long nobody may listen yet.
   *
   * With `inflight` what was in flight is the back-end's to finish, and its requests resolve; without, they have been
   * rejected, although the back-end sees those again that it had not completed.
   */
  async reconnect(socketPath: string, options: { patienceMs?: number } = {}): Promise<void> {
    if (!this.device.inflight) this.pump.fail(new Disconnected('this side closed the connection'));
    await this.device.reconnect(socketPath, options);
  }

  /** Plugs a region of guest memory in while the rings run; buffers come from it first. */
  plugMemory(spec: RamRegionSpec): Promise<RamRegion> {
    return this.device.plugMemory(spec);
  }

  /** Takes a region out while the rings run. Throws while a buffer of the guest lies in it. */
  unplugMemory(region: RamRegion): Promise<void> {
    return this.device.unplugMemory(region);
  }

  /** Has the back-end mark what it writes, as at the beginning of a migration. */
  startLog(): Promise<DirtyBitmap> {
    return this.device.startLog();
  }

  /** Ends the logging, as a migration that was cancelled. */
  stopLog(): Promise<void> {
    return this.device.stopLog();
  }

  /** Stops every ring; each answer is where the back-end got to. Requests in flight complete first. */
  stop(): Promise<number[]> {
    return this.device.stop();
  }

  /** Stops the rings and goes, as a VMM that unplugs the disk. */
  async detach(): Promise<void> {
    try {
      await this.stop();
    } finally {
      this.close();
    }
  }

  /** Goes without a word, as a killed VMM. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.pump.close();
    this.device.close();
  }
}

/** Payload of DISCARD and WRITE_ZEROES: struct virtio_blk_discard_write_zeroes, one a range. */
export const zeroRanges = (ranges: readonly ZeroRange[]): Buffer => {
  const out = Buffer.alloc(16 * ranges.length);
  ranges.forEach(({ offsetBytes, lengthBytes, unmap = false }, i) => {
    out.writeBigUInt64LE(BigInt(offsetBytes / 512), 16 * i);
    out.writeUInt32LE(lengthBytes / 512, 16 * i + 8);
    out.writeUInt32LE(unmap ? 1 : 0, 16 * i + 12);
  });
  return out;
};

const succeeded = (what: string, reply: BlkReply): BlkReply => {
  if (reply.status !== BLK_STATUS.OK) throw new Error(`${what}: status ${reply.status}`);
  return reply;
};
