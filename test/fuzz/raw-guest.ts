import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import {
  type DirtyBitmap,
  FakeFrontend,
  MESSAGE,
  PROTOCOL_FEATURE,
  VRING_LOG,
  pollUntil,
  regionBytes,
  type VringAddresses,
} from '@cairn/vhost-user/testing';
import {
  BLK_FEATURE,
  BLK_TYPE,
  FakeDriver,
  GuestRam,
  RING_FEATURE,
  bits,
  type RamRegion,
  type RamRegionSpec,
  type Segment,
} from '@cairn/virtio/testing';
import { RawRing } from './raw-ring.js';
import { inflightBytes, u64 } from './wire-bytes.js';

// A guest with its front-end, honest by default, of which a test can reach and spoil every part: each message is sent
// on its own, nothing runs in the background, and a ring is split or packed.

/** How the guest is set up. */
export interface RawGuestOptions {
  packed?: boolean;
  numQueues?: number;
  queueSize?: number;
  memory?: readonly RamRegionSpec[];
  /** Region in which the rings lie; default: the last one with room. */
  ringRegion?: number;
  /** Features to leave out although they are offered. */
  without?: bigint;
  /** Ask the back-end for an area in which requests in flight are tracked, and give it back. */
  inflight?: boolean;
  /** Give memory region by region. */
  slots?: boolean;
  timeoutMs?: number;
}

/** A request that the guest has submitted. */
export interface RawRequest {
  readonly ring: number;
  readonly head: number;
  readonly pieces: readonly Segment[];
  /** Set when the device has given it back. */
  usedBytes: number | undefined;
}

const { PROTOCOL_FEATURES, LOG_ALL, VERSION_1, RING_PACKED, INDIRECT_DESC, EVENT_IDX } = RING_FEATURE;
const KNOWN = bits(...Object.values(BLK_FEATURE), PROTOCOL_FEATURES, VERSION_1, INDIRECT_DESC, EVENT_IDX);
const MEMORY: readonly RamRegionSpec[] = [
  { gpa: 0, sizeBytes: 0x10_0000 },
  { gpa: 0x1_0000_0000, sizeBytes: 0x40_0000 },
];

/** A guest and its front-end; see the options for what it agrees to. */
export class RawGuest {
  readonly rings: RawRing[] = [];
  features = 0n;
  /** The area of SET_INFLIGHT_FD. */
  inflight: { fd: number; sizeBytes: number } | undefined;
  /** Where the back-end marks the pages that it writes; undefined = it does not. */
  log: DirtyBitmap | undefined;
  private readonly waiting: Map<number, RawRequest>[] = [];
  private closed = false;

  private constructor(
    public frontend: FakeFrontend,
    readonly ram: GuestRam,
    readonly options: RawGuestOptions,
    private readonly socketPath: string,
  ) {}

  static async open(socketPath: string, options: RawGuestOptions = {}): Promise<RawGuest> {
    const ram = new GuestRam(options.memory ?? MEMORY);
    const guest = new RawGuest(connect(socketPath, options), ram, options, socketPath);
    try {
      await guest.negotiate();
      for (let index = 0; index < (options.numQueues ?? 1); index++) {
        guest.waiting.push(new Map());
        guest.rings.push(
          new RawRing(index, ram, {
            size: options.queueSize ?? 64,
            eventIdx: guest.has(EVENT_IDX),
            packed: options.packed ?? false,
            ...(options.ringRegion === undefined ? {} : { region: options.ringRegion }),
          }),
        );
      }
      await guest.setUp();
      return guest;
    } catch (error) {
      guest.close();
      throw error;
    }
  }

  has(feature: number): boolean {
    return (this.features & bits(feature)) !== 0n;
  }

  /** Features, protocol features and owner, as every front-end begins. */
  async negotiate(): Promise<void> {
    const { frontend, options } = this;
    const offered = await frontend.getFeatures();
    const wanted = KNOWN | (options.packed ? bits(RING_PACKED) : 0n) | (this.log ? bits(LOG_ALL) : 0n);
    this.features = offered & wanted & ~(options.without ?? 0n);
    await frontend.setFeatures(this.features);
    const agreed = (await frontend.getProtocolFeatures()) & bits(...Object.values(PROTOCOL_FEATURE));
    await frontend.setProtocolFeatures(agreed);
    await frontend.setOwner();
  }

  /** Memory, in-flight area and rings, all or some, from where the rings stand. */
  async setUp(rings: readonly RawRing[] = this.rings): Promise<void> {
    await this.frontend.setFeatures(this.features);
    await this.shareMemory();
    if (this.log) await this.frontend.setLogBase(this.log);
    if (this.options.inflight) await this.shareInflight();
    for (const ring of rings) await this.startRing(ring);
  }

  async shareMemory(): Promise<void> {
    if (!this.options.slots) return this.frontend.setMemTable(this.ram);
    for (const region of this.ram.regions) await this.addRegion(region);
    return undefined;
  }

  addRegion(region: GuestRam['regions'][number]): Promise<void> {
    return this.frontend.tell(MESSAGE.ADD_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]), [region.fd]);
  }

  removeRegion(region: GuestRam['regions'][number]): Promise<void> {
    return this.frontend.tell(MESSAGE.REM_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]));
  }

  /** Gets the area when there is none yet, and gives it (back). */
  async shareInflight(): Promise<void> {
    const queues = this.rings.length;
    const size = this.rings[0]!.driver.size;
    if (!this.inflight) {
      const { payload, fds } = await this.frontend.ask(
        MESSAGE.GET_INFLIGHT_FD,
        inflightBytes(0, 0, queues, size),
      );
      this.inflight = { fd: fds[0]!, sizeBytes: Number(payload.readBigUInt64LE(0)) };
    }
    const { fd, sizeBytes } = this.inflight;
    await this.frontend.tell(MESSAGE.SET_INFLIGHT_FD, inflightBytes(sizeBytes, 0, queues, size), [fd]);
  }

  /** Starts a ring where it lies and stands, or elsewhere; one that is not enabled waits. */
  async startRing(
    ring: RawRing,
    options: { place?: VringAddresses; base?: number; enabled?: boolean } = {},
  ): Promise<void> {
    const { frontend } = this;
    const { place = this.addressesOf(ring), base = ring.base, enabled = true } = options;
    const { index } = ring;
    await frontend.setVringNum(index, ring.driver.size);
    await frontend.setVringBase(index, base);
    await frontend.setVringAddr(index, place);
    await frontend.setVringErr(index, ring.errFd);
    await frontend.setVringCall(index, ring.callFd);
    await frontend.setVringKick(index, ring.kickFd);
    if (enabled) await frontend.setVringEnable(index, true);
  }

  /** Has the back-end mark the pages that it writes, or no longer, while the rings run; in the order of QEMU. */
  async useLog(log: DirtyBitmap | undefined): Promise<void> {
    const { frontend } = this;
    this.log = log;
    if (log) await frontend.setLogBase(log);
    this.features = log ? this.features | bits(LOG_ALL) : this.features & ~bits(LOG_ALL);
    await frontend.setFeatures(this.features);
    for (const ring of this.rings) await frontend.setVringAddr(ring.index, this.addressesOf(ring));
  }

  addressesOf({ driver }: RawRing): {
    desc: number;
    avail: number;
    used: number;
    flags?: number;
    log?: number;
  } {
    const { ram } = this;
    return {
      ...(this.log && { flags: VRING_LOG, log: driver.usedGpa }),
      desc: ram.userAddress(driver.descGpa),
      avail: ram.userAddress(driver.availGpa),
      used: ram.userAddress(driver.usedGpa),
    };
  }

  /** Connects anew after the connection has ended, and sets all or some rings up from where they stand. */
  async reconnect(rings: readonly RawRing[] = this.rings): Promise<void> {
    this.frontend.close();
    this.frontend = connect(this.socketPath, this.options);
    await this.negotiate();
    await this.setUp(rings);
  }

  /** Adds a region of memory, which buffers are allocated from first. */
  async plug(spec: RamRegionSpec): Promise<RamRegion> {
    const region = this.ram.plug(spec);
    if (this.options.slots) await this.addRegion(region);
    else await this.frontend.setMemTable(this.ram);
    return region;
  }

  /** Takes a region away, of which nothing is allocated. */
  async unplug(region: RamRegion): Promise<void> {
    if (this.options.slots) await this.removeRegion(region);
    this.ram.unplug(region);
    if (!this.options.slots) await this.frontend.setMemTable(this.ram);
  }

  /** Changes a ring's part of the in-flight area behind the back-end's back. */
  forgeInflight(ring: RawRing, forge: (area: Buffer) => void): void {
    const { fd, sizeBytes } = this.inflight!;
    // vhost-user, "Inflight I/O tracking": header and entries have 16 bytes, of a packed ring 32; 64-aligned.
    const unit = this.options.packed ? 32 : 16;
    const lengthBytes = Math.ceil((unit + unit * ring.driver.size) / 64) * 64;
    const address = check('mapShared', native.mapShared(fd, 0, sizeBytes));
    const area = Buffer.alloc(lengthBytes);
    native.peek(address + ring.index * lengthBytes, area, 0, lengthBytes);
    forge(area);
    native.poke(address + ring.index * lengthBytes, area, 0, lengthBytes);
    check('unmap', native.unmap(address, sizeBytes));
  }

  /** Lets go of the in-flight area: the next set-up asks for a new one. */
  forgetInflight(): void {
    if (this.inflight) closeSync(this.inflight.fd);
    this.inflight = undefined;
  }

  /** Writes a classic request into guest memory: header, data, status. */
  place(
    type: number,
    sector: number | bigint,
    { out, inBytes = 0 }: { out?: Uint8Array; inBytes?: number } = {},
  ) {
    const { ram } = this;
    const header = ram.allocate(16, 16);
    ram.setU32(header, type);
    ram.setU64(header + 8, sector);
    const pieces: Segment[] = [{ gpa: header, lengthBytes: 16, writable: false }];
    if (out && out.length > 0) {
      const gpa = ram.allocate(out.length, 512);
      ram.bytes(gpa, out.length).set(out);
      pieces.push({ gpa, lengthBytes: out.length, writable: false });
    }
    if (inBytes > 0) pieces.push({ gpa: ram.allocate(inBytes, 512), lengthBytes: inBytes, writable: true });
    const status = ram.allocate(1, 1);
    ram.bytes(status, 1).fill(0xee);
    pieces.push({ gpa: status, lengthBytes: 1, writable: true });
    return pieces;
  }

  /** Submits a chain and shows it to the device. */
  submit(ring: number, pieces: readonly Segment[], options: { indirectAfter?: number; show?: boolean } = {}) {
    const { driver } = this.rings[ring]!;
    const { indirectAfter, show = true } = options;
    const head =
      driver instanceof FakeDriver
        ? driver.submit(pieces, indirectAfter === undefined ? {} : { indirectAfter })
        : driver.submit(pieces, indirectAfter === 0 ? { indirectAfter } : {});
    const request: RawRequest = { ring, head, pieces, usedBytes: undefined };
    this.waiting[ring]!.set(head, request);
    if (show) this.rings[ring]!.publish();
    return request;
  }

  /** Takes what the device has given back, on all rings or one. Throws DeviceFault when it broke a rule. */
  reap(only?: number): void {
    for (const { driver, index } of this.rings) {
      if (only !== undefined && only !== index) continue;
      for (let used = driver.popUsed(); used; used = driver.popUsed()) {
        const request = this.waiting[index]!.get(used.head)!;
        this.waiting[index]!.delete(used.head);
        request.usedBytes = used.lengthBytes;
      }
    }
  }

  /** Waits until a request is given back; its status byte. Throws TimedOut. */
  async finish(request: RawRequest): Promise<number> {
    const done = () => {
      this.reap(request.ring);
      return request.usedBytes === undefined ? undefined : this.statusOf(request);
    };
    return pollUntil('a request', done, { timeoutMs: this.options.timeoutMs ?? 5_000 });
  }

  statusOf({ pieces }: RawRequest): number {
    const { gpa, lengthBytes } = pieces.at(-1)!;
    return this.ram.bytes(gpa + lengthBytes - 1, 1)[0]!;
  }

  /** Data of an answered read. */
  dataOf({ pieces }: RawRequest): Buffer {
    const written = pieces.filter(({ writable }) => writable);
    return Buffer.concat(written.map(({ gpa, lengthBytes }) => this.ram.bytes(gpa, lengthBytes))).subarray(
      0,
      -1,
    );
  }

  release({ pieces }: RawRequest): void {
    for (const { gpa } of pieces) this.ram.free(gpa);
  }

  /** A whole request; its status. */
  async ask(
    type: number,
    sector: number | bigint = 0,
    more: { out?: Uint8Array; inBytes?: number; ring?: number } = {},
  ): Promise<{ status: number; data: Buffer }> {
    const request = this.submit(more.ring ?? 0, this.place(type, sector, more));
    const status = await this.finish(request);
    const data = Buffer.from(this.dataOf(request));
    this.release(request);
    return { status, data };
  }

  /** Reads and expects success. */
  async read(sector = 0, inBytes = 4096, ring = 0): Promise<Buffer> {
    const { status, data } = await this.ask(BLK_TYPE.IN, sector, { inBytes, ring });
    if (status !== 0) throw new Error(`reading sector ${sector} ended with status ${status}`);
    return data;
  }

  /** Writes and expects success. */
  async write(sector: number, out: Uint8Array, ring = 0): Promise<void> {
    const { status } = await this.ask(BLK_TYPE.OUT, sector, { out, ring });
    if (status !== 0) throw new Error(`writing sector ${sector} ended with status ${status}`);
  }

  /** Requests that the device has not given back, of all rings or one, which are forgotten. */
  abandon(only?: number): RawRequest[] {
    return this.waiting.flatMap((waiting, ring) => {
      if (only !== undefined && only !== ring) return [];
      const left = [...waiting.values()];
      waiting.clear();
      return left;
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.frontend.close();
    for (const ring of this.rings) ring.close();
    this.forgetInflight();
    this.ram.close();
  }
}

const connect = (socketPath: string, { timeoutMs = 5_000 }: RawGuestOptions): FakeFrontend =>
  FakeFrontend.connect(socketPath, { timeoutMs });
