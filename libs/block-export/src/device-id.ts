import { native } from '@cairn/native';
import { BLK_STATUS } from '@cairn/virtio';
import type { BlkRing } from './blk-ring.js';
import type { ShardPort } from './shard-host.js';

const ID_BYTES = 20; // VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6
const U32 = 2 ** 32;

/** What a disk answers to GET_ID: its serial, padded with zeroes. */
export class DeviceId {
  private readonly bytes = new Uint8Array(ID_BYTES);

  /** What is over 20 bytes of the serial is cut off. */
  constructor(serial: string) {
    this.bytes.set(new TextEncoder().encode(serial).subarray(0, ID_BYTES));
  }

  /** Completes the request that `ring` has just taken with as much of it as fits. */
  answer(shard: Pick<ShardPort, 'host' | 'finish' | 'fault'>, ring: BlkRing, slot: number): void {
    const { slots } = shard.host;
    const { request } = ring;
    const list = slots.listFor(slot, request.segmentCount);
    if (!list) return shard.fault(slot, 'no-memory');
    const segments = request.writeSegments(ring.queue!.chain, list, 0);
    const { dataBytes } = request;
    const length = Math.min(ID_BYTES, dataBytes);
    for (let index = 0, done = 0; index < segments && done < length; index += 1) {
      const part = Math.min(list[index * 4 + 2]!, length - done);
      native.poke(list[index * 4 + 1]! * U32 + list[index * 4]!, this.bytes, done, part);
      done += part;
    }
    ring.log?.remember(slot, list, segments);
    slots.written[slot] = length + 1;
    return shard.finish(slot, BLK_STATUS.OK);
  }
}
