import { native } from '@cairn/native';

const ID_BYTES = 20; // VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6
const U32 = 2 ** 32;

/** What a disk answers to GET_ID: its serial, padded with zeroes. */
export class DeviceId {
  private readonly bytes = new Uint8Array(ID_BYTES);

  /** What is over 20 bytes of the serial is cut off. */
  constructor(serial: string) {
    this.bytes.set(new TextEncoder().encode(serial).subarray(0, ID_BYTES));
  }

  /** Writes as much of it as fits into a scatter list of `dataBytes` of mapped guest memory; returns how many bytes. */
  writeTo(list: Uint32Array, segments: number, dataBytes: number): number {
    const length = Math.min(ID_BYTES, dataBytes);
    for (let index = 0, done = 0; index < segments && done < length; index += 1) {
      const part = Math.min(list[index * 4 + 2]!, length - done);
      native.poke(list[index * 4 + 1]! * U32 + list[index * 4]!, this.bytes, done, part);
      done += part;
    }
    return length;
  }
}
