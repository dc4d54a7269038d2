import { closeSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { check, native } from '@cairn/native';
import type { GuestRam, RamRegion } from '@cairn/virtio/testing';
import type { DirtyBitmap } from './dirty-bitmap.js';
import { InflightArea } from './inflight-area.js';
import { MessageStream, type ReceivedMessage } from './message-stream.js';
import { u16, u32, u64 } from './payload.js';
import { pollUntil, TimedOut } from './poll.js';
import { BACKEND_MESSAGE, FLAG, MESSAGE, PROTOCOL_FEATURE, VRING_NO_FD } from './vhost-user-numbers.js';

/** The back-end answered a request with something other than success. */
export class Refused extends Error {
  override readonly name = 'Refused';
}

/** User addresses of one ring. */
export interface VringAddresses {
  desc: number | bigint;
  used: number | bigint;
  avail: number | bigint;
  flags?: number;
  log?: number | bigint;
}

/** The payload of a memory region: GPA, size, user address, offset in its descriptor. */
export const regionBytes = (
  region: Pick<RamRegion, 'gpa' | 'sizeBytes' | 'userAddress' | 'mmapOffsetBytes'>,
) => u64(region.gpa, region.sizeBytes, region.userAddress, region.mmapOffsetBytes);

/**
 * The front-end's side of a vhost-user connection, one method a message.
 *
 * A method waits for its reply, and after REPLY_ACK was negotiated asks for one to every message and throws Refused
 * when that is not zero. Messages go out one at a time: await each call before the next. `stream` sends anything,
 * right or wrong.
 */
export class FakeFrontend {
  readonly stream: MessageStream;
  readonly timeoutMs: number;
  /** Ask for an acknowledgement of each message, once REPLY_ACK is negotiated. */
  acknowledge = true;
  private protocolFeatures = 0n;
  private channel?: MessageStream;

  /** Takes over a connected socket. */
  constructor(socketFd: number, options: { timeoutMs?: number | undefined } = {}) {
    this.stream = new MessageStream(socketFd);
    this.timeoutMs = options.timeoutMs ?? 10_000;
  }

  /** Connects to a back-end's socket. Throws SystemError when nobody listens. */
  static connect(socketPath: string, options: { timeoutMs?: number | undefined } = {}): FakeFrontend {
    return new FakeFrontend(check('unixConnect', native.unixConnect(socketPath)), options);
  }

  /** Connects, and waits for somebody to listen for at most `patienceMs`. Throws SystemError when nobody does. */
  static async awaitConnect(
    socketPath: string,
    { patienceMs, ...options }: { timeoutMs?: number | undefined; patienceMs: number },
  ): Promise<FakeFrontend> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const fd = native.unixConnect(socketPath);
      if (fd >= 0 || performance.now() >= deadline)
        return new FakeFrontend(check('unixConnect', fd), options);
      await setTimeout(5);
    }
  }

  getFeatures(): Promise<bigint> {
    return this.askU64(MESSAGE.GET_FEATURES);
  }

  setFeatures(features: bigint): Promise<void> {
    return this.tell(MESSAGE.SET_FEATURES, u64(features));
  }

  getProtocolFeatures(): Promise<bigint> {
    return this.askU64(MESSAGE.GET_PROTOCOL_FEATURES);
  }

  /** Never acknowledged by itself, as REPLY_ACK is not yet agreed on. */
  async setProtocolFeatures(features: bigint): Promise<void> {
    await this.tell(MESSAGE.SET_PROTOCOL_FEATURES, u64(features));
    this.protocolFeatures = features;
  }

  setOwner(): Promise<void> {
    return this.tell(MESSAGE.SET_OWNER);
  }

  resetOwner(): Promise<void> {
    return this.tell(MESSAGE.RESET_OWNER);
  }

  async getQueueNum(): Promise<number> {
    return Number(await this.askU64(MESSAGE.GET_QUEUE_NUM));
  }

  setMemTable(ram: GuestRam): Promise<void> {
    const { regions } = ram;
    return this.tell(
      MESSAGE.SET_MEM_TABLE,
      Buffer.concat([u32(regions.length, 0), ...regions.map(regionBytes)]),
      regions.map(({ fd }) => fd),
    );
  }

  async getMaxMemSlots(): Promise<number> {
    return Number(await this.askU64(MESSAGE.GET_MAX_MEM_SLOTS));
  }

  addMemReg(region: RamRegion): Promise<void> {
    return this.tell(MESSAGE.ADD_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]), [region.fd]);
  }

  remMemReg(region: RamRegion): Promise<void> {
    return this.tell(MESSAGE.REM_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]));
  }

  /** The back-end always answers, once it logs there (vhost-user spec, SET_LOG_BASE with LOG_SHMFD). */
  async setLogBase({ fd, sizeBytes }: DirtyBitmap): Promise<void> {
    await this.ask(MESSAGE.SET_LOG_BASE, u64(sizeBytes, 0), [fd]);
  }

  /** Has the back-end make an area in which it keeps what is in flight; the caller closes it. */
  async getInflightFd(numQueues: number, queueSize: number): Promise<InflightArea> {
    const question = Buffer.concat([u64(0, 0), u16(numQueues, queueSize)]);
    const { payload, fds } = await this.ask(MESSAGE.GET_INFLIGHT_FD, question);
    const [fd] = fds;
    if (payload.length !== question.length || fds.length !== 1 || fd === undefined)
      throw new Refused(
        `GET_INFLIGHT_FD was answered with ${payload.length} bytes, ${fds.length} descriptors`,
      );
    const area = [Number(payload.readBigUInt64LE(0)), Number(payload.readBigUInt64LE(8))] as const;
    return new InflightArea(fd, ...area, payload.readUInt16LE(16), payload.readUInt16LE(18));
  }

  setInflightFd({ fd, sizeBytes, offsetBytes, numQueues, queueSize }: InflightArea): Promise<void> {
    const payload = Buffer.concat([u64(sizeBytes, offsetBytes), u16(numQueues, queueSize)]);
    return this.tell(MESSAGE.SET_INFLIGHT_FD, payload, [fd]);
  }

  resetDevice(): Promise<void> {
    return this.tell(MESSAGE.RESET_DEVICE);
  }

  setStatus(status: number): Promise<void> {
    return this.tell(MESSAGE.SET_STATUS, u64(status));
  }

  async getStatus(): Promise<number> {
    return Number(await this.askU64(MESSAGE.GET_STATUS));
  }

  setVringNum(index: number, size: number): Promise<void> {
    return this.tell(MESSAGE.SET_VRING_NUM, u32(index, size));
  }

  setVringAddr(index: number, { desc, used, avail, flags = 0, log = 0 }: VringAddresses): Promise<void> {
    return this.tell(MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(index, flags), u64(desc, used, avail, log)]));
  }

  setVringBase(index: number, base: number): Promise<void> {
    return this.tell(MESSAGE.SET_VRING_BASE, u32(index, base));
  }

  /** Stops the ring; the reply is the avail index where it would go on. */
  async getVringBase(index: number): Promise<number> {
    const { payload } = await this.ask(MESSAGE.GET_VRING_BASE, u32(index, 0));
    if (payload.length !== 8 || payload.readUInt32LE(0) !== index)
      throw new Refused(`GET_VRING_BASE ${index} was answered with ${payload.toString('hex')}`);
    return payload.readUInt32LE(4);
  }

  setVringKick(index: number, fd?: number): Promise<void> {
    return this.tellVringFd(MESSAGE.SET_VRING_KICK, index, fd);
  }

  setVringCall(index: number, fd?: number): Promise<void> {
    return this.tellVringFd(MESSAGE.SET_VRING_CALL, index, fd);
  }

  setVringErr(index: number, fd?: number): Promise<void> {
    return this.tellVringFd(MESSAGE.SET_VRING_ERR, index, fd);
  }

  setVringEnable(index: number, enable: boolean): Promise<void> {
    return this.tell(MESSAGE.SET_VRING_ENABLE, u32(index, enable ? 1 : 0));
  }

  /** Bytes of the device's configuration space. Throws Refused when the back-end answers with an error. */
  async getConfig(offsetBytes: number, sizeBytes: number): Promise<Buffer> {
    const request = Buffer.concat([u32(offsetBytes, sizeBytes, 0), Buffer.alloc(sizeBytes)]);
    const { payload } = await this.ask(MESSAGE.GET_CONFIG, request);
    if (payload.length !== 12 + sizeBytes)
      throw new Refused(`GET_CONFIG was answered with ${payload.length} bytes`);
    return payload.subarray(12);
  }

  setConfig(offsetBytes: number, bytes: Uint8Array, flags = 0): Promise<void> {
    return this.tell(MESSAGE.SET_CONFIG, Buffer.concat([u32(offsetBytes, bytes.length, flags), bytes]));
  }

  /** Gives the back-end a channel for its own requests; `nextConfigChange` reads it. */
  async openBackendChannel(): Promise<void> {
    this.channel?.close();
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    this.channel = new MessageStream(pair[0]!);
    try {
      await this.tell(MESSAGE.SET_BACKEND_REQ_FD, undefined, [pair[1]!]);
    } finally {
      closeSync(pair[1]!);
    }
  }

  /** Waits for the back-end to say that the configuration space changed, and acknowledges if asked to. */
  async nextConfigChange(timeoutMs = this.timeoutMs): Promise<void> {
    if (!this.channel) throw new Error('no back-end channel is open');
    const { code, flags } = await this.channel.receive('a configuration change', timeoutMs);
    if (code !== BACKEND_MESSAGE.CONFIG_CHANGE) throw new Refused(`back-end request ${code}`);
    if (flags & FLAG.NEED_REPLY) this.channel.send(code, u64(0), { flags: FLAG.VERSION | FLAG.REPLY });
  }

  /** Sends a message that has no reply of its own, and awaits the acknowledgement where one can be had. */
  async tell(code: number, payload?: Uint8Array, fds?: readonly number[]): Promise<void> {
    const ack =
      this.acknowledge && (this.protocolFeatures & (1n << BigInt(PROTOCOL_FEATURE.REPLY_ACK))) !== 0n;
    this.stream.send(code, payload, { fds, flags: FLAG.VERSION | (ack ? FLAG.NEED_REPLY : 0) });
    if (!ack) return;
    const reply = await this.receiveReply(code);
    if (reply.payload.length !== 8 || reply.payload.readBigUInt64LE(0) !== 0n)
      throw new Refused(`message ${code} was answered with ${reply.payload.toString('hex')}`);
  }

  /** Sends a message and waits for its reply. */
  async ask(code: number, payload?: Uint8Array, fds?: readonly number[]): Promise<ReceivedMessage> {
    this.stream.send(code, payload, { fds });
    return this.receiveReply(code);
  }

  /** Waits for a reply to `code`, as whole as the protocol wants it. */
  async receiveReply(code: number): Promise<ReceivedMessage> {
    const reply = await this.stream.receive(`the reply to message ${code}`, this.timeoutMs);
    if (reply.code !== code || reply.flags !== (FLAG.VERSION | FLAG.REPLY))
      throw new Refused(`message ${code} was answered with code ${reply.code}, flags ${reply.flags}`);
    return reply;
  }

  /** Waits until the back-end closes the connection; false when it does not in that time. */
  async closedByBackend(timeoutMs = 5_000): Promise<boolean> {
    const closed = () => (this.stream.isClosed() ? true : undefined);
    try {
      return await pollUntil('the end of the connection', closed, { timeoutMs, fd: () => this.stream.fd });
    } catch (error) {
      if (error instanceof TimedOut) return false;
      throw error;
    }
  }

  /** Closes the connection without any farewell, as a killed process does. */
  close(): void {
    this.stream.close();
    this.channel?.close();
  }

  private async askU64(code: number): Promise<bigint> {
    const { payload } = await this.ask(code);
    if (payload.length !== 8) throw new Refused(`message ${code} was answered with ${payload.length} bytes`);
    return payload.readBigUInt64LE(0);
  }

  private tellVringFd(code: number, index: number, fd: number | undefined): Promise<void> {
    return fd === undefined ? this.tell(code, u64(index | VRING_NO_FD)) : this.tell(code, u64(index), [fd]);
  }
}
