import { check, native } from '@cairn/native';
import { GuestMemory } from '../guest-memory.js';
import type { GuestRam } from './guest-ram.js';

const U32 = 2 ** 32;

/** The device's own linear mapping of a pretended guest's memory, as a back-end makes it from the regions' descriptors. */
export class DeviceMemory {
  readonly memory: GuestMemory;
  /** Each view that was made and not ended, with where it is. */
  readonly views: { gpa: number; lengthBytes: number }[] = [];
  private readonly buffers: ArrayBuffer[] = [];
  private readonly spanBytes: number;
  private readonly baseAddress: number;

  constructor(ram: GuestRam) {
    const end = Math.max(...ram.regions.map(({ gpa, sizeBytes }) => gpa + sizeBytes));
    this.spanBytes = Math.ceil(end / U32) * U32;
    this.baseAddress = check('reserve', native.reserve(this.spanBytes));
    for (const { gpa, sizeBytes, fd, mmapOffsetBytes } of ram.regions)
      check('mapFixed', native.mapFixed(this.baseAddress + gpa, sizeBytes, fd, mmapOffsetBytes));
    const view = (gpa: number, lengthBytes: number): ArrayBuffer => {
      const buffer = native.view(this.baseAddress + gpa, lengthBytes);
      this.buffers.push(buffer);
      this.views.push({ gpa, lengthBytes });
      return buffer;
    };
    this.memory = new GuestMemory({ baseAddress: this.baseAddress, view }, ram.regions);
  }

  /** Ends every view, then the mapping. */
  close(): void {
    for (const buffer of this.buffers.splice(0)) native.detach(buffer);
    check('unreserve', native.unreserve(this.baseAddress, this.spanBytes));
  }
}
