import { VhostUserError } from './vhost-user-error.js';

/** Size of the header of every message: request, flags and payload size, 32 bits each (vhost-user spec, "Header"). */
export const HEADER_BYTES = 12;

export const HEADER_FLAG = { VERSION: 1, VERSION_MASK: 3, REPLY: 1 << 2, NEED_REPLY: 1 << 3 } as const;

/** Protocol feature bit numbers (vhost-user spec, "Protocol features"). */
export const PROTOCOL_FEATURE = {
  MQ: 0,
  LOG_SHMFD: 1,
  REPLY_ACK: 3,
  BACKEND_REQ: 5,
  CONFIG: 9,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
} as const;

/** Most memory regions in one table (VHOST_MEMORY_BASELINE_NREGIONS). */
export const MAX_REGIONS = 8;

/** Most regions that ADD_MEM_REG may bring a front-end to; each keeps a descriptor and a mapping. */
export const MAX_MEMORY_SLOTS = 64;

/** Largest part of the configuration space that one message carries (VHOST_USER_MAX_CONFIG_SIZE). */
export const MAX_CONFIG_BYTES = 256;

/** One region of guest memory as the front-end describes it; addresses and sizes in bytes. */
export interface RegionMessage {
  gpa: number;
  sizeBytes: number;
  userAddress: number;
  mmapOffsetBytes: number;
}

/** Ring addresses in the front-end's own address space. */
export interface VringAddressMessage {
  index: number;
  descriptors: number;
  used: number;
  avail: number;
  /** Guest physical address under which writes to the used ring are logged. */
  usedLogGpa: number | undefined;
}

/** The area in which requests in flight are tracked, so that they outlive the back-end. */
export interface InflightMessage {
  sizeBytes: number;
  offsetBytes: number;
  numQueues: number;
  queueSize: number;
}

const VRING_LOG = 1; // VHOST_VRING_F_LOG

/** A message as it came, with the descriptors that came with it; its handler owns those. */
export class Message {
  private readonly view: DataView;

  constructor(
    readonly code: number,
    readonly flags: number,
    readonly payload: Uint8Array,
    readonly fds: number[],
  ) {
    this.view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  }

  u32(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  /** A 64-bit number. Throws VhostUserError past 2^53, where it could not be exact. */
  u64(offset: number): number {
    const high = this.u32(offset + 4);
    if (high >= 2 ** 21) throw new VhostUserError('number-too-large', { code: this.code, offset });
    return high * 2 ** 32 + this.u32(offset);
  }

  /** Payload of SET_MEM_TABLE. */
  regions(): RegionMessage[] {
    const count = this.u32(0);
    if (count > MAX_REGIONS || this.payload.length !== 8 + count * 32) {
      throw new VhostUserError('payload-size-invalid', { code: this.code, size: this.payload.length });
    }
    return Array.from({ length: count }, (_, index) => this.regionAt(8 + index * 32));
  }

  /** Payload of ADD_MEM_REG and REM_MEM_REG. */
  region(): RegionMessage {
    return this.regionAt(8);
  }

  /** Payload of SET_VRING_ADDR; the used ring's log address is 0 unless the front-end wants it logged. */
  vringAddress(): VringAddressMessage {
    return {
      index: this.u32(0),
      descriptors: this.u64(8),
      used: this.u64(16),
      avail: this.u64(24),
      usedLogGpa: (this.u32(4) & VRING_LOG) !== 0 ? this.u64(32) : undefined,
    };
  }

  /** Payload of SET_LOG_BASE. */
  log(): { sizeBytes: number; offsetBytes: number } {
    return { sizeBytes: this.u64(0), offsetBytes: this.u64(8) };
  }

  /** Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
  inflight(): InflightMessage {
    return {
      sizeBytes: this.u64(0),
      offsetBytes: this.u64(8),
      numQueues: this.view.getUint16(16, true),
      queueSize: this.view.getUint16(18, true),
    };
  }

  /** Payload of SET_VRING_KICK, _CALL and _ERR: the ring, and its descriptor unless the front-end polls. */
  vringFile(): { index: number; fd: number | undefined } {
    const word = this.u32(0);
    const withoutFd = (word & 0x100) !== 0;
    if (this.fds.length !== (withoutFd ? 0 : 1)) {
      throw new VhostUserError('descriptor-count-invalid', { code: this.code, count: this.fds.length });
    }
    return { index: word & 0xff, fd: this.fds[0] };
  }

  /** Payload of GET_CONFIG and SET_CONFIG. */
  config(): { offset: number; size: number; data: Uint8Array } {
    const offset = this.u32(0);
    const size = this.u32(4);
    const data = this.payload.subarray(12);
    if (data.length !== size) throw new VhostUserError('payload-size-invalid', { code: this.code, size });
    return { offset, size, data };
  }

  private regionAt(at: number): RegionMessage {
    return {
      gpa: this.u64(at),
      sizeBytes: this.u64(at + 8),
      userAddress: this.u64(at + 16),
      mmapOffsetBytes: this.u64(at + 24),
    };
  }
}

/** Bytes of a message to the front-end. */
export const encode = (code: number, flags: number, payload: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, code, true);
  view.setUint32(4, HEADER_FLAG.VERSION | flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
};

/** Payload of one 64-bit number, as two 32-bit words. */
export const u64Payload = (low: number, high = 0): Uint8Array => {
  const payload = new Uint8Array(8);
  const view = new DataView(payload.buffer);
  view.setUint32(0, low, true);
  view.setUint32(4, high, true);
  return payload;
};

/** Payload of the answer to GET_INFLIGHT_FD, as long as the question was. */
export const inflightPayload = (area: InflightMessage, lengthBytes: number): Uint8Array => {
  const payload = new Uint8Array(lengthBytes);
  const view = new DataView(payload.buffer);
  view.setUint32(0, area.sizeBytes % 2 ** 32, true);
  view.setUint32(4, Math.floor(area.sizeBytes / 2 ** 32), true);
  view.setUint32(8, area.offsetBytes % 2 ** 32, true);
  view.setUint32(12, Math.floor(area.offsetBytes / 2 ** 32), true);
  view.setUint16(16, area.numQueues, true);
  view.setUint16(18, area.queueSize, true);
  return payload;
};
