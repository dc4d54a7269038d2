import type { RamRegion } from '@cairn/virtio/testing';
import { regionBytes } from './fake-frontend.js';
import { u16, u32, u64 } from './payload.js';
import type { SessionRig } from './session-rig.js';
import { FLAG, MESSAGE, PROTOCOL_FEATURE } from './vhost-user-numbers.js';

type MessageName = keyof typeof MESSAGE;

/** Of which messages a front-end asks for an acknowledgement, once that is agreed to. */
export type AsksFor = 'every message' | readonly MessageName[];

/**
 * Plays what a front-end of the field sends, message by message, with the flags that it sets, and takes just the answers
 * that it waits for: one too many, or one that it does not expect, makes the next of them fail.
 */
export class PlayedFrontend {
  private acknowledged = false;

  constructor(
    private readonly rig: SessionRig,
    private readonly asksFor: AsksFor,
  ) {}

  /** Sends a message that has an answer of its own, and returns that answer's payload. */
  async ask(name: MessageName, payload?: Buffer): Promise<Buffer> {
    const { payload: answer, fds } = await this.exchange(name, payload);
    if (fds.length > 0) throw new Error(`${name} was answered with ${fds.length} descriptors`);
    return answer;
  }

  /** Sends a message that has none, and waits for its acknowledgement where the front-end does. */
  async tell(
    name: MessageName,
    payload: Buffer = Buffer.alloc(0),
    fds: readonly number[] = [],
  ): Promise<void> {
    this.rig.front.stream.send(MESSAGE[name], payload, { fds, flags: this.flagsOf(name) });
    if (this.flagsOf(name) === FLAG.VERSION) return this.rig.hear();
    const { payload: answer } = await this.rig.during(this.rig.front.receiveReply(MESSAGE[name]));
    if (!answer.equals(u64(0))) throw new Error(`${name} was answered with ${answer.toString('hex')}`);
    return undefined;
  }

  async agreeTo(protocol: bigint): Promise<void> {
    await this.tell('SET_PROTOCOL_FEATURES', u64(protocol));
    this.acknowledged = (protocol & (1n << BigInt(PROTOCOL_FEATURE.REPLY_ACK))) !== 0n;
  }

  /** Has the back-end make an area for requests in flight, in a structure of 24 bytes; its descriptor is the caller's. */
  async inflightArea(numQueues: number, queueSize: number): Promise<{ fd: number; payload: Buffer }> {
    const question = Buffer.concat([u64(0, 0), u16(numQueues, queueSize), u32(0)]);
    const { payload, fds } = await this.exchange('GET_INFLIGHT_FD', question);
    return { fd: fds[0]!, payload };
  }

  /** All of the configuration space from `offsetBytes` on. */
  async config(offsetBytes: number, sizeBytes: number, flags: number): Promise<Buffer> {
    const question = Buffer.concat([u32(offsetBytes, sizeBytes, flags), Buffer.alloc(sizeBytes)]);
    const answer = await this.ask('GET_CONFIG', question);
    // rust-vmm compares offset and size with what it asked for.
    if (answer.length !== question.length || !answer.subarray(0, 12).equals(question.subarray(0, 12)))
      throw new Error(`GET_CONFIG was answered with ${answer.toString('hex')}`);
    return answer.subarray(12);
  }

  memTable(): Promise<void> {
    const { regions } = this.rig.ram;
    const payload = Buffer.concat([u32(regions.length, 0), ...regions.map(regionBytes)]);
    return this.tell('SET_MEM_TABLE', payload, fdsOf(regions));
  }

  memRegion(name: 'ADD_MEM_REG' | 'REM_MEM_REG', region: RamRegion, fds = fdsOf([region])): Promise<void> {
    return this.tell(name, Buffer.concat([u64(0), regionBytes(region)]), fds);
  }

  ringAddresses(index: number, logGpa?: number): Promise<void> {
    const { desc, used, avail } = this.rig.addresses;
    const flags = logGpa === undefined ? 0 : 1;
    return this.tell(
      'SET_VRING_ADDR',
      Buffer.concat([u32(index, flags), u64(desc, used, avail, logGpa ?? 0)]),
    );
  }

  ringState(name: MessageName, index: number, value: number): Promise<void> {
    return this.tell(name, u32(index, value));
  }

  ringFd(name: 'SET_VRING_KICK' | 'SET_VRING_CALL' | 'SET_VRING_ERR', index: number): Promise<void> {
    const which = { SET_VRING_KICK: 0, SET_VRING_CALL: 1, SET_VRING_ERR: 2 }[name];
    return this.tell(name, u64(index), [this.rig.eventfds[which]!]);
  }

  private async exchange(name: MessageName, payload?: Buffer) {
    this.rig.front.stream.send(MESSAGE[name], payload, { flags: this.flagsOf(name) });
    return this.rig.during(this.rig.front.receiveReply(MESSAGE[name]));
  }

  private flagsOf(name: MessageName): number {
    const asks = this.asksFor === 'every message' || this.asksFor.includes(name);
    return FLAG.VERSION | (this.acknowledged && asks ? FLAG.NEED_REPLY : 0);
  }
}

const fdsOf = (regions: readonly RamRegion[]): number[] => regions.map(({ fd }) => fd);
