import { setImmediate } from 'node:timers/promises';
import { native } from '@cairn/native';
import {
  BLK_FEATURE,
  BLK_STATUS,
  BLK_TYPE,
  GuestRam,
  RING_FEATURE,
  bits,
  type RamRegionSpec,
  type Segment,
} from '@cairn/virtio/testing';
import { BLK_CONFIG_BYTES, parseBlkConfig, WRITEBACK_OFFSET, type BlkConfig } from './blk-config.js';
import { FakeFrontend } from './fake-frontend.js';
import { FakeQueue, type Notify } from './fake-queue.js';
import { Disconnected } from './message-stream.js';
import { TimedOut } from './poll.js';
import { PROTOCOL_FEATURE } from './vhost-user-numbers.js';

/** How a request is cut into descriptors; the default is the classic header, data, status. */
export interface Framing {
  /** Lengths of the device-readable pieces (16 header bytes, then the data); what is left over is one more piece. */
  readable?: readonly number[];
  /** Lengths of the device-writable pieces (the data, then the status byte); what is left over is one more piece. */
  writable?: readonly number[];
  /** Put the pieces from this one on into an indirect table. */
  indirectAfter?: number;
  /** Alignment of the pieces of 512 bytes and more; default 512. */
  alignBytes?: number;
}

/** A request in virtio's words. */
export interface BlkRequest {
  type: number;
  sector?: number | bigint;
  out?: Uint8Array;
  inBytes?: number;
  queue?: number;
  framing?: Framing;
}

/** A completed request. */
export interface BlkReply {
  status: number;
  data: Uint8Array;
  /** Length field of the used element. */
  usedBytes: number;
}

/** How to attach. */
export interface FakeDiskOptions {
  /** Guest memory; default: 1 MiB at GPA 0 and 16 MiB at 4 GiB. */
  memory?: readonly RamRegionSpec[];
  numQueues?: number;
  queueSize?: number;
  /** Features to leave out although they are offered. */
  without?: bigint;
  protocolWithout?: bigint;
  notify?: Notify;
  /** Index the rings start from. */
  base?: number;
  /** Region the rings lie in. */
  ringRegion?: number;
  timeoutMs?: number;
}

interface Waiting {
  deadline: number;
  complete: (usedBytes: number) => void;
  reject: (error: unknown) => void;
}

const DEFAULT_MEMORY: readonly RamRegionSpec[] = [
  { gpa: 0, sizeBytes: 0x10_0000 },
  { gpa: 0x1_0000_0000, sizeBytes: 0x100_0000 },
];

const KNOWN_FEATURES =
  bits(...Object.values(BLK_FEATURE), RING_FEATURE.INDIRECT_DESC, RING_FEATURE.EVENT_IDX) |
  bits(RING_FEATURE.PROTOCOL_FEATURES, RING_FEATURE.VERSION_1);

const KNOWN_PROTOCOL = bits(
  PROTOCOL_FEATURE.MQ,
  PROTOCOL_FEATURE.REPLY_ACK,
  PROTOCOL_FEATURE.BACKEND_REQ,
  PROTOCOL_FEATURE.CONFIG,
);

/** A status byte no device writes, so that a missing one shows. */
const UNWRITTEN_STATUS = 0xee;

/**
 * A pretended guest's disk: attaches to a vhost-user-blk socket as QEMU does and does I/O on it.
 *
 *     const disk = await FakeBlkDisk.open(socketPath, { numQueues: 2 });
 *     await disk.write(4096, Buffer.alloc(4096, 7));           // throws unless the status is OK
 *     await disk.flush();
 *     const bytes = await disk.read(4096, 4096);
 *     const { status } = await disk.request({ type: BLK_TYPE.DISCARD, out });   // any status
 *     await disk.detach();                                     // or close(), as a killed VMM
 *
 * Requests may run concurrently. Each rejects with Disconnected when the back-end goes away, TimedOut when it is
 * silent and DeviceFault when it breaks a rule of the ring.
 */
export class FakeBlkDisk {
  readonly queues: FakeQueue[] = [];
  /** What both sides agreed on. */
  features = 0n;
  protocolFeatures = 0n;
  /** Absent where the CONFIG protocol feature was not agreed on. */
  config!: BlkConfig;
  private readonly waiting: Map<number, Waiting>[] = [];
  private pumping = false;
  private closed = false;
  private readonly timeoutMs: number;

  private constructor(
    /** Speaks to the back-end; another one after `reconnect`. */
    public frontend: FakeFrontend,
    readonly ram: GuestRam,
    private readonly options: FakeDiskOptions,
  ) {
    this.timeoutMs = options.timeoutMs ?? 10_000;
  }

  /** Connects, negotiates and starts the rings. */
  static async open(socketPath: string, options: FakeDiskOptions = {}): Promise<FakeBlkDisk> {
    const frontend = FakeFrontend.connect(socketPath, { timeoutMs: options.timeoutMs });
    const disk = new FakeBlkDisk(frontend, new GuestRam(options.memory ?? DEFAULT_MEMORY), options);
    try {
      await disk.negotiate();
      await disk.start();
    } catch (error) {
      disk.close();
      throw error;
    }
    return disk;
  }

  get capacityBytes(): number {
    return this.config.capacitySectors * 512;
  }

  has(feature: number): boolean {
    return (this.features & bits(feature)) !== 0n;
  }

  /** Reads bytes; throws unless the status is OK. */
  async read(offsetBytes: number, lengthBytes: number, more: Partial<BlkRequest> = {}): Promise<Uint8Array> {
    const request = { type: BLK_TYPE.IN, sector: offsetBytes / 512, inBytes: lengthBytes, ...more };
    return this.succeed('read', await this.request(request)).data;
  }

  /** Writes bytes; throws unless the status is OK. */
  async write(offsetBytes: number, bytes: Uint8Array, more: Partial<BlkRequest> = {}): Promise<void> {
    const request = { type: BLK_TYPE.OUT, sector: offsetBytes / 512, out: bytes, ...more };
    this.succeed('write', await this.request(request));
  }

  /** Flushes; throws unless the status is OK. */
  async flush(more: Partial<BlkRequest> = {}): Promise<void> {
    this.succeed('flush', await this.request({ type: BLK_TYPE.FLUSH, ...more }));
  }

  /** The serial, without its padding. */
  async getId(): Promise<string> {
    const { data } = this.succeed('get id', await this.request({ type: BLK_TYPE.GET_ID, inBytes: 20 }));
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
    const { framing = {}, inBytes = 0 } = request;
    const pieces = this.place(request);
    const count = Math.min(pieces.length, (framing.indirectAfter ?? pieces.length) + 1);
    const deadline = performance.now() + this.timeoutMs;
    while (queue.driver.freeDescriptors < count) {
      if (performance.now() > deadline) throw new TimedOut('no descriptor became free');
      queue.publish();
      this.pump();
      await setImmediate();
    }
    const usedBytes = await this.raw(queue, pieces, framing);
    const last = pieces[pieces.length - 1]!;
    const status = this.ram.bytes(last.gpa + last.lengthBytes - 1, 1)[0]!;
    const written = pieces
      .filter(({ writable }) => writable)
      .map(({ gpa, lengthBytes }) => this.ram.bytes(gpa, lengthBytes));
    const data = Buffer.concat(written).subarray(0, inBytes);
    for (const { gpa } of pieces) this.ram.free(gpa);
    return { status, data, usedBytes };
  }

  /** Submits a chain as it is given, right or wrong, and resolves to the used length when the device gives it back. */
  raw(queue: FakeQueue, pieces: readonly Segment[], framing: Framing = {}): Promise<number> {
    return new Promise((resolve, reject) => {
      const head = queue.driver.submit(pieces, { indirectAfter: framing.indirectAfter });
      const deadline = performance.now() + this.timeoutMs;
      this.waiting[queue.index]!.set(head, { deadline, complete: resolve, reject });
      queue.publish();
      this.pump();
    });
  }

  /** Shows the device everything that was submitted while a queue was corked. */
  uncork(queue: FakeQueue): void {
    queue.corked = false;
    queue.publish();
    this.pump();
  }

  /** Empties stopped rings, as a driver that resets the device; what was in flight is forgotten. */
  resetRings(): void {
    this.fail(new Disconnected('the driver reset the device'));
    for (const queue of this.queues) queue.reset();
  }

  /** Starts the rings where they stand, as at first or after `stop`. */
  async start(): Promise<void> {
    const { frontend, ram } = this;
    const enable = (this.features & bits(RING_FEATURE.PROTOCOL_FEATURES)) !== 0n;
    await frontend.setFeatures(this.features);
    await frontend.setMemTable(ram);
    for (const { index, driver, kickFd, callFd, errFd } of this.queues) {
      await frontend.setVringNum(index, driver.size);
      await frontend.setVringBase(index, driver.lastUsed);
      await frontend.setVringAddr(index, {
        desc: ram.userAddress(driver.descGpa),
        used: ram.userAddress(driver.usedGpa),
        avail: ram.userAddress(driver.availGpa),
      });
      await frontend.setVringKick(index, kickFd);
      await frontend.setVringCall(index, callFd);
      await frontend.setVringErr(index, errFd);
      if (enable) await frontend.setVringEnable(index, true);
    }
  }

  /**
   * Attaches the same memory and rings to a back-end that came back, from where the used rings stand. Requests that
   * were in flight have been rejected; the back-end would see those again that it had not completed.
   */
  async reconnect(socketPath: string): Promise<void> {
    this.frontend.close();
    this.fail(new Disconnected('this side closed the connection'));
    this.frontend = FakeFrontend.connect(socketPath, { timeoutMs: this.timeoutMs });
    await this.agree();
    await this.start();
  }

  /** Stops every ring; each answer is the avail index the back-end got to. Requests in flight complete first. */
  async stop(): Promise<number[]> {
    const bases: number[] = [];
    for (const { index } of this.queues) bases.push(await this.frontend.getVringBase(index));
    return bases;
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
    this.frontend.close();
    this.fail(new Disconnected('this side closed the connection'));
    for (const queue of this.queues) queue.close();
    this.ram.close();
  }

  private async negotiate(): Promise<void> {
    const { options, ram } = this;
    await this.agree();
    const numQueues = options.numQueues ?? 1;
    for (let index = 0; index < numQueues; index++) {
      this.waiting.push(new Map());
      this.queues.push(
        new FakeQueue(ram, index, options.notify ?? 'call', {
          size: options.queueSize ?? 128,
          eventIdx: (this.features & bits(RING_FEATURE.EVENT_IDX)) !== 0n,
          base: options.base,
          region: options.ringRegion,
        }),
      );
    }
  }

  /** Everything up to the rings: features, owner, back-end channel, configuration. */
  private async agree(): Promise<void> {
    const { frontend, options } = this;
    const offered = await frontend.getFeatures();
    this.features = offered & KNOWN_FEATURES & ~(options.without ?? 0n);
    const protocol = (this.features & bits(RING_FEATURE.PROTOCOL_FEATURES)) !== 0n;
    if (protocol) {
      const agreed =
        (await frontend.getProtocolFeatures()) & KNOWN_PROTOCOL & ~(options.protocolWithout ?? 0n);
      await frontend.setProtocolFeatures(agreed);
      this.protocolFeatures = agreed;
    }
    const agreedTo = (feature: number) => (this.protocolFeatures & bits(feature)) !== 0n;
    const numQueues = options.numQueues ?? 1;
    const most = agreedTo(PROTOCOL_FEATURE.MQ) ? await frontend.getQueueNum() : 1;
    if (numQueues > most) throw new Error(`the back-end has ${most} queues, not ${numQueues}`);
    await frontend.setOwner();
    if (agreedTo(PROTOCOL_FEATURE.BACKEND_REQ)) await frontend.openBackendChannel();
    if (agreedTo(PROTOCOL_FEATURE.CONFIG)) await this.readConfig();
  }

  /** Puts a request into guest memory: its pieces, in chain order. */
  private place({
    type,
    sector = 0,
    out = new Uint8Array(),
    inBytes = 0,
    framing = {},
  }: BlkRequest): Segment[] {
    const readable = Buffer.alloc(16 + out.length);
    readable.writeUInt32LE(type >>> 0, 0);
    readable.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 8);
    readable.set(out, 16);
    const align = framing.alignBytes ?? 512;
    const pieces: Segment[] = [];
    const cut = (total: number, cuts: readonly number[], writable: boolean) => {
      let left = total;
      for (const wanted of [...cuts, total]) {
        const lengthBytes = Math.min(wanted, left);
        left -= lengthBytes;
        if (lengthBytes === 0) continue;
        const gpa = this.ram.allocate(lengthBytes, lengthBytes >= 512 ? align : 1);
        const bytes = this.ram.bytes(gpa, lengthBytes);
        if (writable) bytes.fill(UNWRITTEN_STATUS);
        else bytes.set(readable.subarray(total - left - lengthBytes, total - left));
        pieces.push({ gpa, lengthBytes, writable });
      }
    };
    cut(readable.length, framing.readable ?? [16], false);
    cut(inBytes + 1, framing.writable ?? [inBytes], true);
    return pieces;
  }

  private take(queue: number, head: number, usedBytes: number): void {
    const waiting = this.waiting[queue]!.get(head);
    this.waiting[queue]!.delete(head);
    waiting?.complete(usedBytes);
  }

  /** Runs while requests are in flight, and only one at a time. */
  private pump(): void {
    if (this.pumping) return;
    this.pumping = true;
    void this.run()
      .catch((error: unknown) => this.fail(error))
      .finally(() => {
        this.pumping = false;
        if (!this.closed && this.waiting.some(({ size }) => size > 0)) this.pump();
      });
  }

  private async run(): Promise<void> {
    while (!this.closed && this.waiting.some(({ size }) => size > 0)) {
      let any = false;
      for (const queue of this.queues)
        any = queue.reap((head, lengthBytes) => this.take(queue.index, head, lengthBytes)) || any;
      if (!any) {
        const busy = this.queues.find(({ index }) => this.waiting[index]!.size > 0);
        if (busy) native.waitReadable(busy.callFd, busy.notify === 'call' ? 1 : 0);
        if (this.frontend.stream.isClosed()) throw new Disconnected('the back-end closed the connection');
        this.expire();
      }
      await setImmediate();
    }
  }

  private expire(): void {
    const now = performance.now();
    for (const waiting of this.waiting)
      for (const [head, { deadline, reject }] of waiting) {
        if (now < deadline) continue;
        waiting.delete(head);
        reject(
          new TimedOut(`the back-end did not complete the chain at ${head} within ${this.timeoutMs} ms`),
        );
      }
  }

  private fail(error: unknown): void {
    for (const waiting of this.waiting) {
      for (const { reject } of waiting.values()) reject(error);
      waiting.clear();
    }
  }

  private succeed(what: string, reply: BlkReply): BlkReply {
    if (reply.status !== BLK_STATUS.OK) throw new Error(`${what}: status ${reply.status}`);
    return reply;
  }
}
