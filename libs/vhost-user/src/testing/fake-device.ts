import { GuestRam, RING_FEATURE, bits, type RamRegion, type RamRegionSpec } from '@cairn/virtio/testing';
import { DirtyBitmap } from './dirty-bitmap.js';
import { FakeFrontend } from './fake-frontend.js';
import { FakeQueue, type Notify } from './fake-queue.js';
import type { InflightArea } from './inflight-area.js';
import { PROTOCOL_FEATURE, VRING_LOG } from './vhost-user-numbers.js';

/** How to attach to a device. */
export interface FakeDeviceOptions {
  /** Guest memory; default: 1 MiB at GPA 0 and 16 MiB at 4 GiB. */
  memory?: readonly RamRegionSpec[];
  numQueues?: number;
  queueSize?: number;
  /** Packed rings instead of split ones. */
  packed?: boolean;
  /** Features to take of what is offered; default: all that the double knows but packed rings and logging. */
  features?: bigint;
  /** Features to leave out although they are offered. */
  without?: bigint;
  protocolWithout?: bigint;
  notify?: Notify;
  /** Where the rings start from: an index, or of packed rings a slot with its wrap counter in bit 15. */
  base?: number;
  /** Region the rings lie in. */
  ringRegion?: number;
  /** Keep an in-flight area, so that requests outlive the back-end and go on after `reconnect`. */
  inflight?: boolean;
  /** Tell of memory region by region (ADD_MEM_REG), as QEMU does, not in one table. */
  memorySlots?: boolean;
  timeoutMs?: number;
}

const DEFAULT_MEMORY: readonly RamRegionSpec[] = [
  { gpa: 0, sizeBytes: 0x10_0000 },
  { gpa: 0x1_0000_0000, sizeBytes: 0x100_0000 },
];

const KNOWN_PROTOCOL = bits(...Object.values(PROTOCOL_FEATURE));

/**
 * The front-end and guest of one vhost-user device, up to its rings: negotiation, memory, in-flight area, dirty log,
 * and everything that stops, restarts or resets it.
 */
export class FakeDevice {
  readonly queues: FakeQueue[] = [];
  readonly ram: GuestRam;
  /** What both sides agreed on. */
  features = 0n;
  protocolFeatures = 0n;
  /** Speaks to the back-end; another one after `reconnect`. */
  frontend: FakeFrontend;
  /** Where the back-end keeps what it has in flight, when `inflight` was asked for. */
  inflight: InflightArea | undefined;
  /** The dirty log, between `startLog` and `stopLog`. */
  log: DirtyBitmap | undefined;

  /** `known`: features of the device class that the double can drive. */
  private constructor(
    socketPath: string,
    private readonly known: bigint,
    private readonly options: FakeDeviceOptions,
  ) {
    this.frontend = FakeFrontend.connect(socketPath, { timeoutMs: options.timeoutMs });
    this.ram = new GuestRam(options.memory ?? DEFAULT_MEMORY);
  }

  /** Connects and negotiates; `start` is the caller's. Throws when the back-end lacks what the options need. */
  static async connect(socketPath: string, known: bigint, options: FakeDeviceOptions): Promise<FakeDevice> {
    const device = new FakeDevice(socketPath, known, options);
    try {
      await device.agree();
      for (let index = 0; index < (options.numQueues ?? 1); index++)
        device.queues.push(
          new FakeQueue(device.ram, index, options.notify ?? 'call', {
            size: options.queueSize ?? 128,
            eventIdx: device.has(RING_FEATURE.EVENT_IDX),
            packed: device.has(RING_FEATURE.RING_PACKED),
            base: options.base,
            region: options.ringRegion,
          }),
        );
    } catch (error) {
      device.close();
      throw error;
    }
    return device;
  }

  has(feature: number): boolean {
    return (this.features & bits(feature)) !== 0n;
  }

  hasProtocol(feature: number): boolean {
    return (this.protocolFeatures & bits(feature)) !== 0n;
  }

  /** Sets up memory, in-flight area and rings, and starts the rings where they stand. */
  async start(): Promise<void> {
    const { frontend, options } = this;
    await frontend.setFeatures(this.features);
    if (options.inflight) await this.shareInflight();
    if (options.memorySlots) for (const region of this.ram.regions) await frontend.addMemReg(region);
    else await frontend.setMemTable(this.ram);
    for (const queue of this.queues) await this.startQueue(queue);
  }

  /** Starts one stopped ring; `base` is what SET_VRING_BASE says. */
  async startQueue(queue: FakeQueue, base = queue.ring.base): Promise<void> {
    const { frontend } = this;
    const { index, ring, kickFd, callFd, errFd } = queue;
    await frontend.setVringNum(index, ring.size);
    await frontend.setVringBase(index, base);
    await this.tellAddresses(queue);
    await frontend.setVringKick(index, kickFd);
    await frontend.setVringCall(index, callFd);
    await frontend.setVringErr(index, errFd);
    if (this.has(RING_FEATURE.PROTOCOL_FEATURES)) await frontend.setVringEnable(index, true);
  }

  /** Stops every ring; each answer is where the back-end got to. Requests in flight complete first. */
  async stop(): Promise<number[]> {
    const bases: number[] = [];
    for (const { index } of this.queues) bases.push(await this.frontend.getVringBase(index));
    return bases;
  }

  /** Empties one ring while the others run, as a driver's queue reset (virtio 1.2 §2.6.1), and starts it anew. */
  async resetQueue(queue: FakeQueue): Promise<void> {
    await this.frontend.getVringBase(queue.index);
    queue.reset();
    await this.startQueue(queue);
  }

  /** Resets the device with RESET_DEVICE, or by SET_STATUS 0, and starts it with empty rings. */
  async reset(how: 'message' | 'status' = 'message'): Promise<void> {
    await (how === 'message' ? this.frontend.resetDevice() : this.frontend.setStatus(0));
    for (const queue of this.queues) queue.reset();
    await this.frontend.setFeatures(this.features);
    for (const queue of this.queues) await this.startQueue(queue);
  }

  /**
   * Attaches the same memory, rings and in-flight area to a back-end that came back, from what stands in guest memory,
   * and kicks every ring, as QEMU does. Chains in flight are the new back-end's to finish; nothing is submitted again.
   *
   * Without an in-flight area the back-end sees again what was not used, which is right only for split rings that are
   * used in order.
   */
  async reconnect(socketPath: string, options: { patienceMs?: number } = {}): Promise<void> {
    this.frontend.close();
    this.frontend = await FakeFrontend.awaitConnect(socketPath, {
      timeoutMs: this.options.timeoutMs,
      patienceMs: options.patienceMs ?? 0,
    });
    await this.agree();
    await this.frontend.setFeatures(this.features);
    if (this.inflight) await this.frontend.setInflightFd(this.inflight);
    if (this.log) await this.frontend.setLogBase(this.log);
    if (this.options.memorySlots)
      for (const region of this.ram.regions) await this.frontend.addMemReg(region);
    else await this.frontend.setMemTable(this.ram);
    for (const queue of this.queues) {
      const { ring } = queue;
      await this.startQueue(queue, this.inflight ? ring.baseFromMemory : ring.base);
      queue.kick();
    }
  }

  /** Plugs a region of guest memory in while the rings run; buffers come from it first. */
  async plugMemory(spec: RamRegionSpec): Promise<RamRegion> {
    const region = this.ram.plug(spec);
    await this.frontend.addMemReg(region);
    return region;
  }

  /** Takes a region out while the rings run. Throws while a buffer of the guest lies in it. */
  async unplugMemory(region: RamRegion): Promise<void> {
    await this.frontend.remMemReg(region);
    this.ram.unplug(region);
  }

  /** Has the back-end mark what it writes from now on, as at the beginning of a migration. */
  async startLog(): Promise<DirtyBitmap> {
    if (!this.log) {
      this.log = new DirtyBitmap(Math.max(...this.ram.regions.map(({ gpa, sizeBytes }) => gpa + sizeBytes)));
      await this.frontend.setLogBase(this.log);
    }
    this.features |= bits(RING_FEATURE.LOG_ALL);
    await this.frontend.setFeatures(this.features);
    for (const queue of this.queues) await this.tellAddresses(queue);
    return this.log;
  }

  /** Ends the logging, as a migration that was cancelled. The bitmap stays readable. */
  async stopLog(): Promise<void> {
    this.features &= ~bits(RING_FEATURE.LOG_ALL);
    for (const queue of this.queues) await this.tellAddresses(queue);
    await this.frontend.setFeatures(this.features);
  }

  /** Closes the connection without a word and releases everything. */
  close(): void {
    this.frontend.close();
    for (const queue of this.queues) queue.close();
    this.inflight?.close();
    this.log?.close();
    this.ram.close();
  }

  /** Everything before the features are set: what is offered, owner, back-end channel. */
  private async agree(): Promise<void> {
    const { frontend, options } = this;
    const { packed = false, without = 0n } = options;
    const offered = await frontend.getFeatures();
    const wanted = options.features ?? this.known;
    const agreed =
      (offered & wanted & ~without) | (offered & bits(...(packed ? [RING_FEATURE.RING_PACKED] : [])));
    this.features = (this.features & bits(RING_FEATURE.LOG_ALL)) | agreed;
    if (packed && !this.has(RING_FEATURE.RING_PACKED)) throw new Error('the back-end has no packed rings');
    if (this.has(RING_FEATURE.PROTOCOL_FEATURES)) {
      const protocol =
        (await frontend.getProtocolFeatures()) & KNOWN_PROTOCOL & ~(options.protocolWithout ?? 0n);
      await frontend.setProtocolFeatures(protocol);
      this.protocolFeatures = protocol;
    }
    if (options.inflight && !this.hasProtocol(PROTOCOL_FEATURE.INFLIGHT_SHMFD))
      throw new Error('the back-end keeps no in-flight area');
    const numQueues = options.numQueues ?? 1;
    const most = this.hasProtocol(PROTOCOL_FEATURE.MQ) ? await frontend.getQueueNum() : 1;
    if (numQueues > most) throw new Error(`the back-end has ${most} queues, not ${numQueues}`);
    await frontend.setOwner();
    if (this.hasProtocol(PROTOCOL_FEATURE.BACKEND_REQ)) await frontend.openBackendChannel();
  }

  /** Asks for an in-flight area the first time, and has the back-end keep its requests there. */
  private async shareInflight(): Promise<void> {
    const { numQueues = 1, queueSize = 128 } = this.options;
    this.inflight ??= await this.frontend.getInflightFd(numQueues, queueSize);
    await this.frontend.setInflightFd(this.inflight);
  }

  private tellAddresses({ index, ring }: FakeQueue): Promise<void> {
    const logging = this.has(RING_FEATURE.LOG_ALL);
    return this.frontend.setVringAddr(index, {
      desc: this.ram.userAddress(ring.descGpa),
      used: this.ram.userAddress(ring.usedGpa),
      avail: this.ram.userAddress(ring.availGpa),
      ...(logging ? { flags: VRING_LOG, log: ring.usedGpa } : {}),
    });
  }
}
